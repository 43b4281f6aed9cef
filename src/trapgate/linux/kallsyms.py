"""Reads the symbols that a Linux kernel carries in its own image, out of the guest's memory (Linux, scripts/kallsyms.c).

No debug package is needed and no address is guessed: the tables say where everything lies in this boot, KASLR included. They are
found by what they must look like, and believed only when a symbol lies at an address that the CPU itself holds, the anchor.

The image has, in this order: the number of symbols; their names, each a length and that many tokens, the first character being
the kind; markers, the offset of every 256th name; the 256 tokens, strings that end with a zero; and where each token begins. An
offset for each symbol, and the base that it counts from, lie in front of all that (up to Linux 6.3) or behind it; newer kernels
have no base, but count each offset from where it lies (seen in 7.3).
"""

import struct
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from trapgate.errors import TrapgateError
from trapgate.values import dataclass

TOKENS = 256
NAMES_A_MARKER = 256
LONGEST_NAME = 1024  # in tokens: KSYM_NAME_LEN is 512
MOST_SYMBOLS = 1 << 20
LOOK = 1 << 12  # single steps between two looks at the clock
MOST_STEPS = 1 << 23  # of a search, some seconds: a real kernel takes less than a tenth
FURTHEST_MARKERS = 4 << 20  # bytes from the first marker to the tokens: some releases have 3 bytes for each name between them
_DIGITS = b"".join(b"%d\0" % digit for digit in range(10))
_FIRST_DIGIT = ord("0")
_ZERO = bytes(4)
_FEW = struct.Struct("<9I")  # markers: so many in a row are no chance


class KallsymsError(TrapgateError):
    """There are no tables that could be believed."""


class TooSlow(KallsymsError):
    """The search took longer than somebody waits: nothing is known of what is there."""


class KernelSymbol(NamedTuple):
    """A symbol: its address in this boot, and its kind as `nm` prints it, T and t for code, in front of its name."""

    address: int
    label: str

    @property
    def kind(self) -> str:
        """One letter; a capital for what other files of the kernel may use."""
        return self.label[0]

    @property
    def name(self) -> str:
        """As in the source; compilers add what follows a point."""
        return self.label[1:]


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Where the table of tokens begins, what each token stands for, and where the table of their places ends."""

    start: int
    words: tuple[str, ...]
    end: int


@dataclass(frozen=True, slots=True)
class _Names:
    """Where the number of symbols lies, and every symbol's tokens."""

    start: int
    coded: tuple[bytes, ...]


def kernel_symbols(image: bytes, start: int, anchor: int, word: int = 8, until: float | None = None) -> list[KernelSymbol]:
    """All symbols by address, out of `image`, memory from the virtual address `start` on that holds the tables. KallsymsError.

    `anchor` is the address of some function, which must come out as one of the symbols; `word`: bytes of a pointer.
    From `until` on (time.monotonic(), s) nobody waits any more: TooSlow.
    """
    search = _Search(image, until)
    for tokens in search.tokens():
        for names in search.names(tokens.start):
            for addresses in _addresses(image, start, names, tokens.end, word):
                search.spend(0)
                if anchor in addresses:
                    return sorted(_decoded(tokens, names, addresses))
    raise KallsymsError("there is no Linux kernel here that carries its symbols (CONFIG_KALLSYMS)")


