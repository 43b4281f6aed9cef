"""Every row of the table: the guest alone reads what the manual says, and with a debugger at it, bit for bit the same."""

from functools import cache
from itertools import pairwise

import pytest

from programs.debug.cases import CASES as EXPLICIT
from programs.debug.cases import DATA, HANDLER, INTEL, Case
from programs.debug.cases_memory import TOGETHER, TYPES
from programs.debug.harness import CASE, GDT, IDT, KERNEL_STACK, STACK0, TSS, USER_STACK, Guest, Log, handler
from programs.debug.implicit import IMPLICIT
from trapgate.stops import BreakpointHit, SoftwareHit, StepDone
from trapgate.vcpu import Breakpoint, Kind, Owner

TF_RF_IF = 0x10300
CASES = [*EXPLICIT, *IMPLICIT, *TOGETHER]
ALONE = [*CASES, *TYPES]  # a debugger has nothing to add to these


def ident(case: Case) -> str:
    return case.name


def guest_of(case: Case) -> Guest:
    return Guest(case.text, case.armed, case.cpu, case.resume_at)


def ours(*wanted: tuple[Kind, int, int]) -> list[Breakpoint]:
    return [Breakpoint(Owner.DEBUGGER, n, *one) for n, one in enumerate(wanted)]


@pytest.mark.parametrize("case", ALONE, ids=ident)
def test_alone(case: Case) -> None:
    guest = guest_of(case)
    assert guest.run() == []
    log = [(one.vector, one.dr6, one.rip, one.rflags & TF_RF_IF) for one in guest.log[:-1]]
    assert log == [(vector, dr6, place(guest, at), flags) for vector, dr6, at, flags in case.expected]


def place(guest: Guest, at: int) -> int:
    """The address that a record's third number means."""
    return handler(0) + at - HANDLER if at >= HANDLER else guest.starts[at]


@cache
def alone(case: Case) -> tuple[list[Log], bytes]:
    """What the guest leaves behind without a debugger."""
    guest = guest_of(case)
    guest.run()
    return guest.log, guest.memory


def check(case: Case, guest: Guest) -> None:
    log, memory = alone(case)
    assert guest.log == log
    assert guest.memory == memory


@pytest.mark.parametrize("case", CASES, ids=ident)
def test_stepped(case: Case) -> None:
    guest = guest_of(case)
    stops = guest.run(step=True)
    assert {type(stop) for stop, _ in stops} == {StepDone}
    assert all(rip != before or rip in repeated(guest) for (_, before), (_, rip) in pairwise(stops))
    check(case, guest)


def repeated(guest: Guest) -> set[int]:
    """Where a step may end twice: on repeated instructions, behind HLT, on the #DB handler when its frame raises the next."""
    code = guest.code
    found = {at for at in guest.starts if code[at - CASE] in (0xF2, 0xF3)}
    return found | {at + 1 for at in guest.starts if code[at - CASE] == 0xF4} | {handler(1)}


@pytest.mark.parametrize("case", CASES, ids=ident)
@pytest.mark.parametrize("software", [False, True], ids=["hbreak", "break"])
def test_breakpoints_on_every_instruction(case: Case, software: bool) -> None:
    guest = guest_of(case)
    hardware = () if software else ours(*((Kind.EXEC, at, 1) for at in guest.starts))
    guest.vcpu.arm(hardware, guest.starts if software else ())
    stops = guest.run()
    assert {type(stop) for stop, _ in stops} == {SoftwareHit if software else BreakpointHit}
    assert {rip for _, rip in stops} == executed(case)
    again = [(a, b) for (_, a), (_, b) in pairwise(stops) if a == b]
    assert not again or case.expected, "stopped twice on one instruction"
    check(case, guest)


@cache
def executed(case: Case) -> set[int]:
    """The instructions of the case that a stepped guest stands on."""
    guest = guest_of(case)
    return {rip for _, rip in guest.run(step=True) if rip in guest.starts}


@pytest.mark.parametrize("case", CASES, ids=ident)
def test_watchpoints_on_the_same_bytes(case: Case) -> None:
    guest = guest_of(case)
    kinds = (Kind.WRITE, Kind.READ, Kind.ACCESS)
    guest.vcpu.arm(ours(*((kind, *where) for kind in kinds for where in ((DATA, 256), (0x41000, 16)))), ())
    stops = guest.run()
    assert all(type(stop) is BreakpointHit and not stop.fault for stop, _ in stops)
    check(case, guest)


@pytest.mark.parametrize("case", [*EXPLICIT[::8], *IMPLICIT], ids=ident)
def test_watchpoints_on_what_deliveries_touch(case: Case) -> None:
    guest = guest_of(case)
    places = ((GDT, 0x48), (IDT, 0x310), (TSS, 0x68), (STACK0 - 256, 256), (KERNEL_STACK - 0x500, 0x500), (USER_STACK - 128, 128))
    guest.vcpu.arm(ours(*((Kind.ACCESS, *where) for where in places)), ())
    stops = guest.run()
    assert all(type(stop) is BreakpointHit and not stop.fault for stop, _ in stops)
    ends = [stop for stop, rip in stops if rip == handler(0x30)]
    assert isinstance(ends[0], BreakpointHit)  # gate, code segment and frame of the last INT together
    assert {one.address for one in ends[0].hits} >= {GDT, IDT}
    check(case, guest)


@pytest.mark.parametrize("case", CASES, ids=ident)
def test_all_at_once(case: Case) -> None:
    guest = guest_of(case)
    guest.vcpu.arm(ours((Kind.EXEC, guest.starts[-1], 1), (Kind.WRITE, DATA + 60, 8), (Kind.ACCESS, 0x41000, 8)), (CASE,))
    guest.run(step=True)
    check(case, guest)


def test_the_table_holds_what_it_says() -> None:
    names = [case.name for case in ALONE]
    assert len(set(names)) == len(names)
    assert sum(case.cpu.startswith(INTEL) for case in CASES) > 8


@pytest.mark.parametrize(
    ("cpu", "control", "lock_written", "zero_written"),
    [  # SDM vol. 3, 18.2.3: bit 11 can be written where CPUID has it; APM vol. 2, 13.1.1.3: only while DEBUGCTL[2] is 1
        ("EPYC-Turin", 0, 0xFFFF0FF0, 0xFFFF0FF0),
        ("EPYC-Turin", 4, 0xFFFF07F0, 0xFFFF07F0),
        (INTEL, 0, 0xFFFF07F0, 0xFFFF07F0),
        (INTEL, 4, 0xFFFF07F0, 0xFFFF07F0),
        ("EPYC-Turin,-bus-lock-detect", 0, 0xFFFF0FF0, 0xFFFF0FF0),
        (f"{INTEL},-bus-lock-detect", 0, 0xFFFF0FF0, 0xFFFF0FF0),
    ],
)
def test_dr6_by_vendor(cpu: str, control: int, lock_written: int, zero_written: int) -> None:
    case = next(one for one in CASES if one.name == f"DR6, {cpu}, DEBUGCTL {control}")
    guest = guest_of(case)
    guest.run()
    assert (guest.machine.ram.read_int(DATA, 8), guest.machine.ram.read_int(DATA + 8, 8)) == (lock_written, zero_written)
