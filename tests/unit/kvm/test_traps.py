"""Traps behind an instruction on invented hosts: what KVM reports beside them, what it does not report at all, TF that it hides."""

import copy

import pytest

from trapgate.arch.debugregs import DR6_BS, dr7_fields
from trapgate.arch.flags import RF, TF
from trapgate.debug.router import Share, Verdict
from trapgate.exits import Exit, Interrupted, PortRead, PortWrite
from trapgate.kvm import abi
from trapgate.kvm.cpu import KvmVcpu
from trapgate.vcpu import Breakpoint, Kind, Owner
from unit.kvm.fake_kvm import CODE, Entry, FakeVcpuFd, debug_exit, vcpu
from unit.kvm.sharing import VENDORS, verdict

ANY = pytest.MonkeyPatch
NONE, BS = 0xFFFF0FF0, 0xFFFF4FF0
PORT = 0x80
IO = dr7_fields(2, 2, 1)  # the guest's DR2 is on a port


def own(fd: FakeVcpuFd, n: int, kind: Kind, address: int) -> None:
    """The guest arms one of its own."""
    fd.debug.db[n] = address
    fd.debug.dr7 |= dr7_fields(n, kind.value, 1)
    fd.system.cr4 |= 8


# --- an execution breakpoint on the next instruction is no part of the trap behind the last one


def delivered(cpu: KvmVcpu, fd: FakeVcpuFd, share: Share) -> FakeVcpuFd:
    """The host as it is when the guest is entered with its share."""
    seen: list[FakeVcpuFd] = []

    def look(one: FakeVcpuFd) -> None:
        seen.append(copy.copy(one))
        one.shared.exit_reason = abi.EXIT_INTR

    cpu.deliver_debug(share.causes, share.hits, share.icebp)
    fd.script.append(look)
    assert cpu.run() == Interrupted()
    return seen[0]


@VENDORS
@pytest.mark.parametrize("flags", [2, 2 | RF])
def test_a_step_onto_the_guests_own_breakpoint(vendor: str, flags: int, monkeypatch: ANY) -> None:
    """With RF it never comes, so to deliver it there would loop for ever."""
    cpu, fd = vcpu(monkeypatch, vendor)
    own(fd, 0, Kind.EXEC, CODE + 1)
    fd.script.append(debug_exit(BS | 1, CODE + 1, rflags=flags))
    cpu.step(True)
    assert verdict(cpu, cpu.run(), True) == Verdict(Share(DR6_BS), Share())
    assert fd.general.rip == CODE + 1
    assert fd.general.rflags == flags


def test_a_step_onto_the_debuggers_breakpoint_is_a_step(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch)
    cpu.arm([Breakpoint(Owner.DEBUGGER, 5, Kind.EXEC, CODE + 1, 1)], [])
    fd.script.append(debug_exit(BS | 1, CODE + 1))
    cpu.step(True)
    assert verdict(cpu, cpu.run(), True) == Verdict(Share(DR6_BS), Share())


@pytest.mark.parametrize("trap", [BS, NONE | 2], ids=["step", "data"])
def test_the_guests_trap_in_front_of_a_breakpoint_comes_alone(trap: int, monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch)
    own(fd, 0, Kind.EXEC, CODE + 1)
    own(fd, 1, Kind.WRITE, 0x5000)
    cpu.arm([Breakpoint(Owner.DEBUGGER, 5, Kind.EXEC, CODE + 1, 1)], [])
    fd.script.append(debug_exit(trap | 1, CODE + 1))
    expected = Share(DR6_BS) if trap == BS else Share(0, 2)
    assert verdict(cpu, cpu.run()) == Verdict(Share(), expected)


def test_the_breakpoint_itself_comes_next(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch)
    own(fd, 0, Kind.EXEC, CODE + 1)
    cpu.arm([Breakpoint(Owner.DEBUGGER, 5, Kind.EXEC, CODE + 1, 1)], [])
    fd.script.append(debug_exit(NONE | 1, CODE + 1))
    got = verdict(cpu, cpu.run())
    assert got == Verdict(Share(0, 1 << 5), Share(0, 1))
    assert not delivered(cpu, fd, got.guest).general.rflags & RF  # SDM vol. 3, 18.3.1.1: an instruction breakpoint pushes RF = 0


def test_under_rf_the_guests_own_breakpoint_is_none(monkeypatch: ANY) -> None:
    """KVM looks for breakpoints before it emulates an instruction, and not at RF: it runs alone, without them."""
    cpu, fd = vcpu(monkeypatch)
    own(fd, 0, Kind.EXEC, CODE)
    cpu.arm([Breakpoint(Owner.DEBUGGER, 5, Kind.EXEC, CODE + 0x100, 1)], [])

    def through(one: FakeVcpuFd) -> None:
        assert CODE not in one.guest_debug[-1][1]
        debug_exit(BS, CODE + 1)(one)

    def armed_again(one: FakeVcpuFd) -> None:
        assert CODE in one.guest_debug[-1][1]
        one.shared.exit_reason = abi.EXIT_INTR

    fd.script += [debug_exit(NONE | 1, CODE, rflags=2 | RF), through, armed_again]
    assert cpu.run() == Interrupted()


