"""Walks a guest's page tables without a trace, for those who look from outside (SDM vol. 3, 4.3 to 4.5)."""

from collections.abc import Callable

from trapgate.arch.control import CR0_PG, CR4_LA57, CR4_PAE, CR4_PSE, EFER_LMA
from trapgate.arch.paging import ADDRESS_4K, PS, Mode, P, may_be_large, mode_of, page_shift
from trapgate.values import dataclass

ReadEntry = Callable[[int, int], int | None]  # physical address, bytes; None where there is no RAM
NAMES = ("", "PTE", "PDE", "PDPTE", "PML4E", "PML5E")
"""What the manuals call an entry, by level."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry that a walk has read: its level (1 is the lowest), where it lies, and what it is; None: there is no RAM."""

    level: int
    address: int
    value: int | None

    @property
    def name(self) -> str:
        """As the manuals have it."""
        return NAMES[self.level]


@dataclass(frozen=True, slots=True)
class Walk:
    """What a walk has met, and where the address leads; None: nowhere, and `why` says so in a few words."""

    mode: Mode
    entries: tuple[Entry, ...]
    physical: int | None
    why: str = ""


def walk(read: ReadEntry, address: int, *, cr0: int, cr3: int, cr4: int, efer: int) -> Walk:
    """Where a linear address leads. Rights and reserved bits are not looked at."""
    mode = mode_of(cr0_pg=bool(cr0 & CR0_PG), cr4_pae=bool(cr4 & CR4_PAE), efer_lma=bool(efer & EFER_LMA))
    if mode is Mode.NONE:
        return Walk(mode, (), address & 0xFFFF_FFFF)
    levels, size, index_bits = mode.value
    if mode is Mode.LONG4:
        levels += bool(cr4 & CR4_LA57)
        width = 12 + 9 * levels
        if address >> width - 1 not in (0, (1 << 65 - width) - 1):
            return Walk(mode, (), None, "it is not canonical")
    else:
        address &= 0xFFFF_FFFF
    table = cr3 & (0xFFFF_FFE0 if mode is Mode.PAE else 0xFFFF_F000 if mode is Mode.BITS32 else ADDRESS_4K)
    entries = list[Entry]()
    for level in range(levels, 0, -1):
        shift = page_shift(mode, level)
        at = table + (address >> shift & (1 << index_bits) - 1) * size
        entry = read(at, size)
        entries.append(Entry(level, at, entry))
        if entry is None:
            return Walk(mode, tuple(entries), None, f"its {NAMES[level]} at {at:#x} lies where no RAM is")
        if not entry & P:
            return Walk(mode, tuple(entries), None, f"its {NAMES[level]} at {at:#x} is not present: {entry:#x}")
        if level == 1 or (entry & PS and may_be_large(mode, level, pse=bool(cr4 & CR4_PSE))):
            return Walk(mode, tuple(entries), _frame(mode, level, entry) & -1 << shift | address & (1 << shift) - 1)
        table = entry & ADDRESS_4K
    raise AssertionError("the lowest level always ends the walk")


def translate(read: ReadEntry, address: int, *, cr0: int, cr3: int, cr4: int, efer: int) -> int | None:
    """The guest-physical address behind a linear one; None when unmapped."""
    return walk(read, address, cr0=cr0, cr3=cr3, cr4=cr4, efer=efer).physical


def _frame(mode: Mode, level: int, entry: int) -> int:
    """The address in an entry that maps a page. A 4 MiB one has bits 39:32 in 20:13 (PSE-36)."""
    if mode is Mode.BITS32:
        return entry & 0xFFC0_0000 | (entry >> 13 & 0xFF) << 32 if level == 2 else entry & 0xFFFF_F000
    return entry & ADDRESS_4K
