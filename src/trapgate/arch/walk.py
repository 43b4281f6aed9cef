"""Walks a guest's page tables without a trace, for those who look from outside (SDM vol. 3, 4.3 to 4.5)."""

from collections.abc import Callable

from trapgate.arch.control import CR0_PG, CR4_LA57, CR4_PAE, CR4_PSE, EFER_LMA
from trapgate.arch.paging import ADDRESS_4K, PS, Mode, P, may_be_large, mode_of, page_shift

ReadEntry = Callable[[int, int], int | None]  # physical address, bytes; None where there is no RAM


def translate(read: ReadEntry, address: int, *, cr0: int, cr3: int, cr4: int, efer: int) -> int | None:
    """The guest-physical address behind a linear one; None when unmapped. Rights and reserved bits are not looked at."""
    mode = mode_of(cr0_pg=bool(cr0 & CR0_PG), cr4_pae=bool(cr4 & CR4_PAE), efer_lma=bool(efer & EFER_LMA))
    if mode is Mode.NONE:
        return address & 0xFFFF_FFFF
    levels, size, index_bits = mode.value
    if mode is Mode.LONG4:
        levels += bool(cr4 & CR4_LA57)
        width = 12 + 9 * levels
        if address >> width - 1 not in (0, (1 << 65 - width) - 1):
            return None  # not canonical
    else:
        address &= 0xFFFF_FFFF
    table = cr3 & (0xFFFF_FFE0 if mode is Mode.PAE else 0xFFFF_F000 if mode is Mode.BITS32 else ADDRESS_4K)
    for level in range(levels, 0, -1):
        shift = page_shift(mode, level)
        entry = read(table + (address >> shift & (1 << index_bits) - 1) * size, size)
        if entry is None or not entry & P:
            return None
        if level == 1 or (entry & PS and may_be_large(mode, level, pse=bool(cr4 & CR4_PSE))):
            return _frame(mode, level, entry) & -1 << shift | address & (1 << shift) - 1
        table = entry & ADDRESS_4K
    raise AssertionError("the lowest level always ends the walk")


def _frame(mode: Mode, level: int, entry: int) -> int:
    """The address in an entry that maps a page. A 4 MiB one has bits 39:32 in 20:13 (PSE-36)."""
    if mode is Mode.BITS32:
        return entry & 0xFFC0_0000 | (entry >> 13 & 0xFF) << 32 if level == 2 else entry & 0xFFFF_F000
    return entry & ADDRESS_4K
