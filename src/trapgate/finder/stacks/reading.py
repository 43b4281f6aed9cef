"""Reads the numbers that DWARF and .eh_frame are made of (DWARF 5, 7.6; Linux Standard Base, Core, 10.5)."""

from collections.abc import Callable

ABSOLUTE, PC_RELATIVE, TEXT_RELATIVE, DATA_RELATIVE, FUNCTION_RELATIVE, ALIGNED = 0x00, 0x10, 0x20, 0x30, 0x40, 0x50
INDIRECT, OMITTED = 0x80, 0xFF
DATA_4 = 0x3B  # offsets of 4 bytes from the beginning of the section: what linkers write into tables that are searched
_SIZES = {0x02: (2, False), 0x03: (4, False), 0x04: (8, False), 0x0A: (2, True), 0x0B: (4, True), 0x0C: (8, True)}
_ULEB, _SLEB = 0x01, 0x09
_LONGEST_LEB = 10  # bytes of 64 bits


class Malformed(ValueError):
    """What is read is none of what it should be."""


class Reader:
    """Reads numbers one behind the other out of `data`. Malformed where it ends, or holds none such."""

    def __init__(self, data: bytes, at: int = 0, end: int | None = None) -> None:
        self.data, self.at = data, at
        self.end = len(data) if end is None else end
        if not 0 <= at <= self.end <= len(data):
            raise Malformed("a place outside its section")

    def __bool__(self) -> bool:
        return self.at < self.end

    def take(self, length: int) -> bytes:
        """The next bytes."""
        at = self.at
        if length < 0 or at + length > self.end:
            raise Malformed("it ends amid an entry")
        self.at = at + length
        return self.data[at : self.at]

    def number(self, size: int, *, signed: bool = False) -> int:
        """A number of `size` bytes."""
        return int.from_bytes(self.take(size), "little", signed=signed)

    def byte(self) -> int:
        """A byte."""
        return self.number(1)

    def uleb(self) -> int:
        """An unsigned number of as many bytes as it takes."""
        return self._leb()[0]

    def sleb(self) -> int:
        """A signed one."""
        value, bits, last = self._leb()
        return value - (1 << bits) if last & 0x40 else value

    def _leb(self) -> tuple[int, int, int]:
        value = bits = 0
        for _ in range(_LONGEST_LEB):
            byte = self.byte()
            value |= (byte & 0x7F) << bits
            bits += 7
            if byte < 0x80:
                return value, bits, byte
        raise Malformed("a number longer than any")

    def block(self) -> bytes:
        """Bytes with their length before them."""
        return self.take(self.uleb())

    def string(self) -> bytes:
        """Bytes up to a zero."""
        end = self.data.find(b"\0", self.at, self.end)
        if end < 0:
            raise Malformed("a string without an end")
        text, self.at = self.data[self.at : end], end + 1
        return text

    def pointer(self, encoding: int, word: int, relative_to: Callable[[int], int]) -> int:
        """A pointer as .eh_frame encodes them; `relative_to`: the base of those of a kind, PC_RELATIVE and so on.

        One that says where the pointer lies (INDIRECT) is told as that place.
        """
        kind, start = encoding & 0x0F, self.at
        if encoding & 0x70 == ALIGNED:
            self.take(-start % word)
            return self.number(word)
        if kind == 0:
            value = self.number(word)
        elif kind == _ULEB:
            value = self.uleb()
        elif kind == _SLEB:
            value = self.sleb()
        elif kind in _SIZES:
            size, signed = _SIZES[kind]
            value = self.number(size, signed=signed)
        else:
            raise Malformed(f"a pointer of encoding {encoding:#x}")
        if value and encoding & 0x70:
            value += relative_to(encoding & 0x70) + (start if encoding & 0x70 == PC_RELATIVE else 0)
        return value & ((1 << 8 * word) - 1)
