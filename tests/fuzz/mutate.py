"""Inputs made of inputs, by a random source: bytes as they are, or lines of words and numbers."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

EDGES = (
    *(0, 1, 2, 3, 4, 7, 8, 0x0F, 0x10, 0x1F, 0x20, 0x3F, 0x40, 0x7F, 0x80, 0xFF, 0xFFF, 0x1000, 0x7FFF, 0x8000, 0xFFFF, 1 << 16),
    *((1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 47) - 1, 1 << 47, 1 << 48, (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
)
WIDTHS = (1, 2, 4, 8)  # bytes of an integer
HEAD = 512  # bytes where headers are: half of all changes go there
MOST_AT_ONCE = 6
LONGEST = 1 << 16  # bytes of an input

_NUMBER = re.compile(rb"[0-9a-fA-F]+")


@dataclass(frozen=True, slots=True)
class Words:
    """What a target's code compares with; `own`: what the target adds."""

    integers: Sequence[int]
    texts: Sequence[bytes]
    own: Sequence[bytes] = ()


class Mutator:
    """Makes inputs. `lines`: an input is text whose lines mean something each."""

    def __init__(self, source: random.Random, words: Words, lines: bool) -> None:
        self._random = source
        self._integers = tuple(words.integers) or EDGES
        self._texts = tuple(words.texts) or (b"\0",)
        self._own = tuple(words.own) or self._texts
        changes = [self._byte, self._integer, self._integer, self._near, self._text, self._copy, self._cut]
        of_lines = [self._line, self._line, self._word, self._hex, self._hex, self._digits, self._byte, self._cut]
        self._changes = of_lines if lines else changes

    def mutated(self, data: bytes, others: Sequence[bytes]) -> bytes:
        """A changed copy, with parts of another input perhaps."""
        out = bytearray(data)
        for _ in range(min(1 + int(self._random.expovariate(0.6)), MOST_AT_ONCE)):
            self._random.choice(self._changes)(out, others)
        return bytes(out[:LONGEST])

    def _place(self, out: bytearray) -> int:
        length = len(out) + 1
        return self._random.randrange(min(length, HEAD) if self._random.random() < 0.5 else length)

    def _put(self, out: bytearray, data: bytes, inserted: float = 0.2) -> None:
        at = self._place(out)
        out[at : at if self._random.random() < inserted else at + len(data)] = data

    def _some_text(self) -> bytes:
        return self._random.choice(self._own if self._random.random() < 0.5 else self._texts)

    def _number(self) -> int:
        value = self._random.choice(EDGES if self._random.random() < 0.5 else self._integers)
        return value + self._random.choice((0, 0, 0, 1, -1))

    def _byte(self, out: bytearray, others: Sequence[bytes]) -> None:
        self._put(out, bytes((self._random.randrange(256),)))

    def _integer(self, out: bytearray, others: Sequence[bytes]) -> None:
        size = self._random.choice(WIDTHS)
        self._put(out, (self._number() & (1 << 8 * size) - 1).to_bytes(size, "little"), 0.05)

    def _near(self, out: bytearray, others: Sequence[bytes]) -> None:
        """A number that stands there, a little more or less."""
        size, at = self._random.choice(WIDTHS), self._place(out)
        value = int.from_bytes(out[at : at + size], "little") + self._random.choice((1, -1, 4, -4, 16, -16, 4096, -4096))
        out[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")

    def _text(self, out: bytearray, others: Sequence[bytes]) -> None:
        self._put(out, self._some_text())

    def _copy(self, out: bytearray, others: Sequence[bytes]) -> None:
        """A piece of this input or another, put elsewhere."""
        origin = self._random.choice(others) if others and self._random.random() < 0.5 else bytes(out)
        start = self._random.randrange(len(origin) + 1)
        self._put(out, origin[start : start + self._random.choice((4, 8, 16, 56, 256))], 0.4)

    def _cut(self, out: bytearray, others: Sequence[bytes]) -> None:
        at = self._place(out)
        del out[at : at + self._random.choice((1, 2, 4, 16, 256, LONGEST))]

    # Lines

    def _line(self, out: bytearray, others: Sequence[bytes]) -> None:
        """A line is repeated, dropped, moved, or taken from another input."""
        lines = bytes(out).split(b"\n")
        at = self._random.randrange(len(lines) + 1)
        kind = self._random.randrange(4)
        if kind == 0 or len(lines) == 1:
            foreign = (self._random.choice(others) if others else bytes(out)).split(b"\n")
            start = self._random.randrange(len(foreign))
            lines[at:at] = foreign[start : start + self._random.choice((1, 1, 2, 8))]
        elif kind == 1:
            del lines[at - 1]
        else:
            taken = lines[self._random.randrange(len(lines))]
            lines.insert(at, taken)
            if kind == 3:
                lines.remove(taken)
        out[:] = b"\n".join(lines)

    def _word(self, out: bytearray, others: Sequence[bytes]) -> None:
        """A word where a line begins, or anywhere."""
        word = self._some_text()
        if self._random.random() < 0.5:
            starts = [0, *(match.end() for match in re.finditer(rb"\n", out))]
            at = self._random.choice(starts)
            out[at:at] = word + (b"\n" if self._random.random() < 0.5 else b"")
        else:
            self._put(out, word, 0.6)

    def _hex(self, out: bytearray, others: Sequence[bytes]) -> None:
        """A number that stands there becomes another."""
        found = list(_NUMBER.finditer(out))
        if found:
            match = self._random.choice(found)
            near = int(match.group(), 16) + self._random.choice((1, -1, 8, 0x1000)) if len(match.group()) <= 16 else 0
            value = near if self._random.random() < 0.3 else self._number()
            out[match.start() : match.end()] = b"%x" % (value & (1 << 64) - 1)

    def _digits(self, out: bytearray, others: Sequence[bytes]) -> None:
        """A byte in hex, amid others perhaps."""
        found = [match for match in _NUMBER.finditer(out) if len(match.group()) >= 2]
        if found:
            match = self._random.choice(found)
            at = match.start() + self._random.randrange(len(match.group()) // 2) * 2
            out[at : at + 2] = b"%02x" % (self._number() & 0xFF)
