"""Guest RAM: layout around the hole, bounds, sparseness."""

import ctypes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peak import Peak
from trapgate.hostcall import HostError
from trapgate.memory import HOLE_END, HOLE_START, Ram, RamError

GIB = 1 << 30
BIG = Ram(8 * GIB)


@pytest.mark.parametrize("size", [0, -4096, 4097])
def test_odd_sizes_are_refused(size: int) -> None:
    with pytest.raises(RamError, match="4 KiB"):
        Ram(size)


def test_more_than_the_host_can_map_is_a_clear_error() -> None:
    with pytest.raises(HostError, match="memory for guest RAM"):
        Ram(1 << 60)


def test_small_ram_has_one_region() -> None:
    ram = Ram(1 << 20)
    assert list(ram.regions()) == [(0, 1 << 20)]
    assert ram.contains(0, 1 << 20)
    assert not ram.contains(HOLE_END)


def test_big_ram_leaves_the_hole() -> None:
    assert list(BIG.regions()) == [(0, HOLE_START), (HOLE_END, 9 * GIB)]
    assert not BIG.contains(HOLE_START)
    assert not BIG.contains(HOLE_START - 4, 8)
    assert not BIG.contains(HOLE_END - 1, 2)
    assert BIG.contains(HOLE_END, 5 * GIB)


def test_exactly_up_to_the_hole() -> None:
    assert list(Ram(HOLE_START).regions()) == [(0, HOLE_START)]


def test_eight_gib_cost_only_what_is_touched() -> None:
    with Peak() as peak:
        for address in (0, HOLE_START - 8, HOLE_END, 9 * GIB - 8):
            BIG.write_int(address, 8, address ^ 0x1122_3344_5566_7788)
            assert BIG.read_int(address, 8) == address ^ 0x1122_3344_5566_7788
        assert peak.grown < 16 << 20


def test_host_addresses_mirror_physical_ones() -> None:
    BIG.write(HOLE_END + 0x123, b"guest")
    assert ctypes.string_at(BIG.host_address(HOLE_END + 0x123, 5), 5) == b"guest"
    assert BIG.host_address(0, 1) == BIG.host_base


@pytest.mark.parametrize(
    ("address", "length"),
    [(-1, 1), (HOLE_START, 1), (HOLE_START - 1, 2), (HOLE_END - 1, 1), (9 * GIB - 1, 2), (1 << 64, 1), (0, -1)],
)
def test_what_is_not_ram_is_refused(address: int, length: int) -> None:
    with pytest.raises(RamError, match="is not RAM"):
        BIG.host_address(address, length)
    with pytest.raises(RamError):
        BIG.read(address, length)


def test_a_write_that_would_miss_ram_writes_nothing_and_tells_nobody() -> None:
    ram, told = Ram(4096), list[tuple[int, int]]()
    ram.on_write = lambda address, length: told.append((address, length))
    with pytest.raises(RamError):
        ram.write(4090, b"1234567")
    assert ram.read(4090, 6) == bytes(6)
    assert not told
    ram.write(10, b"abc")
    assert told == [(10, 3)]


@given(st.integers(0, 4096), st.binary(max_size=64))
def test_what_is_written_is_read(address: int, data: bytes) -> None:
    ram = Ram(8192)
    ram.write(address, data)
    assert ram.read(address, len(data)) == data
    assert ram.read(0, 8192).count(0) == 8192 - len(data) + data.count(0)
