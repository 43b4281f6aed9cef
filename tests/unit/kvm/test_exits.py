"""KVM_EXIT_DEBUG of invented hosts through the vCPU and the router: who gets what, and what is injected."""

from types import SimpleNamespace
from typing import Any

import pytest

from trapgate.arch.debugregs import DR6_BD, DR6_BLD, DR6_BS
from trapgate.arch.models import CpuModel
from trapgate.debug.router import Share, Verdict, route
from trapgate.exits import BusLock, DebugException, Halted, Interrupted, PortRead, PortWrite, SoftwareBreakpoint
from trapgate.kvm import abi, core
from trapgate.kvm.cpu import KvmVcpu
from trapgate.kvm.ioctl import KvmError
from trapgate.memory import Ram
from trapgate.vcpu import Breakpoint, Kind, Owner
from unit.kvm.fake_kvm import CODE, FakeSystem, FakeVcpuFd, debug_exit, vcpu

NONE = 0xFFFF0FF0
TF = 1 << 8
EXEC = Breakpoint(Owner.DEBUGGER, 5, Kind.EXEC, CODE + 8, 1)
VENDORS = pytest.mark.parametrize("vendor", ["amd", "intel"])
ANY = pytest.MonkeyPatch
LOCK_INC = bytes.fromhex("f0 ff 47 3d")  # LOCK INC DWORD PTR [RDI + 61]


def verdict(cpu: KvmVcpu, event: Any, stepping: bool = False) -> Verdict:
    assert isinstance(event, DebugException), event
    return route(event, cpu.armed(), cpu.guest_debug(), stepping)


def settled(cpu: KvmVcpu, fd: FakeVcpuFd, share: Share) -> abi.VcpuEvents:
    """The events that KVM is given when the guest's share is delivered and the guest entered."""
    seen: list[abi.VcpuEvents] = []

    def look(one: FakeVcpuFd) -> None:
        seen.append(one.events())
        one.shared.exit_reason = abi.EXIT_INTR

    cpu.deliver_debug(share.causes, share.hits, share.icebp)
    fd.script.append(look)
    assert cpu.run() == Interrupted()
    return seen[0]


# --- what the exit says


@VENDORS
def test_a_stepped_bus_lock_is_the_guests_all_the_same(vendor: str, monkeypatch: ANY) -> None:
    """AMD reports both bits; Intel loses one, and the operand tells."""
    cpu, fd = vcpu(monkeypatch, vendor, LOCK_INC + b"\x90" * 8, cpl=3)
    fd.msrs[0x1D9], fd.general.rdi = 4, 0x5000
    raw = 0xFFFF47F0 if vendor == "amd" else 0xFFFF4FF0
    fd.script.append(debug_exit(raw, CODE + 4))
    cpu.step(True)
    assert verdict(cpu, cpu.run(), True) == Verdict(Share(DR6_BS), Share(DR6_BLD))


@pytest.mark.parametrize(("debugctl", "cpl", "rdi"), [(0, 3, 0x5000), (4, 0, 0x5000), (4, 3, 0x5001 - 2 + 0x3D)])
def test_a_stepped_lock_that_is_no_bus_lock_is_none(debugctl: int, cpl: int, rdi: int, monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, "intel", LOCK_INC + b"\x90" * 8, cpl=cpl)
    fd.msrs[0x1D9], fd.general.rdi = debugctl, rdi
    fd.script.append(debug_exit(0xFFFF4FF0, CODE + 4))
    cpu.step(True)
    assert verdict(cpu, cpu.run(), True) == Verdict(Share(DR6_BS), Share())


@VENDORS
def test_a_debuggers_step_is_the_debuggers(vendor: str, monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, vendor)
    fd.script.append(debug_exit(0xFFFF4FF0, CODE + 1))
    cpu.step(True)
    assert verdict(cpu, cpu.run(), True) == Verdict(Share(DR6_BS), Share())


@VENDORS
def test_a_guests_step_and_the_debuggers_go_to_both(vendor: str, monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, vendor)
    fd.general.rflags |= TF
    fd.script.append(debug_exit(0xFFFF4FF0, CODE + 1, rflags=2))  # KVM hides TF while it steps
    cpu.step(True)
    assert verdict(cpu, cpu.run(), True) == Verdict(Share(DR6_BS), Share(DR6_BS))
    assert fd.general.rflags & TF  # the guest has its own back


