"""The demo guest's image: its table as Python reads it, that it equals a rebuild, and that a wrong event is found."""

import struct
from dataclasses import replace

import pytest

from trapgate import guests
from trapgate.boot import BootOptions, plan_boot, read_image
from trapgate.check.guest import Case, DemoGuest, Event, Results, differences
from trapgate.cli.demo_debugger import Session, Stop, lost, plan, script
from trapgate.cli.demo_table import armed, causes, rows
from trapgate.gdb.address import TcpAddress, UnixAddress

GUEST = DemoGuest()


def perfect() -> Results:
    """What a machine without fault leaves."""
    events = tuple(
        Event(case.number, one.vector, one.dr6, case.dr7 & ~0x2000, one.rip, int(one.tf) << 8, case.debugctl & ~2, 0x20 | case.ring)
        for case in GUEST.cases
        for one in case.expected
    )
    return Results(events, tuple(case.value for case in GUEST.cases), (1,) * len(GUEST.cases))


def named(name: str) -> Case:
    return next(case for case in GUEST.cases if case.name == name)


def test_cases_follow_the_manual() -> None:
    got = {case.name: [one.dr6 for one in case.expected] for case in GUEST.cases}
    assert got["single step"] == [0xFFFF4FF0]
    assert got["bus lock, XCHG"] == [0xFFFF07F0]
    assert got["bus lock + data + step"] == [0xFFFF47F1]
    assert got["ICEBP"] == [0xFFFF0FF0]
    assert got["no: aligned lock"] == []
    assert len(got) == len(GUEST.cases) >= 25


def test_names_for_the_table() -> None:
    assert (causes(named("bus lock + data + step")), armed(named("bus lock + data + step"))) == (
        "B0|BLD|BS",
        "TF, DR0 write, bus lock trap",
    )
    assert (causes(named("ICEBP")), armed(named("ICEBP"))) == ("ICEBP", "-")
    assert (causes(named("INT3")), causes(named("no: ring 0"))) == ("#BP", "none")
    assert (causes(named("I/O breakpoint")), armed(named("I/O breakpoint"))) == ("B3", "DR3 I/O")


def test_split_addresses_are_split() -> None:
    line = GUEST.symbols["line"]
    assert line % 64 == 0
    assert named("bus lock + data").dr[0] == line + 60


def test_perfect_results_have_no_differences() -> None:
    results = perfect()
    assert [text for case in GUEST.cases for text in differences(case, results)] == []


@pytest.mark.parametrize("field", ["vector", "dr6", "dr7", "rip", "rflags", "debugctl"])
def test_every_wrong_field_is_found(field: str) -> None:
    results = perfect()
    first = results.events[0]
    broken = replace(results, events=(replace(first, **{field: getattr(first, field) ^ 0x100}), *results.events[1:]))
    assert differences(GUEST.cases[0], broken)


def test_missing_extra_and_skipped_are_found() -> None:
    results = perfect()
    case = named("bus lock, ADD")
    without = replace(results, events=tuple(event for event in results.events if event.case != case.number))
    assert differences(case, without) == ["0 exceptions instead of 1"]
    quiet = named("no: aligned lock")
    extra = replace(results, events=(*results.events, replace(results.of(case)[0], case=quiet.number)))
    assert differences(quiet, extra) == ["1 exceptions instead of 0"]
    skipped = replace(results, verdicts=(0,) * len(GUEST.cases))
    assert differences(quiet, skipped) == ["skipped by the guest"]
    seen = replace(results, values=tuple(0x100 for _ in GUEST.cases))
    assert differences(named("unseen: TF in PUSHF"), seen) == ["value 100 instead of 0"]


def test_results_are_read_from_memory() -> None:
    events = [(0, 1, 0xFFFF4FF0, 0x400, 0x1234, 0x102, 0, 0x23)]
    memory = {
        GUEST.symbols["event_count"]: struct.pack("<Q", 1),
        GUEST.symbols["events"]: struct.pack("<8Q", *events[0]),
        GUEST.symbols["values"]: bytes(8 * len(GUEST.cases)),
        GUEST.symbols["verdicts"]: struct.pack("<Q", 1) + bytes(8 * len(GUEST.cases) - 8),
    }
    results = GUEST.results(lambda address, length: memory[address][:length])
    assert results.of(GUEST.cases[0]) == (Event(*events[0]),)
    assert results.verdicts[:2] == (1, 0)


def test_a_debugger_that_misses_a_stop_is_found() -> None:
    steps = plan(GUEST)
    stops = [Stop(step, GUEST.cases[step.case].expected[0].rip if "watch" in step.action else step.address) for step in steps]
    whole = Session(tuple(stops), 1)
    assert not [row.wrong for row in rows(GUEST.cases, perfect(), steps, whole, perfect()) if row.wrong]
    assert lost(GUEST.cases[-1], steps, Session(tuple(stops[:-1]), None)) == ["gdb: no stop for stepi"]
    stops[0] = Stop(steps[0], 0x10)
    assert "instead of" in lost(GUEST.cases[0], steps, Session(tuple(stops), 1))[0]


def test_a_guest_that_notices_the_debugger_is_found() -> None:
    results = perfect()
    debugged = replace(results, events=(replace(results.events[0], rflags=results.events[0].rflags | 1 << 16), *results.events[1:]))
    row = rows(GUEST.cases[:1], results, [], Session((), None), debugged)[0]
    assert row.wrong == ("the guest can tell that it is debugged: its handler read something else",)


def test_script_is_for_both_kinds_of_address() -> None:
    steps = plan(GUEST)
    assert "target remote 127.0.0.1:99\n" in script(steps, TcpAddress("127.0.0.1", 99))
    text = script(steps, UnixAddress("/tmp/s"))
    assert "target remote /tmp/s\n" in text
    assert text.count('printf "@') == len(steps)


def test_image_is_loadable_by_our_own_loader() -> None:
    made = plan_boot(read_image(guests.DEMO), BootOptions(ram=((0, 16 << 20),)))
    assert made.start.rip == GUEST.symbols["pvh_entry"]
