"""What the table has no row for: HLT, kicks and clocks amid steps, many watchpoints, real mode, a debugger's own stops."""

import pytest

from programs.debug.cases import BLD, DB, NONE, PF, arm
from programs.debug.harness import CASE, DATA, PT, RF, TF, Armed, Guest, handler
from trapgate.build import make_machine
from trapgate.machine import ClockKind, MachineConfig
from trapgate.stops import BreakpointHit, ExitKind, MachineExit, Paused, SoftwareHit, StepDone
from trapgate.vcpu import Breakpoint, Kind, Owner

WRITE = 1


def ours(*wanted: tuple[Kind, int, int]) -> list[Breakpoint]:
    return [Breakpoint(Owner.DEBUGGER, n, *one) for n, one in enumerate(wanted)]


def test_a_single_step_wakes_a_halted_cpu() -> None:
    """SDM vol. 2, HLT: a debug exception resumes execution; RIP is behind HLT."""
    guest = Guest("hlt\nnop", Armed(ring=0, tf=True))
    guest.run()
    assert [(one.vector, one.dr6, one.rip) for one in guest.log[:-1]] == [(DB, 0xFFFF4FF0, guest.starts[1])]


def test_a_debuggers_step_does_not() -> None:
    guest = Guest("hlt\nnop", Armed(ring=0))
    while guest.vcpu.get("rip") != CASE:
        assert guest.machine.resume(step=True) == StepDone()
    assert guest.machine.resume(step=True) == StepDone()
    assert guest.vcpu.get("rip") == CASE + 1
    end = guest.machine.resume()
    assert isinstance(end, MachineExit)
    assert end.kind is ExitKind.DEAD  # halted with interrupts disabled, as without a debugger


def test_both_owners_on_one_instruction_stop_once_each_on_it() -> None:
    guest = Guest("nop\nnop", Armed((CASE,), arm(0, 0), flags=1))
    guest.vcpu.arm(ours((Kind.EXEC, CASE, 1)), ())
    first = guest.machine.resume()
    assert isinstance(first, BreakpointHit)
    assert (guest.vcpu.get("rip"), guest.log) == (CASE, [])  # not in the guest's handler
    assert isinstance(guest.machine.resume(), MachineExit)
    assert [one.dr6 for one in guest.log] == [NONE | 1, NONE]


@pytest.mark.parametrize("software", [False, True], ids=["hbreak", "break"])
def test_a_breakpoint_stops_once_for_an_instruction_that_faults_and_starts_again(software: bool) -> None:
    """RF = 1 in the frame tells the restart from the next time round (SDM vol. 3, 18.3.1.1); the handler maps the page."""
    guest = Guest("mov edi, 0x50000\n1: mov eax, [rdi]\nnop\nloop 1b\nnop", Armed(rcx=2), resume_at=1)
    places = (guest.starts[1], guest.starts[2], handler(PF))
    guest.vcpu.arm(() if software else ours(*((Kind.EXEC, at, 1) for at in places)), places if software else ())
    seen = []
    for _ in range(5):
        assert type(guest.machine.resume()) is (SoftwareHit if software else BreakpointHit)
        seen.append(guest.vcpu.get("rip"))
        if seen[-1] == handler(PF):
            guest.machine.ram.write_int(PT + 8 * 0x50, 8, 0x50007)
    load, following, fault = places
    assert seen == [load, fault, following, load, following]
    assert guest.run() == []
    assert [one.vector for one in guest.log[:-1]] == [PF]


def test_the_guests_own_rf_hides_nothing_from_the_debugger() -> None:
    guest = Guest("nop\nnop", Armed((CASE,), arm(0, 0), rflags=RF))
    guest.vcpu.arm(ours((Kind.EXEC, CASE, 1)), ())
    assert isinstance(guest.machine.resume(), BreakpointHit)
    assert guest.run() == []
    assert [one.dr6 for one in guest.log] == [NONE]


def test_a_step_from_there_delivers_the_guests_own() -> None:
    guest = Guest("lock inc dword ptr [rdi+61]\nnop", Armed(debugctl=4))
    guest.vcpu.arm(ours((Kind.WRITE, DATA + 62, 1)), ())
    assert isinstance(guest.machine.resume(), BreakpointHit)
    assert guest.vcpu.get("rip") == guest.starts[1]
    assert guest.vcpu.get("dr6") == NONE
    assert guest.machine.resume(step=True) == StepDone()
    assert guest.vcpu.get("dr6") == BLD
    assert guest.vcpu.get("cs") & 3 == 0
    guest.run()
    assert [one.dr6 for one in guest.log] == [BLD, NONE]


