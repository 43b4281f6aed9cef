"""The debugger's breakpoint table."""

import pytest

from trapgate.debug import breakpoints
from trapgate.debug.breakpoints import BreakpointError, BreakpointTable
from trapgate.vcpu import Breakpoint, Kind, Owner


def test_insert_and_remove_are_idempotent() -> None:
    table = BreakpointTable()
    assert table.insert_software(0x1000)
    assert not table.insert_software(0x1000)
    assert table.software() == (0x1000,)
    assert table.remove_software(0x1000)
    assert not table.remove_software(0x1000)
    assert table.insert(Kind.WRITE, 0x2000, 4)
    assert not table.insert(Kind.WRITE, 0x2000, 4)
    assert table.count(Kind.WRITE) == len(table) == 1
    assert table.remove(Kind.WRITE, 0x2000, 4)
    assert not table.remove(Kind.WRITE, 0x2000, 4)
    assert table.hardware() == ()
    assert table.software() == ()


def test_kind_and_length_make_a_breakpoint() -> None:
    table = BreakpointTable()
    for kind, length in ((Kind.WRITE, 4), (Kind.WRITE, 8), (Kind.ACCESS, 4), (Kind.READ, 4)):
        assert table.insert(kind, 0x2000, length)
    assert [table.count(kind) for kind in (Kind.WRITE, Kind.ACCESS, Kind.READ, Kind.EXEC, None)] == [2, 1, 1, 0, 0]
    assert not table.remove(Kind.ACCESS, 0x2000, 8)


def test_execution_has_length_one_whatever_gdb_says() -> None:
    table = BreakpointTable()
    assert table.insert(Kind.EXEC, 0x1000, 1)
    assert not table.insert(Kind.EXEC, 0x1000, 0)
    assert table.hardware() == (Breakpoint(Owner.DEBUGGER, 0, Kind.EXEC, 0x1000, 1),)
    assert table.remove(Kind.EXEC, 0x1000, 4)


def test_numbers_stay_and_hits_name_them() -> None:
    table = BreakpointTable()
    for address in (0x10, 0x20, 0x30):
        table.insert(Kind.WRITE, address, 1)
    table.remove(Kind.WRITE, 0x20, 1)
    assert [one.slot for one in table.hardware()] == [0, 2]
    assert [one.address for one in table.hit(0b100)] == [0x30]
    assert table.hit(0b010) == ()
    table.insert(Kind.WRITE, 0x40, 1)
    assert {one.address: one.slot for one in table.hardware()} == {0x10: 0, 0x30: 2, 0x40: 1}


@pytest.mark.parametrize(
    ("kind", "address", "length", "text"),
    [
        (Kind.WRITE, 0x1000, 0, "1 to 65536 bytes, not 0"),
        (Kind.WRITE, 0x1000, 1 << 17, "not 131072"),
        (Kind.ACCESS, (1 << 64) - 1, 2, "outside"),
        (Kind.EXEC, 1 << 64, 1, "outside"),
        (Kind.IO, 0x80, 1, "belong to the guest"),
    ],
)
def test_what_cannot_be(kind: Kind, address: int, length: int, text: str) -> None:
    table = BreakpointTable()
    with pytest.raises(BreakpointError, match=text):
        table.insert(kind, address, length)
    assert len(table) == 0


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breakpoints, "MAX_SOFTWARE", 2)
    monkeypatch.setattr(breakpoints, "MAX_HARDWARE", 2)
    table = BreakpointTable()
    for address in (1, 2):
        table.insert_software(address)
        table.insert(Kind.EXEC, address, 1)
    assert not table.insert_software(2)
    with pytest.raises(BreakpointError, match="remove some"):
        table.insert_software(3)
    with pytest.raises(BreakpointError, match="remove some"):
        table.insert(Kind.EXEC, 3, 1)
    table.clear()
    assert len(table) == 0


def test_numbers_given_back_are_used_again_from_the_lowest() -> None:
    table = BreakpointTable()
    for n in range(5):
        table.insert(Kind.WRITE, 64 * n, 8)
    for n in (3, 1):
        table.remove(Kind.WRITE, 64 * n, 8)
    for n in range(6, 9):
        table.insert(Kind.WRITE, 64 * n, 8)
    assert {one.address // 64: one.slot for one in table.hardware()} == {0: 0, 2: 2, 4: 4, 6: 1, 7: 3, 8: 5}
