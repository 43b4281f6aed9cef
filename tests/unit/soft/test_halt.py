"""HLT: what must be seen at once when it ran as a step of its own, for the machine does not run a vCPU that sleeps."""

import pytest

from trapgate.arch.models import CpuModel
from trapgate.clock import HostClock
from trapgate.exits import DebugException, Exit, Halted
from trapgate.memory import Ram
from trapgate.soft.cpu import SoftVcpu
from trapgate.soft.exact.segments import put_segment
from trapgate.stencil.cache import Cache
from trapgate.stencil.library import Library, load_library

CODE, TF = 0x7C00, 1 << 8


@pytest.fixture(scope="module")
def library() -> Library:
    return load_library(Cache())


def at(library: Library, code: str) -> SoftVcpu:
    """A vCPU in real mode before these bytes, with interrupts disabled."""
    ram = Ram(1 << 20)
    ram.write(CODE, bytes.fromhex(code))
    vcpu = SoftVcpu(ram, CpuModel.parse("EPYC-Turin"), library, HostClock())
    put_segment(vcpu, "cs", 0, 0, 0xFFFF, 0x9B)
    put_segment(vcpu, "ss", 0, 0, 0xFFFF, 0x93)
    vcpu.set("rip", CODE)
    vcpu.set("rsp", 0x7000)
    vcpu.update_mode()
    return vcpu


def run(vcpu: SoftVcpu) -> Exit:
    exit_ = vcpu.run()
    assert not vcpu.in_step
    return exit_


def test_an_interrupt_that_waited_before_sti_wakes_hlt(library: Library) -> None:
    vcpu = at(library, "fbf4")  # sti; hlt
    vcpu.want_interrupt(True)
    assert run(vcpu) == Halted()
    assert vcpu.can_interrupt()
    vcpu.interrupt(0x20)
    assert vcpu.get("rip") == 0  # an empty interrupt vector table


def test_a_debugger_that_steps_hlt_leaves_it_asleep_and_ready_for_interrupts(library: Library) -> None:
    vcpu = at(library, "fbf4")
    vcpu.step(True)
    for _ in "sti", "hlt":
        assert run(vcpu) == DebugException(0x4000, 0, False, fault=False)
    vcpu.step(False)
    assert run(vcpu) == Halted()
    assert vcpu.can_interrupt()


def test_the_guests_own_single_step_wakes_hlt(library: Library) -> None:
    vcpu = at(library, "f4")
    vcpu.state.set_rflags(2 | TF)
    assert run(vcpu) == DebugException(0x4000, 0, False, fault=False)
    assert vcpu.get("rip") == CODE + 1