def test_a_kick_before_every_step_loses_none() -> None:
    """A kick that comes between the decision to step and the instruction leaves the block's head with nothing done."""
    guest = Guest("nop\nnop\nnop", Armed(tf=True, flags=0))
    go, vcpu = guest.vcpu._go, guest.vcpu

    def kicked(code: int) -> object:
        if vcpu.in_step and vcpu._kick_once:  # type: ignore[attr-defined]
            vcpu._kick_once = False  # type: ignore[attr-defined]
            vcpu.kick()
        else:
            vcpu._kick_once = True  # type: ignore[attr-defined]
        return go(code)

    vcpu._kick_once = True  # type: ignore[attr-defined]
    vcpu._go = kicked  # type: ignore[assignment, method-assign]
    guest.run()
    assert [one.rip for one in guest.log] == [CASE + 1, CASE + 2, CASE + 3, CASE + 5]


def test_many_watchpoints_tell_which() -> None:
    guest = Guest("mov byte ptr [rdi+99], 1\nnop", Armed())
    points = ours(*((Kind.WRITE, DATA + n, 1) for n in range(100)))
    guest.vcpu.arm(points, ())
    assert guest.machine.resume() == BreakpointHit((points[99],), fault=False)


def test_watchpoints_in_any_number_of_pages_beside_the_guests() -> None:
    guest = Guest("mov [rdi+8], eax\nnop", Armed((0x1000, DATA + 8, 0x2000, 0x3000), sum(arm(n, WRITE) for n in range(4))))
    points = ours(*((Kind.WRITE, 0x80000 + 0x1000 * n, 1) for n in range(300)), (Kind.WRITE, DATA + 11, 1))
    guest.vcpu.arm(points, ())
    assert guest.machine.resume() == BreakpointHit((points[300],), fault=False)
    guest.run()
    assert guest.log[0].dr6 == NONE | 2


def test_breakpoints_come_and_go_while_code_runs() -> None:
    guest = Guest("1: nop\nloop 1b", Armed(rcx=5))
    for _ in range(3):
        guest.vcpu.arm((), (CASE,))
        assert guest.machine.resume() == SoftwareHit(CASE)
        guest.vcpu.arm((), (CASE + 1,))
        assert guest.machine.resume() == SoftwareHit(CASE + 1)
    guest.vcpu.arm((), ())
    assert guest.run() == []
    assert not any(key[1] == CASE and block.length == 0 for key, block in guest.vcpu.blocks.by_key.items())


def test_a_step_into_a_page_that_is_not_there_ends_in_the_handler() -> None:
    guest = Guest("mov eax, 0x50000\njmp rax\nnop", Armed())
    while guest.vcpu.get("rip") != 0x50000:
        assert guest.machine.resume(step=True) == StepDone()
    assert guest.machine.resume(step=True) == StepDone()
    assert guest.vcpu.get("rip") == 0x10600 + 16 * 14


def test_a_debug_exception_without_a_handler_is_a_shutdown() -> None:
    guest = Guest("nop\nnop", Armed(tf=True))
    guest.machine.ram.write(0x6000, bytes(0x310))
    end = guest.machine.resume()
    assert isinstance(end, MachineExit)
    assert end.kind is ExitKind.SHUTDOWN
    assert "#DB" in end.story


def test_real_mode_with_a_segment_base() -> None:
    """Breakpoints are linear addresses (SDM vol. 3, 18.2.1), whatever CS holds."""
    config = MachineConfig(memory=1 << 20, clock=ClockKind.INSTRUCTIONS)
    machine = make_machine(config)
    machine.ram.write(0x12340, bytes.fromhex("90 41 49 a30010 90 ebfe"))  # nop; inc cx; dec cx; mov [1000h], ax; nop; jmp .
    vcpu = machine.vcpu
    for name, value in (("cs", 0x1234), ("ds", 0x100), ("ss", 0), ("rip", 0), ("rsp", 0x7000)):
        vcpu.set(name, value)
    vcpu.arm(ours((Kind.EXEC, 0x12342, 1), (Kind.WRITE, 0x2000, 2)), (0x12341,))
    assert machine.resume() == SoftwareHit(0x12341)
    assert isinstance(machine.resume(), BreakpointHit)
    assert vcpu.get("rip") == 2
    assert machine.resume(step=True) == StepDone()
    watch = machine.resume()
    assert isinstance(watch, BreakpointHit)
    assert (watch.fault, vcpu.get("rip")) == (False, 6)
    vcpu.set("rflags", 2 | TF)
    vcpu.arm((), (0x12346,))
    assert machine.resume() == SoftwareHit(0x12346)


def test_the_debugger_sees_no_trace_of_its_steps() -> None:
    guest = Guest("nop\npushf\npop rax\nnop", Armed())
    for _ in range(60):
        guest.machine.resume(step=True)
        assert not guest.vcpu.get("rflags") & TF
        assert guest.vcpu.get("dr7") in (0x400, 0)