def test_amd_reports_a_bus_lock_raw(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, "amd", cpl=3)
    fd.msrs[0x1D9] = 4
    cpu.arm([EXEC], [])
    fd.script.append(debug_exit(0xFFFF07F0, CODE + 4))
    got = verdict(cpu, cpu.run())
    assert got == Verdict(Share(), Share(DR6_BLD))
    events = settled(cpu, fd, got.guest)
    assert (events.exception_pending, events.exception_nr, events.exception_has_payload) == (1, 1, 1)
    assert (events.exception_payload, events.flags & abi.EVENT_VALID_PAYLOAD) == (0x800, 0x10)


def test_amd_merges_a_bus_lock_with_the_debuggers_step(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, "amd", cpl=3)
    fd.msrs[0x1D9] = 4
    fd.script.append(debug_exit(0xFFFF47F0, CODE + 4))
    cpu.step(True)
    assert verdict(cpu, cpu.run(), True) == Verdict(Share(DR6_BS), Share(DR6_BLD))


@pytest.mark.parametrize(("debugctl", "cpl", "byte", "guest"), [
    (4, 3, 0x90, Share(DR6_BLD)),
    (4, 0, 0x90, None),
    (0, 3, 0x90, None),
    (4, 3, 0xF1, Share(icebp=True)),
])  # fmt: skip
def test_intel_loses_bit_11_and_it_is_inferred(debugctl: int, cpl: int, byte: int, guest: Share | None, monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, "intel", bytes([0x90] * 4 + [byte] + [0x90] * 8), cpl=cpl)
    fd.msrs[0x1D9] = debugctl
    cpu.arm([EXEC], [])
    fd.script.append(debug_exit(NONE, CODE + 4))
    if guest is None:  # no cause that anybody armed: the guest goes on
        fd.script.append(lambda fd: setattr(fd.shared, "exit_reason", abi.EXIT_INTR))
        assert cpu.run() == Interrupted()
    else:
        assert verdict(cpu, cpu.run()).guest == guest


@VENDORS
def test_icebp_is_stepped_over_before_the_guest_gets_it(vendor: str, monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, vendor, b"\xf1" + b"\x90" * 8)
    cpu.arm([EXEC], [])
    fd.script.append(debug_exit(NONE, CODE))
    event = cpu.run()
    assert event == DebugException(0, 0, True, False)
    assert fd.general.rip == CODE + 1
    events = settled(cpu, fd, verdict(cpu, event).guest)
    assert (events.exception_pending, events.exception_nr, events.exception_payload) == (1, 1, 0)


def test_icebp_on_amd_may_be_behind_already(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, "amd", b"\xf1" + b"\x90" * 8)
    cpu.arm([EXEC], [])
    fd.script.append(debug_exit(NONE, CODE + 1))
    assert cpu.run() == DebugException(0, 0, True, False)
    assert fd.general.rip == CODE + 1


@VENDORS
def test_of_two_icebps_a_step_passes_one(vendor: str, monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, vendor, b"\xf1\xf1" + b"\x90" * 8)
    fd.script.append(debug_exit(NONE, CODE + 1 if vendor == "amd" else CODE))
    cpu.step(True)
    event = cpu.run()
    assert verdict(cpu, event, True) == Verdict(Share(DR6_BS), Share(icebp=True))
    assert fd.general.rip == CODE + 1


@VENDORS
def test_hits_are_told_by_the_list_of_armed_breakpoints(vendor: str, monkeypatch: ANY) -> None:
    """The guest's DR3 and the debugger's breakpoint share registers 0 and 1 of the real CPU."""
    cpu, fd = vcpu(monkeypatch, vendor)
    fd.debug.db[3], fd.debug.dr7 = 0x7000, 0x400 | 0x80 | 0xD << 28
    cpu.arm([Breakpoint(Owner.DEBUGGER, 5, Kind.WRITE, 0x7100, 1)], [])
    fd.script.append(debug_exit(NONE | 3, CODE + 8))
    got = verdict(cpu, cpu.run())
    assert (got.debugger.hits, got.guest.hits) == (1 << 5, 1 << 3)
    control, addresses, dr7 = fd.guest_debug[-1]
    assert control == abi.DEBUG_ENABLE | abi.DEBUG_HARDWARE
    assert (addresses[:2], dr7 & 0xFF) == ((0x7000, 0x7100), 0xA)
    assert settled(cpu, fd, got.guest).exception_payload == 8  # the guest sees its own number


@VENDORS
def test_a_bit_of_an_unused_register_says_nothing(vendor: str, monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, vendor)
    cpu.arm([EXEC], [])
    fd.script.append(debug_exit(NONE | 0xC, CODE + 4))
    fd.script.append(lambda fd: setattr(fd.shared, "exit_reason", abi.EXIT_INTR))
    assert cpu.run() == Interrupted()