def test_under_rf_a_step_leaves_the_guests_own_breakpoint_out(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch)
    own(fd, 0, Kind.EXEC, CODE)
    fd.general.rflags |= RF

    def through(one: FakeVcpuFd) -> None:
        assert CODE not in one.guest_debug[-1][1]
        debug_exit(BS, CODE + 1)(one)

    fd.script.append(through)
    cpu.step(True)
    assert verdict(cpu, cpu.run(), True) == Verdict(Share(DR6_BS), Share())


def test_under_rf_the_debuggers_breakpoint_still_stops(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch)
    own(fd, 0, Kind.EXEC, CODE)
    cpu.arm([Breakpoint(Owner.DEBUGGER, 5, Kind.EXEC, CODE, 1)], [])
    fd.script.append(debug_exit(NONE | 1, CODE, rflags=2 | RF))
    assert verdict(cpu, cpu.run()) == Verdict(Share(0, 1 << 5), Share())


# --- what KVM still has to deliver when a kick has ended its run


@pytest.mark.parametrize("asked", [False, True])
def test_an_exception_of_kvms_own_comes_before_the_step(asked: bool, monkeypatch: ANY) -> None:
    """The guest's single-step trap, say: a step begun before it ends nowhere, and sets TF where the handler has cleared it."""
    cpu, fd = vcpu(monkeypatch)
    fd.general.rflags |= TF
    fd.state.exception_pending, fd.state.exception_nr = 1, 1
    handler = 0x6000 + 16

    def caught(one: FakeVcpuFd) -> None:
        assert handler in one.guest_debug[-1][1]
        one.state.exception_pending = 0
        debug_exit(NONE | 1, handler, rflags=2)(one)

    fd.script += [caught, debug_exit(BS, handler + 1)]
    if asked:
        cpu.step(True)
    else:
        cpu.resume_over()
        fd.script.append(lambda one: setattr(one.shared, "exit_reason", abi.EXIT_INTR))
    event = cpu.run()
    assert fd.general.rip == handler + 1
    assert not fd.general.rflags & TF
    if asked:
        assert verdict(cpu, event, True) == Verdict(Share(DR6_BS), Share())
    else:
        assert event == Interrupted()


# --- breakpoints on ports: KVM intercepts IN and OUT, and no CPU looks


def out(length: int = 1, count: int = 1) -> Entry:
    """An exit at OUT PORT, AL."""

    def play(fd: FakeVcpuFd) -> None:
        fd.shared.exit_reason = abi.EXIT_IO
        io = fd.shared.exit.io
        io.direction, io.size, io.port, io.data_offset, io.count = 1, 1, PORT, 0, count

    return play


def through(fd: FakeVcpuFd, *, trap: bool = False) -> None:
    """KVM completes it when it is entered next, and raises the guest's own trap."""

    def completed() -> bool:
        fd.general.rip = CODE + 2
        if trap:
            fd.state.exception_pending, fd.state.exception_nr, fd.state.exception_has_payload = 1, 1, 1
            fd.state.exception_payload = DR6_BS
        del fd.run
        return fd.run()

    fd.run = completed  # type: ignore[method-assign]


def after_out(cpu: KvmVcpu, fd: FakeVcpuFd, trap: bool = False) -> Exit:
    """What follows an OUT that has been told."""
    fd.script.append(out())
    assert cpu.run() == PortWrite(PORT, 1, 0)
    through(fd, trap=trap)
    fd.script.append(lambda one: setattr(one.shared, "exit_reason", abi.EXIT_INTR))
    return cpu.run()


def behind_out(cpu: KvmVcpu, fd: FakeVcpuFd, rcx: int) -> None:
    """An iteration of REP OUTSB has been told and completed; KVM stays on the instruction, the last time as well."""
    fd.general.rcx = rcx + 1
    fd.script.append(out())
    assert cpu.run() == PortWrite(PORT, 1, 0)

    def completed() -> bool:
        fd.general.rcx = rcx
        del fd.run
        return False

    fd.run = completed  # type: ignore[method-assign]


@VENDORS
@pytest.mark.parametrize("tf", [False, True])
def test_a_breakpoint_on_a_port_traps_behind_the_instruction(vendor: str, tf: bool, monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, vendor, b"\xe6\x80" + b"\x90" * 8)
    own(fd, 2, Kind.IO, PORT)
    event = after_out(cpu, fd, trap=tf)
    assert verdict(cpu, event) == Verdict(Share(), Share(DR6_BS if tf else 0, 4))
    assert fd.general.rip == CODE + 2
    assert not fd.state.exception_pending  # it comes with ours


