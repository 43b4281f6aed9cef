"""Routing by range."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapgate.bus import Bus, BusConflict


class Recorder:
    """Answers with its offset and all ones above; remembers writes."""

    def __init__(self) -> None:
        self.writes: list[tuple[int, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        return offset | ~0xFF & (1 << 64) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        self.writes.append((offset, size, value))


def test_a_device_sees_offsets_and_cut_values() -> None:
    bus, device = Bus("port"), Recorder()
    bus.map(0x3F8, 8, device)
    assert bus.read(0x3FA, 2) == 0xFF02
    bus.write(0x3FF, 1, 0x1234)
    assert device.writes == [(7, 1, 0x34)]


@pytest.mark.parametrize("address", [0x3F7, 0x400])
def test_nobody_there(address: int) -> None:
    bus, device = Bus("port"), Recorder()
    bus.map(0x3F8, 8, device)
    assert bus.read(address, 4) == 0xFFFF_FFFF
    bus.write(address, 4, 1)
    assert not device.writes
    assert bus.find(address) is None


@pytest.mark.parametrize(("start", "length"), [(0x10, 1), (0x0F, 2), (0x17, 8), (0, 0x100), (0x12, 2)])
def test_overlap_is_refused_and_changes_nothing(start: int, length: int) -> None:
    bus, first = Bus("MMIO"), Recorder()
    bus.map(0x10, 8, first)
    with pytest.raises(BusConflict, match="MMIO"):
        bus.map(start, length, Recorder())
    assert bus.find(0x12) == (first, 2)
    assert bus.find(0x18) is None


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 20)), max_size=20))
def test_like_a_table_of_every_address(ranges: list[tuple[int, int]]) -> None:
    bus = Bus("port")
    table: dict[int, tuple[Recorder, int]] = {}
    for start, length in ranges:
        device = Recorder()
        span = range(start, start + length)
        if any(at in table for at in span):
            with pytest.raises(BusConflict):
                bus.map(start, length, device)
        else:
            bus.map(start, length, device)
            table |= {at: (device, at - start) for at in span}
    for at in range(230):
        assert bus.find(at) == table.get(at)