@pytest.mark.parametrize("dr6", [0, NONE, 0xFFFF47F1, 0x4000])
@VENDORS
def test_a_breakpoint_exit_has_stale_dr6_and_it_is_not_read(vendor: str, dr6: int, monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, vendor, b"\x90\xcc" + b"\x90" * 8)
    breakpoints = [Breakpoint(Owner.DEBUGGER, n, Kind.EXEC, 0x7000 + n, 1) for n in range(4)]
    cpu.arm(breakpoints, [CODE + 4])
    fd.script.append(debug_exit(dr6, CODE + 4, exception=3))
    assert cpu.run() == SoftwareBreakpoint(CODE + 4)
    assert cpu.injection is None


@VENDORS
def test_a_guests_own_int3_goes_back_to_it(vendor: str, monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, vendor, b"\x90\xcc" + b"\x90" * 8)
    breakpoints = [Breakpoint(Owner.DEBUGGER, n, Kind.EXEC, 0x7000 + n, 1) for n in range(4)]
    cpu.arm(breakpoints, [CODE + 4])
    seen: list[abi.VcpuEvents] = []

    def look(one: FakeVcpuFd) -> None:
        seen.append(one.events())
        one.shared.exit_reason = abi.EXIT_INTR

    fd.script.extend((debug_exit(0xFFFF47F1, CODE + 1, exception=3), look))
    assert cpu.run() == Interrupted()
    assert (seen[0].exception_injected, seen[0].exception_nr, seen[0].exception_has_payload) == (1, 3, 0)


# --- without the payload


def test_an_old_host_gets_dr6_by_hand(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, payload=False)
    fd.debug.dr7 |= 1 << 13
    fd.msrs[0x1D9] = 7
    events = settled(cpu, fd, Share(DR6_BLD | DR6_BS, 2))
    assert (events.exception_injected, events.exception_pending, events.exception_nr) == (1, 0, 1)
    assert events.flags & abi.EVENT_VALID_PAYLOAD == 0
    assert (fd.debug.dr6, fd.debug.dr7) == (0xFFFF47F2, 0x400)  # GD cleared
    assert fd.msrs[0x1D9] == 4  # BTF and LBR cleared, bus-lock traps stay armed


# --- debug registers


@VENDORS
def test_a_guests_access_to_debug_registers_is_run_alone_and_shared_out_anew(vendor: str, monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, vendor, b"\x0f\x23\xf8" + b"\x90" * 8)  # MOV DR7, RAX
    cpu.arm([EXEC], [])
    controls = []

    def moves(one: FakeVcpuFd) -> None:
        controls.append(one.guest_debug[-1])
        one.debug.db[0], one.debug.dr7 = 0x7000, 0x402 | 0x10000
        debug_exit(0xFFFF4FF0, CODE + 3)(one)

    fd.script.extend((debug_exit(NONE | DR6_BD, CODE), moves, debug_exit(NONE | 1, CODE + 5)))
    got = verdict(cpu, cpu.run())
    assert got == Verdict(Share(), Share(0, 1))  # the guest's new breakpoint is alive at once
    control, _, dr7 = controls[0]
    assert control & abi.DEBUG_STEP
    assert not dr7 & 1 << 13  # without our detection the instruction could run
    assert fd.guest_debug[-1][2] & 1 << 13  # and with it again


@VENDORS
def test_general_detect_of_the_guest_is_the_guests(vendor: str, monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, vendor)
    fd.debug.dr7 |= 1 << 13
    cpu.arm([EXEC], [])
    fd.script.append(debug_exit(NONE | DR6_BD, CODE))
    event = cpu.run()
    assert verdict(cpu, event) == Verdict(Share(), Share(DR6_BD))
    assert event.fault  # type: ignore[union-attr]


# --- steps that KVM swallows or leaks


def test_a_step_over_in_is_finished_when_no_trap_comes(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, code=b"\xec" + b"\x90" * 8)  # IN AL, DX

    def port(one: FakeVcpuFd) -> None:
        one.shared.exit_reason = abi.EXIT_IO
        io = one.shared.exit.io
        io.direction, io.size, io.port, io.count, io.data_offset = 0, 1, 0x60, 1, 64
        one.general.rip = CODE + 1  # KVM completes it with the next entry, and `immediate_exit` says no more

    fd.script.append(port)
    cpu.step(True)
    assert cpu.run() == PortRead(0x60, 1)
    cpu.complete(0x5A)
    assert fd.io[64] == 0x5A
    assert verdict(cpu, cpu.run(), True) == Verdict(Share(DR6_BS), Share())


