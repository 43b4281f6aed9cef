"""Translated blocks: found by (RIP, physical address, mode), chained to each other, dropped when their bytes change.

Native code searches the same table (`isa.native.flows.dispatch`): open addressing, 32 bytes an entry: RIP, physical address,
mode, code. A page with translated code has one bit for each 64 bytes of it in `code_lines`, which is what the native store path
tests.
"""

import ctypes
import mmap
from collections.abc import Iterable
from dataclasses import dataclass, field

from trapgate.memory import Ram
from trapgate.soft.codebuffer import CodeBuffer

NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Python 3.11 has no name for it
TABLE_BITS = 18
PATIENCE = 8  # writes into the code of a page until all of its blocks are dropped
GONE = (1 << 64) - 1  # the mode of an entry whose block was dropped
Key = tuple[int, int, int]  # RIP, guest-physical address, mode


@dataclass(slots=True)
class Site:
    """A branch out of a block: where its 32-bit displacement lies, where it goes unlinked, which block it wants."""

    at: int
    unlinked: int
    wants: Key


@dataclass(slots=True, eq=False)
class Block:
    """A translated block and what is chained to it."""

    key: Key
    code: int  # offset in the code buffer
    length: int  # guest bytes
    pages: tuple[int, ...]  # guest-physical pages they lie in
    second: int  # guest-physical page of the bytes behind the first page, or -1
    slot: int = -1
    sites: list[Site] = field(default_factory=list)
    incoming: list[Site] = field(default_factory=list)


class Blocks:
    """All blocks of one vCPU."""

    def __init__(self, ram: Ram, code: CodeBuffer) -> None:
        self.code = code
        self.by_key: dict[Key, Block] = {}
        self.by_page: dict[int, set[Block]] = {}
        self.waiting: dict[Key, list[Site]] = {}
        self._table = mmap.mmap(-1, 32 << TABLE_BITS)
        self._lines = mmap.mmap(-1, max(4096, (ram.high_end >> 12) * 8), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE)
        self.table_address = ctypes.addressof(ctypes.c_char.from_buffer(self._table))
        self.lines_address = ctypes.addressof(ctypes.c_char.from_buffer(self._lines))
        self._entries = memoryview(self._table).cast("Q")
        self.lines = memoryview(self._lines).cast("Q")
        self._used = 0
        self._hits: dict[int, int] = {}  # by page: writes that hit translated code

    @property
    def full(self) -> bool:
        """Time to start over: the table or the code buffer runs out."""
        return self._used > (3 << TABLE_BITS) // 4 or self.code.room < 1 << 20

    def add(self, block: Block, findable: bool) -> None:
        """Register a block; link whoever waits for it. Blocks that are not `findable` are looked up by Python alone."""
        self.by_key[block.key] = block
        for page in block.pages:
            self.by_page.setdefault(page, set()).add(block)
        self._mark(block)
        if findable:
            self._insert(block)
            for site in self.waiting.pop(block.key, ()):
                self._link(site, block)
        for site in block.sites:
            target = self.by_key.get(site.wants)
            if target is not None and target.slot >= 0:
                self._link(site, target)
            else:
                self.waiting.setdefault(site.wants, []).append(site)

    def _link(self, site: Site, block: Block) -> None:
        self.code.patch(site.at, (block.code - site.at - 4).to_bytes(4, "little", signed=True))
        block.incoming.append(site)

    def _insert(self, block: Block) -> None:
        rip, physical, mode = block.key
        mask = (1 << TABLE_BITS) - 1
        place = ((physical ^ physical >> 15 ^ (rip >> 12) * 0x9E3779B1 ^ mode * 0x1003F) & 0xFFFFFFFF) & mask
        entries = self._entries
        for turn in range(16):
            at = (place + turn & mask) * 4
            if entries[at + 3] == 0 or entries[at + 2] == GONE:
                self._used += entries[at + 3] == 0
                entries[at], entries[at + 1], entries[at + 2] = rip, physical, mode
                entries[at + 3] = self.code.base + block.code
                block.slot = at
                return

    def _mark(self, block: Block) -> None:
        physical = block.key[1]
        page, offset = physical >> 12, physical & 4095
        first_length = min(block.length or 1, 4096 - offset)  # a breakpoint's block has no bytes, but goes with those behind it
        self.lines[page] |= _line_bits(offset, first_length)
        if block.second >= 0:
            self.lines[block.second >> 12] |= _line_bits(0, block.length - first_length)

    def holds_code(self, physical: int, length: int) -> bool:
        """Whether any 64-byte line of [physical, physical + length) was translated."""
        end = physical + length
        while physical < end:
            part = min(end, (physical | 4095) + 1) - physical
            if (lines := self.lines[physical >> 12]) and lines & _line_bits(physical & 4095, part):
                return True
            physical += part
        return False

    def touching(self, physical: int, length: int) -> list[Block]:
        """The blocks whose bytes overlap [physical, physical + length)."""
        found = []
        for page in range(physical & ~4095, physical + length, 4096):
            for block in self.by_page.get(page, ()):
                start = block.key[1]
                if block.second == page:
                    low, high = page, page + block.length - (4096 - (start & 4095))
                else:
                    low, high = start, start + block.length
                if low < physical + length and physical < high:
                    found.append(block)
        return found

    def written(self, physical: int, length: int) -> bool:
        """Bytes changed: forget the blocks made of them, or all of a page that changes over and over. Whether any was."""
        gone = self.touching(physical, length)
        for page in range(physical & ~4095, physical + length, 4096):
            if page in self.by_page and self.holds_code(
                max(page, physical), min(page + 4096, physical + length) - max(page, physical)
            ):
                self._hits[page] = hits = self._hits.get(page, 0) + 1
                if hits >= PATIENCE:
                    del self._hits[page]
                    gone += self.by_page[page]
        self.drop(gone)
        return bool(gone)

    def drop(self, blocks: Iterable[Block]) -> None:
        """Forget blocks: nothing leads to them any more (the caller forgets the jump cache)."""
        pages = set[int]()
        for block in blocks:
            if self.by_key.pop(block.key, None) is not None:
                self._unlink(block)
                pages.update(block.pages)
        for page in pages:
            self.lines[page >> 12] = 0
            left = self.by_page.get(page)
            if left:
                for other in left:
                    self._mark(other)
            else:
                self.by_page.pop(page, None)

    def _unlink(self, block: Block) -> None:
        for site in block.incoming:
            self.code.patch(site.at, (site.unlinked - site.at - 4).to_bytes(4, "little", signed=True))
            self.waiting.setdefault(block.key, []).append(site)
        for site in block.sites:
            target = self.by_key.get(site.wants)
            if target is not None and site in target.incoming:
                target.incoming.remove(site)
            queue = self.waiting.get(site.wants)
            if queue is not None and site in queue:
                queue.remove(site)
        if block.slot >= 0:
            self._entries[block.slot + 2] = GONE
        for page in block.pages:
            self.by_page[page].discard(block)

    def clear(self) -> None:
        """Forget everything, code included."""
        for page in self.by_page:
            self.lines[page >> 12] = 0
        self.by_key.clear()
        self.by_page.clear()
        self.waiting.clear()
        ctypes.memset(self.table_address, 0, 32 << TABLE_BITS)
        self._used = 0
        self.code.reset()


def _line_bits(offset: int, length: int) -> int:
    """One bit for each 64-byte line of a page that [offset, offset + length) touches."""
    first, last = offset >> 6, offset + length - 1 >> 6
    return ((2 << last - first) - 1) << first & (1 << 64) - 1
