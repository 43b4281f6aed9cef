"""Lists what a guest's page tables map, as ranges: `monitor info mem`. The tables may be of any kind, and lead anywhere."""

import struct
from collections.abc import Callable, Iterator

from trapgate.arch.control import CR0_PG, CR4_LA57, CR4_PAE, CR4_PSE, EFER_LMA
from trapgate.arch.paging import ADDRESS_4K, NX, PS, RW, US, Mode, P, may_be_large, mode_of, page_shift
from trapgate.values import dataclass

MOST_TABLES = 1 << 12
"""Tables that are looked through: a guest's may refer to each other without an end."""

_GRANTED = US | RW  # by every level; NX is denied by any


class TooMany(Exception):
    """There are more tables than anybody wants to look through; what was found before stands."""


@dataclass(frozen=True, slots=True)
class Range:
    """Linear addresses [start, end) with the same rights: bits US, RW and NX of page table entries, of all levels together."""

    start: int
    end: int
    rights: int


Read = Callable[[int, int], bytes]  # RAM at a guest-physical address; short, or nothing, where there is none


class _Walk:
    """One look through the tables."""

    def __init__(self, read: Read, mode: Mode, large: bool) -> None:
        self._read, self._mode, self._large = read, mode, large
        self._left = MOST_TABLES

    def pages(self, table: int, level: int, base: int, rights: int) -> Iterator[Range]:
        """What is mapped below a table, in the order of addresses; pages of one table that lie side by side are one range."""
        if not self._left:
            raise TooMany(f"the rest is left out: there are more than {MOST_TABLES} tables")
        self._left -= 1
        top = self._mode is Mode.PAE and level == self._mode.levels  # its entries are four, and have no rights
        large = level == 1 or may_be_large(self._mode, level, pse=self._large)
        step, begin, end, last = 1 << page_shift(self._mode, level), -1, -1, 0
        for index, entry in enumerate(self._entries(table, 4 if top else 1 << self._mode.value[2])):
            if not entry & P:
                continue
            here, now = base + index * step, rights if top else rights & entry & _GRANTED | (rights | entry) & NX
            if large and (entry & PS or level == 1):
                if here == end and now == last:
                    end += step
                    continue
                if end > begin:
                    yield Range(begin, end, last)
                begin, end, last = here, here + step, now
                continue
            if end > begin:
                yield Range(begin, end, last)
            begin = end
            yield from self.pages(entry & (0xFFFF_F000 if self._mode is Mode.BITS32 else ADDRESS_4K), level - 1, here, now)
        if end > begin:
            yield Range(begin, end, last)

    def _entries(self, table: int, count: int) -> tuple[int, ...]:
        """As many as lie in RAM."""
        size = self._mode.value[1]
        data = self._read(table, count * size)
        present = len(data) // size
        return struct.unpack(f"<{present}{'Q' if size == 8 else 'I'}", data[: present * size])


def ranges(read: Read, *, cr0: int, cr3: int, cr4: int, efer: int) -> Iterator[Range]:
    """Every range that is mapped; TooMany behind the last that was found. Nothing where paging is off."""
    mode = mode_of(cr0_pg=bool(cr0 & CR0_PG), cr4_pae=bool(cr4 & CR4_PAE), efer_lma=bool(efer & EFER_LMA))
    if mode is Mode.NONE:
        return
    levels = mode.levels + (mode is Mode.LONG4 and bool(cr4 & CR4_LA57))
    table = cr3 & (0xFFFF_FFE0 if mode is Mode.PAE else 0xFFFF_F000 if mode is Mode.BITS32 else ADDRESS_4K)
    width = 12 + 9 * levels if mode is Mode.LONG4 else 0
    pages = _Walk(read, mode, bool(cr4 & CR4_PSE)).pages(table, levels, 0, _GRANTED)
    yield from _joined(pages, upper=1 << width - 1 if width else 1 << 32)


def _joined(pages: Iterator[Range], upper: int) -> Iterator[Range]:
    """Pages side by side with the same rights as one; those from `upper` on lie at the end of the address space."""
    last: Range | None = None
    more: TooMany | None = None
    while True:
        try:
            page = next(pages, None)
        except TooMany as error:
            page, more = None, error
        if page is not None and page.start >= upper:
            move = (1 << 64) - 2 * upper
            page = Range(page.start + move, page.end + move, page.rights)
        if last is not None and page is not None and (last.end, last.rights) == (page.start, page.rights):
            last = Range(last.start, page.end, last.rights)
            continue
        if last is not None:
            yield last
        if page is None:
            break
        last = page
    if more is not None:
        raise more


def words(one: Range) -> str:
    """User, read, write, execute, as letters."""
    letters = (("u", one.rights & US), ("r", 1), ("w", one.rights & RW), ("x", not one.rights & NX))
    return "".join(letter if has else "-" for letter, has in letters)