def test_repeated_outs_are_one_exit_each(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch)

    def port(one: FakeVcpuFd) -> None:
        one.shared.exit_reason = abi.EXIT_IO
        io = one.shared.exit.io
        io.direction, io.size, io.port, io.count, io.data_offset = 1, 2, 0x80, 3, 128
        one.io[128:134] = bytes(range(1, 7))

    fd.script.append(port)
    assert [cpu.run() for _ in range(3)] == [PortWrite(0x80, 2, value) for value in (0x0201, 0x0403, 0x0605)]


def test_the_pushed_tf_is_taken_out_again(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, code=b"\x9c" + b"\x90" * 8)  # PUSHFQ

    def pushes(one: FakeVcpuFd) -> None:
        cpu.ram.write_int(0x7FF8, 8, 0x302)
        debug_exit(0xFFFF4FF0, CODE + 1, rsp=0x7FF8)(one)

    fd.script.append(pushes)
    cpu.step(True)
    cpu.run()
    assert cpu.ram.read_int(0x7FF8, 8) == 0x202


def test_syscall_ends_on_its_entry_with_a_clean_r11(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, code=b"\x0f\x05" + b"\x90" * 8)
    fd.script.append(debug_exit(NONE | 1, 0x6000, r11=0x302))
    cpu.step(True)
    assert verdict(cpu, cpu.run(), True) == Verdict(Share(DR6_BS), Share())
    assert fd.guest_debug[0][1][0] == 0x6000  # a net was on LSTAR
    assert fd.general.r11 == 0x202


def test_popf_gives_the_guest_its_tf(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, code=b"\x9d" + b"\x90" * 8)
    cpu.ram.write_int(0x8000, 8, 0x302)
    fd.script.append(debug_exit(0xFFFF4FF0, CODE + 1, rsp=0x8008, rflags=0x202))
    cpu.step(True)
    assert verdict(cpu, cpu.run(), True) == Verdict(Share(DR6_BS), Share())  # not yet the guest's: TF was 0 before
    assert fd.general.rflags & TF


def test_btf_is_off_for_the_step_and_decides_the_guests_share(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch)
    fd.general.rflags |= TF
    fd.msrs[0x1D9] = 2
    during: list[int] = []

    def nop(one: FakeVcpuFd) -> None:
        during.append(one.msrs[0x1D9])
        debug_exit(0xFFFF4FF0, CODE + 1, rflags=2)(one)

    fd.script.append(nop)
    cpu.step(True)
    assert verdict(cpu, cpu.run(), True) == Verdict(Share(DR6_BS), Share())  # a NOP is no branch
    assert (during, fd.msrs[0x1D9]) == ([0], 2)


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


# --- HLT


@pytest.mark.parametrize("tf", [False, True])
def test_a_stepped_hlt_is_done_by_hand(tf: bool, monkeypatch: ANY) -> None:
    """Of a stepped HLT hosts tell the step or the HLT, so none is asked; the guest's own single step wakes it."""
    cpu, fd = vcpu(monkeypatch, code=b"\xf4" + b"\x90" * 8)
    fd.general.rflags |= 0x200 | (TF if tf else 0)
    fd.state.interrupt_shadow = 1
    cpu.step(True)
    event = cpu.run()
    if tf:
        assert verdict(cpu, event, True) == Verdict(Share(DR6_BS), Share(DR6_BS))
    else:
        assert event == Halted()
        assert cpu.can_interrupt()
    assert (fd.general.rip, fd.state.interrupt_shadow) == (CODE + 1, 0)


def test_a_guests_breakpoint_on_hlt_comes_first(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, code=b"\xf4" + b"\x90" * 8)
    fd.debug.db[0], fd.debug.dr7 = CODE, 0x402
    fd.script.append(debug_exit(NONE | 1, CODE))
    cpu.step(True)
    event = cpu.run()
    assert isinstance(event, DebugException)
    assert (event.hits, event.fault, fd.general.rip) == (1, True, CODE)


def test_hlt_of_a_user_program_faults_as_any_instruction(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, code=b"\xf4" + b"\x90" * 8, cpl=3)
    fd.script.append(debug_exit(NONE | 2, 0x6000 + 16 * 13, rsp=0x7000))  # the net on #GP
    cpu.step(True)
    assert verdict(cpu, cpu.run(), True) == Verdict(Share(DR6_BS), Share())
    assert fd.general.rip == 0x6000 + 16 * 13


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
