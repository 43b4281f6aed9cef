"""Remembers translated blocks and where they are: found by (RIP, physical address, mode), dropped when their bytes change.

Most of them are entries of a table that native code fills and searches by itself (`isa.native.placing`). Python keeps those that it
alone looks for, blocks of one instruction for steps, and blocks that lie in two pages, which it shows to the dispatcher.

A page with translated code has one bit for each 64 bytes of it in `code_lines`, which is what the native store path tests. What
native code alone holds it forgets by itself (`isa.native.forgetting`); a store into the page of the code that runs, or into
blocks that Python keeps, is Python's.
"""

import ctypes
import struct
from collections.abc import Iterator
from itertools import chain

from trapgate.isa import modes
from trapgate.isa.native.placing import GONE, NEXT_BITS
from trapgate.isa.native.spanning import PLACES, SPANNING, place_of
from trapgate.mapping import Mapping
from trapgate.memory import PAGE_SIZE, Ram
from trapgate.soft.state.codebuffer import CodeBuffer
from trapgate.soft.state.view import CpuState
from trapgate.values import dataclass

TABLE_BITS = 18
assert TABLE_BITS < NEXT_BITS
PATIENCE = 8  # writes into the code of a page until all of its blocks are dropped
Key = tuple[int, int, int]  # RIP, guest-physical address, mode


@dataclass(slots=True, eq=False)
class Block:
    """A block that Python keeps."""

    key: Key
    code: int  # host address
    length: int  # guest bytes
    second: int  # guest-physical page of the bytes behind the first page, or -1

    @property
    def pages(self) -> tuple[int, ...]:
        """The guest-physical pages it lies in."""
        first = self.key[1] & ~(PAGE_SIZE - 1)
        return (first,) if self.second < 0 else (first, self.second)

    def dropped(self) -> None:
        """It is gone."""

    def part(self, page: int) -> tuple[int, int]:
        """(first offset, one past the last) of its bytes in one of its pages."""
        start = self.key[1] & PAGE_SIZE - 1
        if page == self.second:
            return 0, start + self.length - PAGE_SIZE
        return start, min(start + self.length, PAGE_SIZE)