STRINGS = ("movsb", "movsq", "stosb", "stosd", "lodsw", "scasb", "scasq", "cmpsb", "cmpsd")


def repeated(string: str, count: int) -> tuple[str, Armed]:
    """(text, armed) of a case with one repeated instruction; SCAS and CMPS find what they go on with."""
    return f"lea rsi, [rdi+1024]\nrepe {string}\nnop", Armed(rcx=count, fixed={DATA: bytes(2048)})


@pytest.mark.parametrize("string", STRINGS)
def test_each_iteration_is_an_instruction_on_the_clock(string: str) -> None:
    """Alone, stepped, at breakpoints and in blocks of one instruction: the same time passes, the same is left behind."""
    base = 0
    for count in (0, 1, 40):
        text, armed = repeated(string, count)
        found = set()
        for how in ("alone", "stepped", "hbreak", "short"):
            guest = Guest(text, armed)
            if how == "hbreak":
                guest.vcpu.arm(ours(*((Kind.EXEC, at, 1) for at in guest.starts)), ())
            if how == "short":
                guest.vcpu.translator.block_limit = 1
            stops = guest.run(step=how == "stepped")
            assert len([rip for _, rip in stops if rip == guest.starts[1]]) == {"stepped": max(count, 1), "hbreak": 1}.get(how, 0)
            found.add((guest.vcpu.executed(), guest.memory))
        assert len(found) == 1
        executed = found.pop()[0]
        base = base or executed
        assert executed == base + max(count - 1, 0)


def test_a_timer_amid_a_repeated_instruction_comes_at_the_same_iteration() -> None:
    """Whatever the debugger has armed: the handler leaves RCX on its stack, and RF = 1 in the frame."""
    device = {PT + 8 * 0x50: (0xFEE00000 | 0x17).to_bytes(8, "little")}
    text = (
        "mov dword ptr [0x500f0], 0x1ff\nmov dword ptr [0x503e0], 0xb\nmov dword ptr [0x50320], 31\n"
        "mov dword ptr [0x50380], 20\nsti\nrep stosb\ncli\nnop"
    )
    armed, found = Armed(ring=0, rcx=2000, fixed=device), set()
    for how in ("alone", "break", "watch", "short"):
        guest = Guest(text, armed, resume_at=5)
        guest.vcpu.arm(ours((Kind.WRITE, DATA + 600, 1)) if how == "watch" else (), guest.starts if how == "break" else ())
        if how == "short":
            guest.vcpu.translator.block_limit = 1
        guest.run()
        assert [(one.vector, one.rip, one.rflags & 0x10300) for one in guest.log[:-1]] == [(31, guest.starts[5], 0x10200)]
        assert guest.machine.ram.read(DATA, 2001) == bytes([guest.machine.ram.read_int(DATA, 1)]) * 2000 + b"\0"
        found.add(guest.memory)
    assert len(found) == 1


def test_debugctl_by_vendor() -> None:
    """AMD: bits 6:3 must be zero (APM vol. 2, 13.1.3.6); without the CPUID bit, bit 2 raises #GP."""
    for cpu, value, faults in (("EPYC-Turin", 0x40, True), ("EPYC-Turin", 7, False), ("EPYC-Turin,-bus-lock-detect", 4, True),
                               ("SapphireRapids", 4, False), ("SapphireRapids,-bus-lock-detect", 4, True)):  # fmt: skip
        guest = Guest(f"mov ecx, 0x1d9\nmov eax, {value}\nxor edx, edx\nwrmsr\nnop", Armed(ring=0), cpu)
        guest.run()
        assert [one.vector for one in guest.log[:-1]] == ([13] if faults else []), cpu


def test_a_stop_amid_a_device_access_leaves_the_instruction_to_be_stepped() -> None:
    guest = Guest("mov eax, [0x50030]\nmov ebx, 1\nnop", Armed(fixed={PT + 8 * 0x50: (0xFEE00000 | 0x17).to_bytes(8, "little")}))
    lapic, read = guest.machine.lapic, guest.machine.lapic.read

    def pausing(offset: int, size: int) -> int:
        guest.machine.stop(Paused())
        return read(offset, size)

    lapic.read = pausing  # type: ignore[method-assign]
    assert guest.machine.resume() == Paused()
    assert guest.vcpu.get("rip") == guest.starts[0]
    assert guest.machine.resume(step=True) == StepDone()
    assert guest.vcpu.get("rip") == guest.starts[1]
    assert guest.vcpu.get("rax") & 0xFF == read(0x30, 4) & 0xFF
    guest.run()
