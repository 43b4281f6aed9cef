"""What is kept of RAM, and what is taken for it."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapgate.encoding import decode, encode
from trapgate.memory import BLOCK, HOLE_END, HOLE_START, PAGE_SIZE, Extent, Ram, RamState
from trapgate.state import StateError

SMALL = 3 * BLOCK + 5 * PAGE_SIZE


@given(st.dictionaries(st.integers(0, SMALL // PAGE_SIZE - 1), st.integers(0, PAGE_SIZE - 1), max_size=20))
def test_pages_that_are_not_zero_come_back(touched: dict[int, int]) -> None:
    ram, other, told = Ram(SMALL), Ram(SMALL), list[tuple[int, int]]()
    for page, at in touched.items():
        ram.write(page * PAGE_SIZE + at, bytes([page & 0xFF or 1]))
    other.write(0x5000, b"of before")
    other.on_write = lambda *place: told.append(place)
    state = decode(encode(ram.save()), RamState)
    assert sum(len(one.data) for one in state.extents) == len(touched) * PAGE_SIZE
    assert len(state.extents) == len([page for page in touched if page - 1 not in touched])
    other.load(state)
    assert other.read(0, SMALL) == ram.read(0, SMALL)
    assert told == [(0, SMALL)]


def test_ram_on_both_sides_of_the_hole() -> None:
    ram, told = Ram(HOLE_START + BLOCK), list[tuple[int, int]]()
    ram.write(HOLE_START - 1, b"a")
    ram.write(HOLE_END, b"b")
    state = ram.save()
    assert [(one.address, len(one.data)) for one in state.extents] == [(HOLE_START - PAGE_SIZE, PAGE_SIZE), (HOLE_END, PAGE_SIZE)]
    ram.clear()
    ram.on_write = lambda *place: told.append(place)
    ram.load(state)
    assert ram.read(HOLE_START - 1, 1) + ram.read(HOLE_END, 1) == b"ab"
    assert told == [(0, HOLE_START), (HOLE_END, BLOCK)]


@pytest.mark.parametrize(
    ("size", "extent", "story"),
    [
        (2 * SMALL, Extent(0, b""), "is not one of"),
        (SMALL, Extent(SMALL - 1, b"ab"), "+0x2 is not RAM"),
        (SMALL, Extent(HOLE_START, b"a"), "0xc0000000+0x1 is not RAM"),
        (SMALL, Extent((1 << 64) - 1, b"ab"), "is not RAM"),
    ],
)
def test_what_no_ram_of_that_size_can_hold(size: int, extent: Extent, story: str) -> None:
    ram = Ram(SMALL)
    ram.write(0x5000, b"here")
    with pytest.raises(StateError, match=re.escape(story)):
        ram.load(replace(ram.save(), size=size, extents=(Extent(0x5000, b"gone"), extent)))
    assert ram.read(0x5000, 4) == b"here"