class Blocks:
    """All blocks. The account of them is in the state of the CPU that runs: `keep_account`."""

    def __init__(self, ram: Ram, code: CodeBuffer, state: CpuState) -> None:
        self._code = code
        self.keep_account(state)
        self._forget = code.function("forget_blocks", 64, 3)
        self._forget_offset = code.function("forget_offset", 0, 1)
        self._forget_all = code.function("forget_all", 0, 0)
        self.by_key: dict[Key, Block] = {}  # those that Python keeps
        self._by_page: dict[int, set[Block]] = {}
        self.generation = 0  # how often all were forgotten
        self._hits: dict[int, int] = {}  # by page: writes that hit translated code
        pages = ram.high_end >> 12
        self._table, self._heads = Mapping(32 << TABLE_BITS, "the table of blocks"), Mapping(4 * pages, "the blocks of each page")
        self._spanning = Mapping(SPANNING.size * PLACES, "the table of blocks in two pages")
        state.spanning = self._spanning.address
        lines, kept = (Mapping(8 * pages, "the lines of code in each page") for _ in range(2))
        self.lines, self._kept_lines = lines.view.cast("Q"), kept.view.cast("Q")
        state.block_table, state.block_mask = self._table.address, (1 << TABLE_BITS) - 1
        state.page_blocks, state.code_lines, state.kept_lines = self._heads.address, lines.address, kept.address
        state.code_base, state.code_write, state.code_end, state.code_limit = code.base, code.written_at, code.first, code.limit

    def keep_account(self, state: CpuState) -> None:
        """In this state from now on."""
        self._state, self._address = state, ctypes.addressof(state)

    @property
    def any(self) -> bool:
        """Whether there are blocks at all."""
        return bool(self._state.block_count or self.by_key)

    @property
    def full(self) -> bool:
        """Time to start over: the table or the code buffer runs out."""
        st = self._state
        return bool(st.block_count > (3 << TABLE_BITS) // 4 or st.code_limit - st.code_end < 1 << 20)

    def around(self, address: int) -> tuple[int, int, int] | None:
        """(RIP, guest-physical address, mode) of the block whose code lies at or nearest before a host address. Slow."""
        kept = ((block.code, block.key) for block in self.by_key.values())
        words = struct.iter_unpack("<QQIIII", bytes(self._table.view))
        placed = ((self._code.base + code, (rip, at, mode)) for rip, at, mode, _, code, _ in words if code and mode != GONE)
        return max(((code, key) for code, key in chain(kept, placed) if code <= address), default=(0, None))[1]

    def keep(self, block: Block) -> None:
        """Register a block that Python alone looks for."""
        self.by_key[block.key] = block
        self.show(block)
        for page in block.pages:
            self._by_page.setdefault(page, set()).add(block)
            self._kept_lines[page >> 12] |= _line_bits(*block.part(page))
            self.lines[page >> 12] |= _line_bits(*block.part(page))

    def show(self, block: Block) -> None:
        """Let the dispatcher find a block that lies in two pages (`isa.native.spanning`); steps are never looked for."""
        rip, physical, mode = block.key
        if block.second >= 0 and not mode & modes.STEP:
            at = place_of(rip) * SPANNING.size
            SPANNING.put(self._spanning.view, at, rip=rip, physical=physical, mode=mode, second=block.second, code=block.code)

    def _hide(self, block: Block) -> None:
        at = place_of(block.key[0]) * SPANNING.size
        if SPANNING.read(self._spanning.view, at)["code"] == block.code:
            SPANNING.put(self._spanning.view, at, code=0)

    def holds_code(self, physical: int, length: int) -> bool:
        """Whether any 64-byte line of [physical, physical + length) was translated."""
        return any(self.lines[page >> 12] & _line_bits(first, end) for page, first, end in _parts(physical, length))

    def written(self, physical: int, length: int) -> bool:
        """Bytes changed: forget the blocks made of them, or all of a page that changes over and over. Whether any was."""
        if not any(self.lines[physical >> 12 : (physical + length - 1 >> 12) + 1]):
            return False
        gone = False
        for page, first, end in _parts(physical, length):
            if not self.lines[page >> 12] & _line_bits(first, end):
                continue
            self._hits[page] = hits = self._hits.get(page, 0) + 1
            if hits >= PATIENCE:
                del self._hits[page]
                first, end = 0, PAGE_SIZE
            gone |= self._drop(page, first, end)
        return gone

    def drop(self, block: Block) -> None:
        """Forget a block that Python keeps."""
        del self.by_key[block.key]
        self._hide(block)
        self._state.blocks_forgotten += 1
        for page in block.pages:
            self._by_page[page].discard(block)
            self._mark_again(page)
        block.dropped()

    def drop_at(self, offset: int) -> None:
        """Forget the blocks with a byte at this offset in whatever page (the caller forgets the jump cache)."""
        self._forget_offset(self._address, offset)
        for page in list(self._by_page):
            self._drop(page, offset, offset + 1)

    def _drop(self, page: int, first: int, end: int) -> bool:
        """Forget the blocks with bytes in [first, end) of a page. Whether there were any."""
        kept = [block for block in self._by_page.get(page, ()) if block.part(page)[0] < end and first < block.part(page)[1]]
        for block in kept:
            if block.key in self.by_key:  # one may take others along
                self.drop(block)
        gone = self._forget(self._address, page, first, end - 1)
        return bool(kept or gone)

    def _mark_again(self, page: int) -> None:
        """Work out the lines of a page after blocks have gone."""
        kept = 0
        for block in self._by_page.get(page, ()):
            kept |= _line_bits(*block.part(page))
        self._kept_lines[page >> 12] = kept
        self._forget(self._address, page, PAGE_SIZE, 0)  # none: it marks them

    def clear(self) -> None:
        """Forget everything, code included."""
        for page in self._by_page:
            self.lines[page >> 12] = self._kept_lines[page >> 12] = 0
        self.generation += 1
        self.by_key.clear()
        ctypes.memset(self._spanning.address, 0, len(self._spanning.view))
        self._by_page.clear()
        self._forget_all(self._address)
        ctypes.memset(self._state.block_table, 0, len(self._table.view))
        self._state.block_count, self._state.code_end = 0, self._code.first


def _parts(physical: int, length: int) -> Iterator[tuple[int, int, int]]:
    """(page, first offset, one past the last) of the pages that [physical, physical + length) touches."""
    end = physical + length
    for page in range(physical & ~(PAGE_SIZE - 1), end if length else 0, PAGE_SIZE):
        yield page, max(physical - page, 0), min(end - page, PAGE_SIZE)


def _line_bits(first: int, end: int) -> int:
    """One bit for each 64-byte line of a page that the offsets [first, end) touch."""
    low, high = first >> 6, end - 1 >> 6
    return ((2 << high - low) - 1) << low & (1 << 64) - 1
