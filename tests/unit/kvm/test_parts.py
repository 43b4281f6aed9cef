"""ioctl numbers, errors, CPUID, INT3 bytes, bus-lock operands."""

import ctypes
import errno

import pytest

from trapgate.arch.cpuid import Dynamic, leaf
from trapgate.arch.features import FEATURES
from trapgate.arch.models import CpuModel
from trapgate.kvm import abi, abi_chips, buslock, chips, cpuid
from trapgate.kvm.handles import System, Vm
from trapgate.kvm.ioctl import KvmError
from trapgate.kvm.memory import Planted
from trapgate.kvm.vcpu_handle import VcpuFd
from trapgate.memory import Ram
from unit.kvm.fake_kvm import FakeSystem, FakeVcpuFd


def test_ioctl_numbers() -> None:
    """As Linux's kvm.h gives them, structure sizes included."""
    assert (abi.GET_REGS, abi.SET_SREGS, abi.SET_GUEST_DEBUG) == (0x8090AE81, 0x4138AE84, 0x4048AE9B)
    assert (abi.SET_VCPU_EVENTS, abi.ENABLE_CAP, abi.GET_SUPPORTED_CPUID) == (0x4040AEA0, 0x4068AEA3, 0xC008AE05)
    assert (abi_chips.CREATE_IRQCHIP, abi_chips.IRQ_LINE, abi_chips.SET_GSI_ROUTING) == (0xAE60, 0x4008AE61, 0x4008AE6A)
    assert (abi_chips.GET_IRQCHIP, abi_chips.SET_IRQCHIP, abi_chips.SET_PIT2) == (0xC208AE62, 0x8208AE63, 0x4070AEA0)
    assert (abi_chips.GET_LAPIC, abi_chips.GET_MP_STATE, abi_chips.SET_CLOCK) == (0x8400AE8E, 0x8004AE98, 0x4030AE7B)
    assert (abi.SET_USER_MEMORY_REGION, abi.RUN, abi.SET_SIGNAL_MASK) == (0x4020AE46, 0xAE80, 0x4004AE8B)


def test_places_within_structures() -> None:
    assert abi.VcpuEvents.exception_payload.offset == 56
    assert abi.VcpuEvents.flags.offset == 20
    assert abi.Run.exit.offset == 32
    assert abi.ExitMmio.is_write.offset == 20
    assert ctypes.sizeof(abi.ExitUnion) == 256


def test_an_error_names_call_reason_and_remedy() -> None:
    assert str(KvmError("KVM_CREATE_VM", errno.ENOMEM)) == "KVM_CREATE_VM: Cannot allocate memory; " + (
        "the host is short of memory: give the guest less with --memory"
    )
    assert str(KvmError("KVM_NMI", errno.EINVAL)) == "KVM_NMI: Invalid argument"


def test_a_file_that_is_no_kvm_is_told(open_files: None) -> None:
    with pytest.raises(KvmError, match="KVM_GET_API_VERSION: Inappropriate ioctl for device; the host's kernel is too old"):
        System("/dev/null")


def test_a_call_that_fails_names_itself() -> None:
    vm = Vm.__new__(Vm)
    vm.descriptor = -1
    with pytest.raises(KvmError, match="KVM_SET_USER_MEMORY_REGION: Bad file descriptor"):
        vm.set_memory(0, 0, 4096, 0)


# --- CPUID


def host(*names: str) -> list[abi.CpuidEntry]:
    found: dict[tuple[int, int], abi.CpuidEntry] = {}
    for name in names:
        bit = FEATURES[name]
        entry = found.setdefault((bit.leaf, bit.subleaf), abi.CpuidEntry(bit.leaf, bit.subleaf))
        setattr(entry, bit.register, getattr(entry, bit.register) | 1 << bit.bit)
    return list(found.values())


def test_a_guest_gets_what_model_and_host_both_have() -> None:
    model, lost = cpuid.filter_model(
        CpuModel.parse("EPYC-Turin"),
        host("fpu", "fxsr", "sse", "sse2", "bus-lock-detect", "apic", "x2apic", "serialize"),
        apic=False,
    )
    assert {"fpu", "sse2", "bus-lock-detect", "hypervisor"} <= model.enabled
    assert not {"serialize", "x2apic", "tsc-deadline", "avx"} & model.enabled
    assert "bus-lock-detect" not in lost
    assert {"x2apic", "smep"} <= set(lost)


