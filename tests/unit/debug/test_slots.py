"""Two owners' breakpoints in four debug registers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapgate.arch import debugregs
from trapgate.debug.slots import Slot, SlotsError, pieces, plan
from trapgate.vcpu import Breakpoint, Kind, Owner


def of_guest(slot: int, kind: Kind, address: int, length: int = 1) -> Breakpoint:
    return Breakpoint(Owner.GUEST, slot, kind, address, length)


def of_debugger(slot: int, kind: Kind, address: int, length: int = 1) -> Breakpoint:
    return Breakpoint(Owner.DEBUGGER, slot, kind, address, length)


@given(st.integers(0, 1 << 20), st.integers(1, 200))
def test_pieces_cover_exactly_and_are_aligned(address: int, length: int) -> None:
    found = pieces(address, length)
    assert [byte for at, size in found for byte in range(at, at + size)] == list(range(address, address + length))
    assert all(size in debugregs.LENGTHS and at % size == 0 for at, size in found)


@pytest.mark.parametrize(
    ("address", "length", "expected"),
    [
        (0x1000, 8, ((0x1000, 8),)),
        (0x1000, 16, ((0x1000, 8), (0x1008, 8))),
        (0x1001, 4, ((0x1001, 1), (0x1002, 2), (0x1004, 1))),
        (0x1006, 8, ((0x1006, 2), (0x1008, 4), (0x100C, 2))),
    ],
)
def test_pieces_by_hand(address: int, length: int, expected: tuple[tuple[int, int], ...]) -> None:
    assert pieces(address, length) == expected


def test_a_plan_programs_the_registers() -> None:
    breakpoints = [of_guest(3, Kind.WRITE, 0x1004, 4), of_debugger(9, Kind.EXEC, 0x4000), of_debugger(2, Kind.ACCESS, 0x2000, 8)]
    found = plan(breakpoints)
    assert found.addresses == (0x1004, 0x4000, 0x2000, 0)
    decoded = [debugregs.slot(found.dr7, n) for n in range(4)]
    assert [(one.enabled, one.rw, one.length) for one in decoded] == [(True, 1, 4), (True, 0, 1), (True, 3, 8), (False, 0, 1)]
    assert [found.hits(1 << n) for n in range(4)] == [1, 2, 4, 0]


def test_equal_needs_share_a_register() -> None:
    same = [of_guest(n, Kind.WRITE, 0x1000, 8) for n in (0, 1)] + [of_debugger(n, Kind.WRITE, 0x1000, 8) for n in range(5)]
    found = plan(same)
    assert found.slots == (Slot(1, 0x1000, 8, 0b1111111),)
    assert found.hits(1) == 0b1111111


def test_guest_addresses_are_aligned_down_as_hardware_does() -> None:
    assert plan([of_guest(0, Kind.WRITE, 0x1003, 4)]).slots == (Slot(1, 0x1000, 4, 1),)
    assert plan([of_debugger(0, Kind.WRITE, 0x1003, 1)]).slots == (Slot(1, 0x1003, 1, 1),)


def test_a_long_watch_takes_several_registers_and_reports_once() -> None:
    found = plan([of_debugger(7, Kind.READ, 0x1000, 32)])
    assert [slot.rw for slot in found.slots] == [3, 3, 3, 3]
    assert found.hits(0b1010) == 1


def test_no_room_is_said_clearly() -> None:
    breakpoints = [of_guest(n, Kind.WRITE, 0x1000 * (n + 1), 8) for n in range(4)]
    assert len(plan(breakpoints).slots) == 4
    with pytest.raises(SlotsError) as caught:
        plan([*breakpoints, of_debugger(0, Kind.EXEC, 0x9000)])
    text = str(caught.value)
    assert text.startswith("5 debug registers needed, the CPU has 4: guest DR0: write of 8 bytes at 0x1000; ")
    assert "debugger #0: execution at 0x9000" in text
    assert text.endswith("remove some of the debugger's")


def test_unused_registers_say_nothing() -> None:
    assert plan([]).hits(0b1111) == 0
    assert plan([]).dr7 == 0
