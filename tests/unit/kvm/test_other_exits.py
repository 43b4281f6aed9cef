"""Exits of invented hosts that are no debug exceptions, and hosts that lack something."""

from types import SimpleNamespace

import pytest

from trapgate.arch.models import CpuModel
from trapgate.exits import BusLock, DebugException, Interrupted, Shutdown, SoftwareBreakpoint
from trapgate.kvm import abi, core
from trapgate.kvm.ioctl import KvmError
from trapgate.memory import Ram
from trapgate.vcpu import Breakpoint, Kind, Owner
from unit.kvm.fake_kvm import CODE, FakeSystem, FakeVcpuFd, vcpu
from unit.kvm.sharing import ANY, LOCK_INC, VENDORS

# --- bus-lock exits


@pytest.mark.parametrize(("vendor", "rip"), [("amd", CODE), ("intel", CODE + 4)])
@pytest.mark.parametrize("as_flag", [False, True])
def test_a_bus_lock_exit_names_the_instruction_and_its_operand(vendor: str, rip: int, as_flag: bool, monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, vendor, LOCK_INC + b"\x90" * 8, bus_locks=True, cpl=3)

    def locks(one: FakeVcpuFd) -> None:
        one.general.rip, one.general.rdi = rip, 0x5000
        one.shared.exit_reason = abi.EXIT_INTR if as_flag else abi.EXIT_BUS_LOCK
        one.shared.flags = abi.RUN_BUS_LOCK

    fd.script.append(locks)
    assert cpu.run() == BusLock(CODE, 0x503D, 4, 3)
    if as_flag:  # the exit itself is not lost
        assert cpu.run() == Interrupted()


@pytest.mark.parametrize("reset", [False, True])
def test_a_triple_fault_tells_the_state_that_is_left(reset: bool, monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch)

    def dies(one: FakeVcpuFd) -> None:
        one.shared.exit_reason = abi.EXIT_SHUTDOWN
        if reset:
            one.general.rip, one.system.cs.base = 0xFFF0, 0xFFFF_0000

    fd.script.append(dies)
    end = cpu.run()
    assert isinstance(end, Shutdown)
    assert (f"RIP {CODE:#x}" in end.story) is not reset
    assert ("does not tell where" in end.story) is reset
    assert cpu.run() is end


def test_a_host_that_lacks_what_is_needed_is_told(monkeypatch: ANY) -> None:
    monkeypatch.setattr(core, "NEEDED", {"KVM_CAP_OF_TOMORROW": 9999})
    monkeypatch.setattr(core, "System", lambda: FakeSystem("amd", {}, FakeVcpuFd()))
    with pytest.raises(
        KvmError, match="this host's KVM lacks KVM_CAP_OF_TOMORROW; the host's kernel is too old for it: use --engine soft"
    ):
        core.Core(Ram(4096), CpuModel.parse("EPYC-Turin"), None)


def test_the_capabilities_are_switched_on(monkeypatch: ANY) -> None:
    cpu, _ = vcpu(monkeypatch, bus_locks=True)
    assert set(cpu.vm.enabled) == {(abi.CAP_EXCEPTION_PAYLOAD, 1), (abi.CAP_BUS_LOCK_EXIT, 2)}  # type: ignore[attr-defined]


# --- a KVM that emulates, and does not know every instruction


def give_up(fd: FakeVcpuFd) -> None:
    fd.shared.exit_reason = abi.EXIT_INTERNAL_ERROR
    fd.shared.exit.internal.suberror = abi.INTERNAL_ERROR_EMULATION


@VENDORS
def test_int3_that_kvm_gives_up_on_is_the_guests_breakpoint(vendor: str, monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, vendor, b"\xcc" + b"\x90" * 8)
    fd.script.append(give_up)
    seen: list[tuple[int, int, int]] = []

    def look(one: FakeVcpuFd) -> None:
        seen.append((one.state.exception_injected, one.state.exception_nr, one.general.rip))
        one.shared.exit_reason = abi.EXIT_INTR

    fd.script.append(look)
    assert cpu.run() == Interrupted()
    assert seen == [(1, 3, CODE + 1)]


def test_int3_of_the_debuggers_that_kvm_gives_up_on_is_the_debuggers(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch)
    cpu.arm([Breakpoint(Owner.DEBUGGER, n, Kind.EXEC, CODE + 16 + n, 1) for n in range(4)], [CODE + 2])
    fd.script.append(lambda one: (setattr(one.general, "rip", CODE + 2), give_up(one))[1])
    assert cpu.run() == SoftwareBreakpoint(CODE + 2)


def test_int1_that_kvm_gives_up_on_is_icebp(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, code=b"\xf1" + b"\x90" * 8)
    fd.script.append(give_up)
    assert cpu.run() == DebugException(0, 0, True, False)
    assert fd.general.rip == CODE + 1


def test_any_other_instruction_ends_the_run_in_one_line(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, code=b"\x0f\x0b" + b"\x90" * 8)
    fd.script.append(give_up)
    with pytest.raises(KvmError, match=r"gave up at RIP 0x2000, bytes 0f 0b .*: it cannot emulate an instruction"):
        cpu.run()


# --- clocks


def test_kvmclock_is_set_back_by_each_stop_once(monkeypatch: ANY) -> None:
    """Also where the machine returns from a resume without having entered the guest."""

    class Clock:
        time = 0

        def stood(self) -> int:
            return self.time

    cpu, fd = vcpu(monkeypatch)
    clock, moments = Clock(), [1000]
    cpu.clock = clock  # type: ignore[assignment]
    monkeypatch.setattr(fd, "clock_paused", lambda: True, raising=False)
    monkeypatch.setattr(cpu.vm, "clock", lambda: SimpleNamespace(clock=moments[-1]), raising=False)
    monkeypatch.setattr(cpu.vm, "set_clock", moments.append, raising=False)
    for clock.time in (100, 150, 150):
        cpu.step(False)
    assert moments == [1000, 900, 850, 850]