def test_every_leaf_is_the_models() -> None:
    model = CpuModel.parse("SapphireRapids")
    table = {(one.function, one.index): one for one in cpuid.entries(model, Dynamic(), tsc_known=False)}
    seven = table[7, 0]
    assert (seven.eax, seven.ebx, seven.ecx, seven.edx) == leaf(model, 7, 0, Dynamic())
    assert seven.flags == abi.CPUID_SIGNIFICANT_INDEX
    assert (0x15, 0) not in table
    assert len(table) <= abi.MAX_CPUID
    assert (0x15, 0) in {(one.function, one.index) for one in cpuid.entries(model, Dynamic(), tsc_known=True)}


def test_kvms_clock_is_announced_where_the_host_has_it() -> None:
    model = CpuModel.parse("EPYC-Turin")
    assert cpuid.clock_features([abi.CpuidEntry(0x40000001, 0, 0, 0x01007EFB)]) == 0x01000008
    assert cpuid.clock_features([abi.CpuidEntry(0x40000001, 0, 0, 0x01000001)]) == 0
    assert cpuid.clock_features([]) == 0
    for clock, signature in ((0x01000008, 0x4B4D564B), (0, 0x70617254)):  # "KVMK", "Trap"
        table = {one.function: one for one in cpuid.entries(model, Dynamic(), False, clock)}
        assert table[0x40000000].ebx == signature
        assert (0x40000001 in table) is bool(clock)
    bare = cpuid.entries(CpuModel.parse("EPYC-Turin,-hypervisor"), Dynamic(), False, 8)
    assert 0x40000001 not in {one.function for one in bare}


# --- INT3 bytes


def test_planted_bytes_come_back_and_a_guests_own_write_stays() -> None:
    ram = Ram(8192)
    ram.write(0x100, bytes(range(16)))
    where: dict[int, int | None] = {1: 0x101, 2: 0x102, 3: None, 4: 0x101}
    planted = Planted(ram, where.get)
    planted.want((1, 2, 3, 4))
    planted.plant(but=2)
    assert ram.read(0x100, 4) == b"\x00\xcc\x02\x03"
    assert planted.hide(0x100, ram.read(0x100, 4)) == b"\x00\x01\x02\x03"
    planted.plant()
    where[3] = 0x103  # mapped meanwhile
    planted.plant()
    assert ram.read(0x100, 4) == b"\x00\xcc\xcc\xcc"
    ram.write(0x102, b"\x77")  # the guest writes new code there
    assert planted.hide(0x100, ram.read(0x100, 4)) == b"\x00\x01\x77\x03"
    planted.lift()
    assert ram.read(0x100, 4) == b"\x00\x01\x77\x03"


def test_an_int3_of_the_guests_own_survives() -> None:
    ram = Ram(4096)
    ram.write(5, b"\xcc")
    planted = Planted(ram, lambda address: address)
    planted.want((5,))
    planted.plant()
    planted.lift()
    assert ram.read(5, 1) == b"\xcc"


# --- bus-lock operands

REGISTERS = {
    "rax": 0x1_0000_0010,
    "rbx": 3,
    "rdi": 0x5000,
    "r9": 1 << 40,
    "fs_base": 0x100000,
    "gs_base": 7,
    "ds_base": 0x20,
    "ss_base": 0x40,
}


