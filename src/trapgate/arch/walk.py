"""Walks a guest's page tables without a trace, for those who look from outside (SDM vol. 3, 4.3 to 4.5)."""

from collections.abc import Callable
from functools import cache

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


@dataclass(frozen=True, slots=True)
class Shape:
    """Page tables of one kind: `largest` is the highest level whose entries may map a page, `root` the bits of CR3 that count."""

    mode: Mode
    levels: int
    size: int  # bytes of an entry
    index_bits: int
    largest: int
    root: int
    not_canonical: int  # the lowest address that is none; 0: all addresses of 32 bits are


@cache
def _shape(pg: int, cr4: int, lma: int) -> Shape | None:
    """Of CR0.PG, CR4's LA57, PAE and PSE, and EFER.LMA; None without paging."""
    mode = mode_of(cr0_pg=bool(pg), cr4_pae=bool(cr4 & CR4_PAE), efer_lma=bool(lma))
    if mode is Mode.NONE:
        return None
    levels, size, index_bits = mode.value
    if mode is Mode.LONG4:
        levels += bool(cr4 & CR4_LA57)
    pse = bool(cr4 & CR4_PSE)
    largest = max(level for level in range(1, levels + 1) if level == 1 or may_be_large(mode, level, pse=pse))
    root = 0xFFFF_FFE0 if mode is Mode.PAE else 0xFFFF_F000 if mode is Mode.BITS32 else ADDRESS_4K
    return Shape(mode, levels, size, index_bits, largest, root, 1 << page_shift(mode, levels + 1) - 1 if mode is Mode.LONG4 else 0)


def walk(read: ReadEntry, address: int, *, cr0: int, cr3: int, cr4: int, efer: int) -> Walk:
    """Where a linear address leads. Rights and reserved bits are not looked at."""
    shape = _shape(cr0 & CR0_PG, cr4 & (CR4_LA57 | CR4_PAE | CR4_PSE), efer & EFER_LMA)
    entries = list[Entry]()

    def noted(at: int, size: int) -> int | None:
        assert shape is not None
        entries.append(Entry(shape.levels - len(entries), at, read(at, size)))
        return entries[-1].value

    physical = translate(noted, address, cr0=cr0, cr3=cr3, cr4=cr4, efer=efer)
    mode, why = Mode.NONE if shape is None else shape.mode, ""
    if physical is None and not entries:
        why = "it is not canonical"
    elif physical is None:
        last = entries[-1]
        state = "lies where no RAM is" if last.value is None else f"is not present: {last.value:#x}"
        why = f"its {last.name} at {last.address:#x} {state}"
    return Walk(mode, tuple(entries), physical, why)


def translate(read: ReadEntry, address: int, *, cr0: int, cr3: int, cr4: int, efer: int) -> int | None:
    """The guest-physical address behind a linear one; None when unmapped. Rights and reserved bits are not looked at."""
    shape = _shape(cr0 & CR0_PG, cr4 & (CR4_LA57 | CR4_PAE | CR4_PSE), efer & EFER_LMA)
    if shape is None:
        return address & 0xFFFF_FFFF
    beyond = shape.not_canonical
    if not beyond:
        address &= 0xFFFF_FFFF
    elif beyond <= address < (1 << 64) - beyond:
        return None
    table, size, index_bits, largest = cr3 & shape.root, shape.size, shape.index_bits, shape.largest
    index, shift = (1 << index_bits) - 1, 12 + shape.levels * index_bits
    for level in range(shape.levels, 0, -1):
        shift -= index_bits
        entry = read(table + (address >> shift & index) * size, size)
        if entry is None or not entry & P:
            return None
        if level == 1 or (entry & PS and level <= largest):
            return _frame(shape.mode, level, entry) & -1 << shift | address & (1 << shift) - 1
        table = entry & ADDRESS_4K
    raise AssertionError("the lowest level always ends the walk")


def _frame(mode: Mode, level: int, entry: int) -> int:
    """The address in an entry that maps a page. A 4 MiB one has bits 39:32 in 20:13 (PSE-36)."""
    if mode is Mode.BITS32:
        return entry & 0xFFC0_0000 | (entry >> 13 & 0xFF) << 32 if level == 2 else entry & 0xFFFF_F000
    return entry & ADDRESS_4K
