"""KVM_EXIT_DEBUG of invented hosts through the vCPU and the router: who gets what, and what is injected."""

import pytest

from trapgate.arch.debugregs import DR6_BLD, DR6_BS
from trapgate.debug.router import Share, Verdict
from trapgate.exits import DebugException, Interrupted, SoftwareBreakpoint
from trapgate.kvm import abi
from trapgate.vcpu import Breakpoint, Kind, Owner
from unit.kvm.fake_kvm import CODE, FakeVcpuFd, debug_exit, vcpu
from unit.kvm.sharing import ANY, EXEC, LOCK_INC, NONE, TF, VENDORS, settled, verdict

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
