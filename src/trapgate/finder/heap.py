"""Finds the block of glibc's allocator that an address is in, by the headers in front of all blocks (glibc, malloc/malloc.c).

A heap is chunks without gaps. Each begins with its own size, whose low bits are flags, behind the end of the one before it; the
last, "top", reaches to the heap's end. What does not look like that is another allocator's, of which nothing is said.
"""

from trapgate.finder.findings import Block
from trapgate.linux.kernel import Memory
from trapgate.linux.mappings import Mapping

MOST_CHUNKS = 1 << 17  # of a heap that are passed
_MAPPED, _OTHER_ARENA, _FLAGS = 2, 4, 7  # IS_MMAPPED, NON_MAIN_ARENA
_ALIGNMENT = 16  # MALLOC_ALIGNMENT
_PAGE = 4096
HEAP, ANONYMOUS = "[heap]", "[anonymous]"
_LEAST = 2  # words of a chunk in front of what is the program's: size of the one before, its own


def block(memory: Memory, place: Mapping, address: int, word: int) -> Block | None:
    """The block that an address in a mapping is in, if that is a heap, or has large blocks alone. `word`: bytes of a pointer."""
    if not word or place.path not in (HEAP, ANONYMOUS):
        return None
    heap = _Chunks(memory, place.start, place.end, word)
    return heap.block(address) if place.path == HEAP else heap.mapped(address)


class _Chunks:
    """Those in [start, end)."""

    def __init__(self, memory: Memory, start: int, end: int, word: int) -> None:
        self._memory, self._start, self._end, self._word = memory, start, end, word

    def block(self, address: int) -> Block | None:
        """That of the program's which an address is in; None where there is none: in headers, and what is not given out.

        A small one that was taken back lately still looks as if it were given out. The last word of a block is where the next
        chunk keeps this one's size while it is free.
        """
        chunk = self._start + (-self._start - _LEAST * self._word) % _ALIGNMENT
        for _ in range(MOST_CHUNKS):
            size = self._size(chunk)
            if size is None or chunk > address:
                return None
            if address < chunk + size + self._word and address >= chunk + _LEAST * self._word:
                given = chunk + _LEAST * self._word
                return Block(size - self._word, address - given) if self._in_use(chunk + size) else None
            chunk += size
        return None

    def mapped(self, address: int) -> Block | None:
        """The block that an address is in where each has pages of its own: the kernel joins neighbours to one mapping."""
        chunk = self._start
        for _ in range(MOST_CHUNKS):
            before, field = (self._memory.number(chunk + at * self._word, self._word) for at in range(2))
            if before or field is None or field & _FLAGS != _MAPPED:
                return None
            size = field & ~_FLAGS
            if not size or size % _PAGE or chunk + size > self._end:
                return None
            if address < chunk + size:
                offset = address - chunk - _LEAST * self._word
                return Block(size - _LEAST * self._word, offset) if offset >= 0 else None
            chunk += size
        return None

    def _size(self, chunk: int) -> int | None:
        """Bytes of a chunk; None where there is none that can be."""
        field = self._memory.number(chunk + self._word, self._word)
        if field is None or field & (_MAPPED | _OTHER_ARENA):
            return None
        size = field & ~_FLAGS
        if size % _ALIGNMENT or size < _LEAST * 2 * self._word or chunk + size > self._end:
            return None
        return size

    def _in_use(self, following: int) -> bool:
        """Whether the chunk in front of one is the program's: one that follows says so, and each that is, but the last, has one."""
        field = self._memory.number(following + self._word, self._word)
        return field is not None and bool(field & 1) and self._size(following) is not None
