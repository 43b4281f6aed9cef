"""Reads call frame information: where a function's caller left its registers, for each of its instructions (DWARF 5, 6.4.1).

That of .eh_frame differs from .debug_frame in how entries name each other, and in pointers (Linux Standard Base, Core, 10.6.1).
"""

from bisect import bisect_right
from functools import cached_property

from trapgate.finder.stacks.reading import ABSOLUTE, DATA_4, DATA_RELATIVE, OMITTED, PC_RELATIVE, Malformed, Reader
from trapgate.finder.stacks.rows import Factors, Row, Rules, run
from trapgate.values import dataclass

MOST_ENTRIES = 1 << 20
_WIDE = 0xFFFF_FFFF  # instead of a length: one of 8 bytes follows


@dataclass(frozen=True, slots=True)
class _Common:
    """What entries have in common (CIE)."""

    factors: Factors
    return_register: int
    signal: bool
    augmented: bool
    program: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """The call frame information of the code [start, end) (FDE); its instructions lie at `at`."""

    start: int
    end: int
    common: _Common
    program: bytes
    at: int

    def rules(self, address: int) -> Rules:
        """How the caller's registers are had at an address. Malformed."""
        row, common = Row(), self.common
        run(common.program, row, common.factors)
        row.initial = dict(row.rules)
        run(self.program, row, common.factors, self.at, self.start, address)
        return Rules(row.base, row.offset, row.code, row.rules, common.return_register, common.signal)


class Section:
    """Entries of .eh_frame (`exceptions`) or .debug_frame: `data`, that lies at `address`; `word`: bytes of a pointer."""

    def __init__(self, data: bytes, address: int, word: int, *, exceptions: bool) -> None:
        self._data, self.address, self._word, self._exceptions = data, address, word, exceptions
        self._commons: dict[int, _Common] = {}

    def at(self, offset: int) -> Entry | None:
        """The entry at an offset; None where there is another thing. Malformed."""
        return self._read(offset)[0]

    def find(self, address: int) -> Entry | None:
        """The entry of an address, by looking at all of them once. Malformed."""
        at = bisect_right(self.index, (address, len(self._data))) - 1
        entry = self.at(self.index[at][1]) if at >= 0 else None
        return entry if entry is not None and address < entry.end else None

    @cached_property
    def index(self) -> list[tuple[int, int]]:
        """(first address, offset) of all entries up to one that is malformed, by address."""
        found: list[tuple[int, int]] = []
        at = 0
        while at < len(self._data) and len(found) < MOST_ENTRIES:
            try:
                entry, following = self._read(at)
            except Malformed:
                break
            if entry is not None and entry.end > entry.start:
                found.append((entry.start, at))
            at = following
        return sorted(found)

    def _head(self, at: int) -> tuple[Reader, int, int]:
        """(what follows the length, bytes of offsets, end)."""
        reader = Reader(self._data, at)
        length, size = reader.number(4), 4
        if length == _WIDE:
            length, size = reader.number(8), 8
        return Reader(self._data, reader.at, reader.at + length), size, reader.at + length

    def _of_common(self, size: int) -> int:
        """What a common part has where an entry names its own."""
        return 0 if self._exceptions else (1 << 8 * size) - 1

    def _read(self, at: int) -> tuple[Entry | None, int]:
        """(entry, where the next begins). An empty one, and a common part, is None."""
        reader, size, end = self._head(at)
        size = 4 if self._exceptions else size
        if not reader:
            return None, end
        here, named = reader.at, reader.number(size)
        if named == self._of_common(size):
            return None, end
        common = self._common(here - named if self._exceptions else named)
        encoding = common.factors.encoding
        start = reader.pointer(encoding, self._word, self._base)
        length = reader.pointer(encoding & 0x0F, self._word, self._base)
        if common.augmented:
            reader.block()
        at = reader.at
        return Entry(start, start + length, common, reader.take(reader.end - at), self.address + at), end

    def _base(self, kind: int) -> int:
        if kind == PC_RELATIVE:
            return self.address
        raise Malformed(f"a pointer relative to what is not known ({kind:#x})")

    def _common(self, at: int) -> _Common:
        if at not in self._commons:
            self._commons[at] = self._read_common(at)
        return self._commons[at]

    def _read_common(self, at: int) -> _Common:
        reader, size, _ = self._head(at)
        size = 4 if self._exceptions else size
        if reader.number(size) != self._of_common(size):
            raise Malformed("an entry whose common part is none")
        version, augmentation = reader.byte(), reader.string()
        if augmentation.startswith(b"eh"):
            reader.take(self._word)
        if version >= 4:
            reader.take(2)  # bytes of an address, of a segment's
        code, data = reader.uleb(), reader.sleb()
        register = reader.byte() if version == 1 else reader.uleb()
        augmented = augmentation.startswith(b"z")
        encoding = self._encoding(Reader(reader.block()), augmentation) if augmented else ABSOLUTE
        program = reader.take(reader.end - reader.at)
        return _Common(Factors(code, data, encoding, self._word), register, b"S" in augmentation, augmented, program)

    def _encoding(self, reader: Reader, augmentation: bytes) -> int:
        """How an entry's pointers are written. What follows a letter that is not known, is not known either."""
        for letter in augmentation[1:].decode("latin-1"):
            if letter == "R":
                return reader.byte()
            if letter == "L":
                reader.byte()
            elif letter == "P":
                reader.pointer(reader.byte(), self._word, lambda kind: 0)
            elif letter not in "SB":
                break
        return ABSOLUTE


class Search:
    """The table .eh_frame_hdr, which says where in .eh_frame an address has its entry (Linux Standard Base, Core, 10.6.2).

    Malformed when it is no table that can be searched.
    """

    def __init__(self, data: bytes, address: int, word: int) -> None:
        reader, self._address = Reader(data), address
        version, pointer, count, table = reader.take(4)
        if version != 1 or table != DATA_4 or OMITTED in (pointer, count):
            raise Malformed("a table that cannot be searched")
        bases = {PC_RELATIVE: address, DATA_RELATIVE: address}
        self.section = reader.pointer(pointer, word, lambda kind: bases.get(kind, 0))
        """The address of .eh_frame."""
        number = reader.pointer(count, word, lambda kind: bases.get(kind, 0))
        self._rows = memoryview(reader.take(8 * min(number, MOST_ENTRIES))).cast("i")

    def find(self, address: int) -> int | None:
        """The address of the entry that an address may have; None where it lies before all."""
        wanted = address - self._address
        rows = self._rows
        at = bisect_right(range(len(rows) // 2), wanted, key=lambda row: rows[2 * row]) - 1
        return self._address + rows[2 * at + 1] if at >= 0 else None
