"""Records declared once: what Python packs lies where native code looks."""

import pytest

from trapgate.isa.native import composing, gathering, placing
from trapgate.isa.records import Record

POINT = Record(x="H", y="I", name="4s")


def test_offsets_follow_from_the_order() -> None:
    assert (POINT.x, POINT.y, POINT.name, POINT.size) == (0, 2, 6, 10)
    with pytest.raises(AttributeError, match="no field z"):
        POINT.z  # noqa: B018


def test_what_is_packed_lies_there() -> None:
    data = POINT.pack(name=b"ab", y=0x01020304, x=5)
    assert data[POINT.x : POINT.y] == b"\5\0"
    assert data[POINT.y : POINT.name] == b"\4\3\2\1"
    assert data[POINT.name :] == b"ab\0\0"
    with pytest.raises(AssertionError, match="y"):
        POINT.pack(x=1, name=b"")


def test_some_fields_change() -> None:
    memory = memoryview(bytearray(3 + POINT.size))
    POINT.put(memory, 3, y=7)
    assert bytes(memory) == bytes(3) + POINT.pack(x=0, y=7, name=b"")
    pair = Record(a="B", b="Q")
    assert pair.read(memoryview(pair.pack(a=1, b=2)), 0) == {"a": 1, "b": 2}


def test_records_follow_each_other_in_words() -> None:
    """Native code finds entries of the table of blocks by a shift."""
    for record in (gathering.PATTERN, gathering.PAIR, gathering.TEMPLATE, composing.HOLE, placing.RECORD, placing.PLACED):
        assert record.size % 8 == 0
    assert placing.PLACED.size == 1 << placing.ENTRY_SHIFT
