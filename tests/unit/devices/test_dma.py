"""RAM as devices reach it: every address and length is a guest's."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapgate.devices.dma import Dma
from trapgate.memory import HOLE_END, HOLE_START, Ram, RamError

SIZE = HOLE_START + (1 << 20)
RAM = Ram(SIZE)
PLACES = (0, 0xFFF, HOLE_START, HOLE_END, HOLE_END + (1 << 20), 1 << 32, 1 << 63, 1 << 64)
addresses = st.builds(lambda place, by: place + by, st.sampled_from(PLACES), st.integers(-9000, 9000))
lengths = st.one_of(st.integers(0, 9000), st.sampled_from((1 << 20, 1 << 32, 1 << 63, (1 << 64) - 1)))


@given(addresses, lengths)
def test_it_reaches_ram_and_nothing_else(address: int, length: int) -> None:
    told: list[tuple[int, int]] = []
    dma = Dma(RAM)
    RAM.on_write = lambda *place: told.append(place)
    inside = any(start <= address and address + length <= end for start, end in RAM.regions())
    assert dma.contains(address, length) == inside
    if inside and length <= 9000:
        dma.write(address, b"\x5a" * length)
        assert dma.read(address, length) == b"\x5a" * length
        with dma.fill(address, length) as place, dma.look(address, length) as look:
            place[:] = b"\xa5" * length
            assert look == b"\xa5" * length
        assert told == [(address, length)] * 2
    elif not inside:
        for attempt in (dma.read, lambda *place: dma.fill(*place).__enter__(), lambda *place: dma.look(*place).__enter__()):
            with pytest.raises(RamError):
                attempt(address, length)
        if length <= 9000:
            with pytest.raises(RamError):
                dma.write(address, bytes(length))
        assert not told


def test_who_wrote_is_told_after_the_write_and_what_is_looked_at_cannot_be_changed() -> None:
    seen: list[bytes] = []
    dma = Dma(RAM, lambda: seen.append(RAM.read(0x1000, 2)))
    dma.write(0x1000, b"ab")
    with contextlib.suppress(OSError), dma.fill(0x1000, 2) as place:
        place[0] = ord("c")
        raise OSError("the host's, amid it")
    assert seen == [b"ab", b"cb"]
    with dma.look(0x1000, 2) as look, pytest.raises(TypeError):
        look[0] = 0
    assert dma.unpack(struct.Struct(">H"), 0x1000) == (0x6362,)
    assert dma.overlaps(HOLE_START - 1, 2)
    assert not dma.overlaps(HOLE_START, HOLE_END - HOLE_START)


def test_what_follows_each_other_is_one_piece() -> None:
    ram = Ram(1 << 16)
    told: list[tuple[int, int]] = []
    ram.on_write = lambda address, length: told.append((address, length))
    places = [(0x1000, 16), (0x1010, 4080), (0x2000, 4096), (0x5000, 0), (0x5000, 8), (0x4000, 8)]
    with Dma(ram).fill_all(iter(places)) as views:
        assert [len(view) for view in views] == [8192, 8, 8]
        views[0][4096] = 7
    assert told == [(0x1000, 8192), (0x5000, 8), (0x4000, 8)]
    with Dma(ram).look_all(iter(places)) as views:
        assert (views[0][4096], views[0].readonly) == (7, True)
    with pytest.raises(RamError), Dma(ram).fill_all([(0, 8), (0xFFFF, 2)]):
        pytest.fail("not all of it is RAM")