class _Search:
    """A search through a guest's memory, which may hold anything: so its steps are counted."""

    def __init__(self, image: bytes, until: float | None) -> None:
        self._image, self._until, self._left = image, until, MOST_STEPS

    def spend(self, steps: int) -> None:
        """Count steps; KallsymsError where they are too many."""
        self._left -= steps
        looks = steps != 1 or self._left % LOOK == 0
        if looks and self._until is not None and time.monotonic() > self._until:
            raise TooSlow("this host is too busy to read the kernel's symbols in the time that a debugger waits")
        if self._left < 0:
            raise KallsymsError("too much in the guest's memory looks like a kernel's symbols, and is none")

    def tokens(self) -> Iterator[_Tokens]:
        """Every place that can be the table of tokens: those of the digits are the digits, one after another."""
        at = self._image.find(_DIGITS)
        while at >= 0:
            self.spend(4 * TOKENS)
            end = at
            for _ in range(TOKENS - _FIRST_DIGIT):
                end = self._image.find(b"\0", end) + 1 or len(self._image)
            indexes = {_aligned(end, 8), _aligned(end, 4)}
            yield from (found for index in sorted(indexes) if (found := self._indexed(at, index)) is not None)
            at = self._image.find(_DIGITS, at + 1)

    def _indexed(self, digits: int, index: int) -> _Tokens | None:
        """The tokens when the places of them all are told at `index`."""
        end = index + 2 * TOKENS
        if end > len(self._image):
            return None
        places = struct.unpack_from(f"<{TOKENS}H", self._image, index)
        start = digits - places[_FIRST_DIGIT]
        if places[0] or start < 0 or any(a >= b for a, b in pairwise(places)):
            return None
        words = self._image[start : self._image.index(b"\0", start + places[-1])].split(b"\0")
        return _Tokens(start, tuple(each.decode("latin-1") for each in words), end) if len(words) == TOKENS else None

    def names(self, tokens: int) -> Iterator[_Names]:
        """The names, found by their markers, which lie between them and the tokens: the first is 0."""
        at, lowest = tokens, max(0, tokens - FURTHEST_MARKERS)
        while (at := self._image.rfind(_ZERO, lowest, at + 3)) >= 0:
            self.spend(1)
            if at % 4 == 0 and at + _FEW.size <= tokens and _like_markers(_FEW.unpack_from(self._image, at)):
                markers = self._increasing(at)
                for extra in range(3):  # what follows the last marker may look like one more
                    yield from self._before(at, markers[: len(markers) - extra])

    def _increasing(self, at: int) -> tuple[int, ...]:
        """Markers from the first on, as long as they may be some."""
        markers, last = [], -1
        room = self._image[at : at + 4 * MOST_SYMBOLS // NAMES_A_MARKER]
        for (word,) in struct.iter_unpack("<I", room[: len(room) & ~3]):
            if not last < word <= last + LONGEST_NAME * NAMES_A_MARKER:
                break
            markers.append(word)
            last = word
        self.spend(len(markers))
        return tuple(markers)

    def _before(self, end: int, markers: tuple[int, ...]) -> Iterator[_Names]:
        """The names that end before `end` and agree with all markers; their number is told in front of the first."""
        highest = (end - markers[-1] - 8) & ~3
        for at in range(highest, max(0, highest - LONGEST_NAME * NAMES_A_MARKER), -4):
            self.spend(1)
            count = int.from_bytes(self._image[at : at + 4], "little")
            if -(-count // NAMES_A_MARKER) == len(markers):
                for align, long in ((8, True), (8, False), (4, True), (4, False)):
                    coded = self._coded(_aligned(at + 4, align), count, markers, long)
                    if coded is not None:
                        yield _Names(at, coded)
                        return

    def _coded(self, start: int, count: int, markers: tuple[int, ...], long: bool) -> tuple[bytes, ...] | None:
        """Each name's tokens; None when they do not agree with a marker. `long`: bit 7 of a length says that it has two bytes."""
        image, at, coded = self._image, start, []
        for number in range(count):
            if number % NAMES_A_MARKER == 0:
                self.spend(NAMES_A_MARKER)
                if at - start != markers[number // NAMES_A_MARKER]:
                    return None
            if at + 2 > len(image):
                return None
            length = image[at]
            at += 1
            if long and length & 0x80:
                length = length & 0x7F | image[at] << 7
                at += 1
            if not 0 < length <= LONGEST_NAME:
                return None
            coded.append(image[at : at + length])
            at += length
        return tuple(coded)


def _aligned(at: int, to: int) -> int:
    return -(-at // to) * to


def _like_markers(words: tuple[int, ...]) -> bool:
    return all(2 * NAMES_A_MARKER <= b - a < 64 * NAMES_A_MARKER for a, b in pairwise(words))


def _addresses(image: bytes, start: int, names: _Names, behind: int, word: int) -> Iterator[list[int]]:
    """What the symbols' addresses may be: of each order of the tables, and of each meaning of an offset."""
    count = len(names.coded)
    size = _aligned(4 * count, word)
    last = names.start - word  # of the tables in front of the names
    mask = (1 << 8 * word) - 1
    for at, base_at in ((_aligned(behind, word), _aligned(behind, word) + size), (last - size, last)):
        if at < 0 or at + 4 * count > len(image):
            continue
        base = int.from_bytes(image[base_at : base_at + word], "little")
        offsets = struct.unpack_from(f"<{count}i", image, at)
        yield [(offset if offset >= 0 else base - 1 - offset) & mask for offset in offsets]  # CONFIG_KALLSYMS_ABSOLUTE_PERCPU
        yield [base + (offset & 0xFFFF_FFFF) & mask for offset in offsets]
        yield [start + at + 4 * number + offset & mask for number, offset in enumerate(offsets)]


def _decoded(tokens: _Tokens, names: _Names, addresses: list[int]) -> list[KernelSymbol]:
    word = tokens.words.__getitem__
    labels = ("".join(map(word, each)) for each in names.coded)
    return list(map(KernelSymbol._make, zip(addresses, labels, strict=True)))
