"""The TLB of a vCPU that has just been made: no entry of it may answer for any page, page 0 included."""

import pytest

from trapgate.arch.models import CpuModel
from trapgate.clock import HostClock
from trapgate.exits import BusLock, Halted
from trapgate.isa import state as s
from trapgate.memory import Ram
from trapgate.soft.cpu import SoftVcpu
from trapgate.soft.exact.segments import put_segment
from trapgate.stencil.cache import Cache
from trapgate.stencil.library import load_library

CODE = 0x7C00


@pytest.fixture
def vcpu() -> SoftVcpu:
    """In real mode; the code comes from each test."""
    vcpu = SoftVcpu(Ram(1 << 20), CpuModel.parse("EPYC-Turin"), load_library(Cache()), HostClock())
    for name in ("cs", "ds", "ss"):
        put_segment(vcpu, name, 0, 0, 0xFFFF, 0x9B if name == "cs" else 0x93)
    vcpu.set("rip", CODE)
    vcpu.update_mode()
    return vcpu


def test_every_entry_starts_invalid(vcpu: SoftVcpu) -> None:
    tags = {bytes(vcpu.state.tlb[at : at + 8]) for at in range(0, len(vcpu.state.tlb), 32)}
    assert tags == {s.TLB_INVALID.to_bytes(8, "little")}


def test_the_first_access_of_all_may_be_to_page_0(vcpu: SoftVcpu) -> None:
    vcpu.ram.write(0, b"\x34\x12")
    vcpu.ram.write(CODE, bytes.fromhex("a10000a30200f4"))  # mov ax, [0]; mov [2], ax; hlt
    assert vcpu.run() == Halted()
    assert vcpu.ram.read(0, 4) == b"\x34\x12\x34\x12"


@pytest.mark.parametrize("disabled", [False, True])
def test_with_caches_disabled_a_lock_inside_a_line_locks_the_bus(vcpu: SoftVcpu, disabled: bool) -> None:
    """CR0.CD makes all memory uncached: APM vol. 2, 7.6.2; SDM vol. 3, 12.5.3."""
    vcpu.set("cr0", vcpu.get("cr0") & ~(1 << 30) | disabled << 30)
    vcpu.state.bus_lock_report = 1
    vcpu.ram.write(CODE, bytes.fromhex("f0ff060020f4"))  # lock inc word [2000h]; hlt
    first = vcpu.run()
    assert isinstance(first, BusLock) is disabled
    assert (vcpu.run() if disabled else first) == Halted()
    assert vcpu.ram.read_int(0x2000, 2) == 1