@VENDORS
@pytest.mark.parametrize("matched", [0, 1])
def test_a_host_that_tells_of_the_guests_own_step_behind_out(vendor: str, matched: int, monkeypatch: ANY) -> None:
    """Beside hardware breakpoints of the debugger's, Linux 7.3 does, where others queue it: it is one trap with the port's."""
    cpu, fd = vcpu(monkeypatch, vendor, b"\xe6\x80" + b"\x90" * 8)
    own(fd, 2, Kind.IO, PORT)
    cpu.arm([Breakpoint(Owner.DEBUGGER, 5, Kind.EXEC, CODE + 2, 1)], [])
    fd.script.append(out())
    assert cpu.run() == PortWrite(PORT, 1, 0)

    def completed() -> bool:
        debug_exit(BS | matched << 1, CODE + 2, rflags=2 | TF)(fd)  # DR1 is the debugger's, on the next instruction
        del fd.run
        return True

    fd.run = completed  # type: ignore[method-assign]
    assert verdict(cpu, cpu.run()) == Verdict(Share(), Share(DR6_BS, 4))


@pytest.mark.parametrize("change", [{"port": PORT + 1}, {"de": False}, {"kind": Kind.WRITE}])
def test_no_breakpoint_on_this_port(change: dict[str, object], monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, code=b"\xe6\x80" + b"\x90" * 8)
    kind, port = change.get("kind", Kind.IO), change.get("port", PORT)
    assert isinstance(kind, Kind)
    assert isinstance(port, int)
    own(fd, 2, kind, port)
    if "de" in change:
        fd.system.cr4 &= ~8
    assert after_out(cpu, fd) == Interrupted()


def test_a_stepped_out_has_both(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, code=b"\xe6\x80" + b"\x90" * 8)
    own(fd, 2, Kind.IO, PORT)
    cpu.step(True)
    fd.script.append(out())
    assert cpu.run() == PortWrite(PORT, 1, 0)
    through(fd)
    assert verdict(cpu, cpu.run(), True) == Verdict(Share(DR6_BS), Share(0, 4))


@pytest.mark.parametrize(("left", "place", "flag"), [(2, CODE, RF), (1 << 32, CODE, RF), (0, CODE + 2, 0)])
def test_the_trap_amid_a_repeated_out_pushes_rf(left: int, place: int, flag: int, monkeypatch: ANY) -> None:
    """SDM vol. 3, 18.3.1.1; behind the last iteration it does not, and RIP is behind the instruction."""
    cpu, fd = vcpu(monkeypatch, code=b"\xf3\x6e" + b"\x90" * 8)
    own(fd, 2, Kind.IO, PORT)
    behind_out(cpu, fd, left)
    got = verdict(cpu, cpu.run()).guest
    assert got == Share(0, 4)
    host = delivered(cpu, fd, got).general
    assert (host.rip, host.rflags & RF) == (place, flag)


@pytest.mark.parametrize(("code", "left", "place"), [("f36e", 2, CODE), ("f36e", 0, CODE + 2), ("67f36e", 1 << 32, CODE + 3)])
def test_a_step_of_a_repeated_out_is_one_iteration(code: str, left: int, place: int, monkeypatch: ANY) -> None:
    """KVM does not return to its emulator to see the trap. The count is as wide as the address."""
    cpu, fd = vcpu(monkeypatch, code=bytes.fromhex(code) + b"\x90" * 8)
    cpu.step(True)
    behind_out(cpu, fd, left)
    assert verdict(cpu, cpu.run(), True) == Verdict(Share(DR6_BS), Share())
    assert fd.general.rip == place


def test_somebody_who_moves_rip_calls_the_trap_off(monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, code=b"\xe6\x80" + b"\x90" * 8)
    own(fd, 2, Kind.IO, PORT)
    fd.script.append(out())
    assert cpu.run() == PortWrite(PORT, 1, 0)
    through(fd)
    cpu.set("rip", CODE + 8)
    fd.script.append(lambda one: setattr(one.shared, "exit_reason", abi.EXIT_INTR))
    assert cpu.run() == Interrupted()


# --- TF while a step is under way


@pytest.mark.parametrize("tf", [0, TF])
def test_sysret_traps_by_the_tf_that_it_brings(tf: int, monkeypatch: ANY) -> None:
    cpu, fd = vcpu(monkeypatch, code=b"\x48\x0f\x07" + b"\x90" * 8)
    fd.general.r11 = 2 | tf
    fd.script.append(debug_exit(BS, CODE + 0x100))
    cpu.step(True)
    assert verdict(cpu, cpu.run(), True) == Verdict(Share(DR6_BS), Share(DR6_BS if tf else 0))
    assert fd.general.rflags & TF == tf


@pytest.mark.parametrize("tf", [0, TF])
def test_who_looks_amid_a_step_sees_the_guests_own_tf(tf: int, monkeypatch: ANY) -> None:
    """As whoever answers an IN does; KVM shows none while it steps."""
    cpu, fd = vcpu(monkeypatch, code=b"\xe4\x80" + b"\x90" * 8)
    fd.general.rflags |= tf

    def reading(one: FakeVcpuFd) -> None:
        one.general.rflags &= ~TF
        out()(one)
        one.shared.exit.io.direction = 0

    fd.script.append(reading)
    cpu.step(True)
    assert cpu.run() == PortRead(PORT, 1)
    assert cpu.get("rflags") & TF == tf
    cpu.complete(0)
    through(fd)
    assert cpu.get("rflags") & TF == tf