@pytest.mark.parametrize(
    ("code", "bits", "address", "size"),
    [
        ("f0 ff 47 3d", 64, 0x503D, 4),  # LOCK INC DWORD [RDI+61]
        ("87 07", 64, 0x5000, 4),  # XCHG [RDI], EAX
        ("f0 64 48 0f b1 5c 9f fe", 64, 0x5000 + 12 - 2 + 0x100000, 8),  # LOCK CMPXCHG FS:[RDI+RBX*4-2], RBX
        ("f0 41 80 01 01", 64, 1 << 40, 1),  # LOCK ADD BYTE [R9], 1
        ("f0 ff 05 10 00 00 00", 64, 0x2000 + 7 + 0x10, 4),  # RIP-relative
        ("67 f0 ff 00", 64, 0x10, 4),  # [EAX] drops the upper half
        ("f0 ff 47 3d", 32, 0x505D, 4),  # DS base 20h
    ],
)
def test_operands(code: str, bits: int, address: int, size: int) -> None:
    raw = bytes.fromhex(code)
    memory = bytes(0x2000) + raw + b"\x90" * 32
    for find, at in ((buslock.instruction_at, 0x2000), (buslock.instruction_before, 0x2000 + len(raw))):
        found = find(lambda where, length: memory[where : where + length], at, at, bits)
        assert found is not None
        assert buslock.operand(found, REGISTERS.__getitem__) == buslock.Operand(0x2000, address, size)


def test_what_locks_nothing_is_not_found() -> None:
    memory = b"\x90" * 64
    assert buslock.instruction_at(lambda where, length: memory[where : where + length], 16, 16, 64) is None
    assert buslock.instruction_before(lambda where, length: memory[where : where + length], 32, 32, 64) is None


# --- interrupt controllers in the kernel


def test_lines_lead_where_ours_lead() -> None:
    routes = list(chips.routes())
    assert routes[:3] == [(0, 0, 0), (0, 2, 2), (1, 0, 1)]  # line 0: the master's input 0, and pin 2
    assert (2, 0, 2) not in routes  # the cascade
    assert (9, 1, 1) in routes
    assert (9, 2, 9) in routes
    assert [chip for gsi, chip, _ in routes if gsi == 23] == [2]


@pytest.mark.parametrize(
    ("host_lacks", "there"), [({}, True), ({abi_chips.CAP_PIT2: 0}, False), ({abi.CAP_SET_GUEST_DEBUG2: 3}, False)]
)
def test_they_are_used_where_steps_can_be_kept_free_of_interrupts(host_lacks: dict[int, int], there: bool) -> None:
    capabilities = dict.fromkeys(chips.NEEDED, 1) | {abi.CAP_SET_GUEST_DEBUG2: abi.DEBUG_BLOCK_IRQ | 3} | host_lacks
    assert chips.offered(FakeSystem("amd", capabilities, FakeVcpuFd())) is there  # type: ignore[arg-type]


def test_x2apic_comes_with_a_local_apic_in_the_kernel() -> None:
    offers = host("apic", "x2apic", "tsc-deadline")
    model, lost = cpuid.filter_model(CpuModel.parse("SapphireRapids"), offers, apic=True)
    assert {"x2apic", "tsc-deadline"} <= model.enabled
    assert not {"x2apic", "tsc-deadline"} & set(lost)


@pytest.mark.parametrize(("apic", "capability", "given"), [(True, 1, True), (True, 0, False), (False, 1, False)])
def test_the_deadline_timer_is_told_by_a_capability_not_by_cpuid(apic: bool, capability: int, given: bool) -> None:
    model, lost = cpuid.filter_model(CpuModel.parse("SapphireRapids"), host("apic", "x2apic"), apic=apic, deadline=bool(capability))
    assert model.has("tsc-deadline") is given
    assert ("tsc-deadline" in lost) is not given


def test_cpuid_is_as_long_as_it_was_told_though_an_old_kernel_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """KVM_GET_CPUID2 before Linux 6.3 leaves `nent` at the room that it was given."""
    fd = VcpuFd.__new__(VcpuFd)
    kept: list[abi.CpuidEntry] = []

    def call(name: str, number: int, room: abi.Cpuid) -> abi.Cpuid:
        if name == "SET_CPUID2":
            kept[:] = room.entries[: room.nent]
        else:
            assert room.nent >= len(kept)
            room.entries[: len(kept)] = kept
        return room

    monkeypatch.setattr(fd, "_with", call, raising=False)
    fd.set_cpuid([abi.CpuidEntry(0, 0, 0, 13), abi.CpuidEntry(1, 0, 0, 7)])
    assert [(one.function, one.eax) for one in fd.cpuid()] == [(0, 13), (1, 7)]
