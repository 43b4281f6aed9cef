"""Reserved bits of page-table entries, modes, canonical addresses."""

import pytest

from trapgate.arch import paging
from trapgate.arch.paging import Mode, bits


def mask(
    mode: Mode, level: int, large: bool = False, nx: bool = True, gigabyte: bool = True, amd: bool = False, width: int = 40
) -> int:
    return paging.reserved_mask(mode, level, large, physical_bits=width, nx=nx, pdpe1gb=gigabyte, amd=amd)


def test_long_mode() -> None:
    physical = bits(40, 51)
    assert mask(Mode.LONG4, 1) == physical
    assert mask(Mode.LONG4, 2) == physical
    assert mask(Mode.LONG4, 2, large=True) == physical | bits(13, 20)
    assert mask(Mode.LONG4, 3, large=True) == physical | bits(13, 29)
    assert mask(Mode.LONG4, 3, large=True, gigabyte=False) & paging.PS
    assert mask(Mode.LONG4, 4) == physical | paging.PS
    assert mask(Mode.LONG4, 4, amd=True) == physical | paging.PS | paging.G
    assert mask(Mode.LONG4, 3, amd=True) == physical | paging.G
    assert mask(Mode.LONG4, 1, width=52) == 0


def test_nx_is_reserved_while_off() -> None:
    for level in (1, 2, 3, 4):
        assert mask(Mode.LONG4, level, nx=False) == mask(Mode.LONG4, level) | paging.NX


def test_pae() -> None:
    assert mask(Mode.PAE, 1) == bits(40, 62)
    assert mask(Mode.PAE, 2, large=True) == bits(40, 62) | bits(13, 20)
    assert mask(Mode.PAE, 3) == bits(40, 63) | bits(1, 2) | bits(5, 8)


@pytest.mark.parametrize(("width", "reserved"), [(40, 1 << 21), (46, 1 << 21), (36, bits(17, 21)), (32, bits(13, 21))])
def test_pse36(width: int, reserved: int) -> None:
    assert mask(Mode.BITS32, 2, large=True, width=width) == reserved
    assert mask(Mode.BITS32, 2, width=width) == mask(Mode.BITS32, 1, width=width) == 0


def test_modes() -> None:
    assert paging.mode_of(cr0_pg=False, cr4_pae=True, efer_lma=False) is Mode.NONE
    assert paging.mode_of(cr0_pg=True, cr4_pae=False, efer_lma=False) is Mode.BITS32
    assert paging.mode_of(cr0_pg=True, cr4_pae=True, efer_lma=False) is Mode.PAE
    assert paging.mode_of(cr0_pg=True, cr4_pae=True, efer_lma=True) is Mode.LONG4
    assert [paging.page_shift(Mode.LONG4, level) for level in (1, 2, 3, 4)] == [12, 21, 30, 39]
    assert paging.page_shift(Mode.BITS32, 2) == 22
    assert [mode.levels for mode in Mode] == [0, 2, 3, 4]


@pytest.mark.parametrize(
    ("address", "good"),
    [(0, True), (0x7FFF_FFFF_FFFF, True), (0x8000_0000_0000, False), (0xFFFF_8000_0000_0000, True), (0xFFFF_7FFF_FFFF_FFFF, False)],
)
def test_canonical(address: int, good: bool) -> None:
    assert paging.is_canonical(address) is good


def test_canonical_57() -> None:
    assert paging.is_canonical(0x8000_0000_0000, 57)
    assert not paging.is_canonical(1 << 56, 57)
