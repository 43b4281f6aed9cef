"""The allocator: no overlap, nothing outside RAM, lowest and highest fit, and the memory map."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapgate.boot.image import ImageError
from trapgate.boot.regions import Regions, memory_map

MIB = 1 << 20
TWO = ((0, 16 * MIB), (1 << 32, (1 << 32) + 16 * MIB))


def test_overlap_is_refused_and_both_names_are_told() -> None:
    regions = Regions(TWO)
    regions.claim(0x10_0000, 0x3000, "kernel")
    with pytest.raises(ImageError, match=r"initrd at 0x102000..0x104000 would overwrite kernel at 0x100000..0x103000"):
        regions.claim(0x10_2000, 0x2000, "initrd")
    regions.claim(0x10_3000, 0x1000, "neighbour")


def test_page_0_is_kept_unless_asked() -> None:
    with pytest.raises(ImageError, match="page 0"):
        Regions(TWO).claim(0xFFF, 2, "image")
    assert Regions(TWO, keep_page_0=False).claim(0, 0x1000, "image") == 0


@pytest.mark.parametrize("start", [16 * MIB - 1, 16 * MIB, (1 << 32) - 1, (1 << 32) + 16 * MIB, 1 << 63, -1])
def test_what_is_not_ram_cannot_be_claimed(start: int) -> None:
    with pytest.raises(ImageError, match="the guest has 32 MiB"):
        Regions(TWO).claim(start, 2, "kernel")


def test_place_takes_the_lowest_or_the_highest_fit() -> None:
    regions = Regions(TWO)
    assert regions.place(0x1000, "a", low=MIB, high=1 << 32) == MIB
    assert regions.place(0x1000, "b", low=MIB, high=1 << 32) == MIB + 0x1000
    assert regions.place(0x1800, "c", low=MIB, high=1 << 32, highest=True) == 16 * MIB - 0x2000
    assert regions.place(0x1000, "d", low=MIB, high=1 << 32, highest=True) == 16 * MIB - 0x3000
    assert regions.place(0x1000, "e", low=MIB, high=1 << 40, highest=True) == (1 << 32) + 15 * MIB + 0xF_F000
    with pytest.raises(ImageError, match="no room for f"):
        regions.place(16 * MIB, "f", low=MIB, high=1 << 32)


@given(
    st.lists(
        st.tuples(st.integers(0, 1 << 18), st.sampled_from([1, 16, 4096, 1 << 16]), st.booleans(), st.integers(0, 2 * MIB)),
        max_size=40,
    )
)
def test_claims_never_overlap_and_stay_in_ram(requests: list[tuple[int, int, bool, int]]) -> None:
    ram = ((0, 2 * MIB),)
    regions = Regions(ram)
    for size, align, highest, low in requests:
        try:
            address = regions.place(size, "x", align=align, low=low, high=2 * MIB, highest=highest)
        except ImageError:
            continue
        assert address % align == 0
        assert low <= address
    claims = regions.claims()
    assert all(0 <= start < end <= 2 * MIB for start, end, _ in claims)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(claims))


def test_the_memory_map_covers_ram_but_for_firmware() -> None:
    entries = [(entry.start, entry.start + entry.size, entry.kind) for entry in memory_map(TWO)]
    assert entries == [
        (0, 0x9_FC00, 1),
        (0x9_FC00, 0xA_0000, 2),
        (0xE_0000, 0x10_0000, 2),
        (0x10_0000, 16 * MIB, 1),
        (1 << 32, (1 << 32) + 16 * MIB, 1),
    ]
    assert [(entry.start, entry.size) for entry in memory_map(((0, 0x8_0000),))] == [(0, 0x8_0000)]
