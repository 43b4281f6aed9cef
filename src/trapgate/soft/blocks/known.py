"""Finds blocks by their guest bytes: one that is met again, in this run or in a later one, is copied instead of translated.

They are records in one stretch of memory that native code searches by itself (`isa.native.placing` says what a record looks like);
on disk lies a copy of that stretch. What this run has used bears its number, so that the rest goes when there is too much.
"""

import re
import struct
from collections.abc import Callable

from iced_x86 import Decoder, DecoderOptions, DecoderOptions_, Instruction

from trapgate.isa import state as s
from trapgate.isa.native import placing as p
from trapgate.mapping import Mapping
from trapgate.stencil.cache import WrongContent, pack, unpack

KEPT = 96 << 20  # bytes packed: past that only what this run has used
_INDEX = 4 * s.KNOWN_PLACES
_FIRST = _INDEX + 16  # where the first record lies, behind the words that `isa.native.placing` names
_ALL = (1 << 64) - 1


class Numbered:
    """The instructions that Python executes, by number: host code names them so. `options`: as `decoding.options` has them."""

    def __init__(self, options: DecoderOptions_ = DecoderOptions.NONE) -> None:
        self._options = options
        self.raws: list[tuple[bytes, int]] = []  # (bytes, code size in bits)
        self._numbers: dict[tuple[bytes, int], int] = {}
        self._made: dict[int, Instruction] = {}

    def number(self, raw: bytes, bits: int) -> int:
        """The number of an instruction."""
        number = self._numbers.setdefault((raw, bits), len(self.raws))
        if number == len(self.raws):
            self.raws.append((raw, bits))
        return number

    def __getitem__(self, number: int) -> Instruction:
        made = self._made.get(number)
        if made is None:
            raw, bits = self.raws[number]
            made = self._made[number] = Decoder(bits, raw, self._options, ip=0).decode()
        return made

    def __len__(self) -> int:
        return len(self.raws)

    def fill(self, raws: list[tuple[bytes, int]]) -> None:
        """Know what another run had numbered."""
        self.raws = raws
        self._numbers = {key: number for number, key in enumerate(raws)}


def spread(space: int, prefix: bytes) -> int:
    """The place in the index of records with these first bytes; `spread` and `folded` of `isa.native.placing` on ints."""
    value = int.from_bytes(prefix[:8], "little") ^ int.from_bytes(prefix[8:], "little") * p.OF_HIGH
    mixed = (value * p.OF_PREFIX ^ space * p.OF_SPACE ^ len(prefix) * p.OF_LENGTH) & _ALL
    return (mixed ^ mixed >> 29) & s.KNOWN_PLACES - 1


class KnownBlocks:
    """Every block translated so far. `options`: those of `Numbered`."""

    def __init__(self, options: DecoderOptions_ = DecoderOptions.NONE) -> None:
        memory = Mapping(p.KNOWN_ROOM, "known guest code")
        memory.prefer_large_pages()
        self.address = memory.address
        self._view = memory.view
        self._words = self._view.cast("I")  # the index comes first
        self.instructions = Numbered(options)
        self.end = _FIRST  # no record lies at 0
        self.added = 0
        self.run = 1

    @property
    def run(self) -> int:
        """What the records that this run has used bear; native code puts it there."""
        return self._words[p.KNOWN_RUN >> 2]

    @run.setter
    def run(self, number: int) -> None:
        self._words[p.KNOWN_RUN >> 2] = number

    @property
    def end(self) -> int:
        """Where the next record goes."""
        return self._words[p.KNOWN_END >> 2]

    @end.setter
    def end(self, at: int) -> None:
        self._words[p.KNOWN_END >> 2] = at

    @property
    def added(self) -> int:
        """Records made in this run."""
        return self._words[p.KNOWN_ADDED >> 2]

    @added.setter
    def added(self, number: int) -> None:
        self._words[p.KNOWN_ADDED >> 2] = number

    @property
    def full(self) -> bool:
        """Time to start over."""
        return self.end > p.KNOWN_ROOM - p.LARGEST_RECORD or self.added > p.MOST_RECORDS

    def _neighbours(self, place: int | None, length: int) -> tuple[int | None, int]:
        """(where the link to a new record of `length` guest bytes lies, the record behind it): the longest come first."""
        if place is None:
            return None, 0
        words = self._words
        link, here = 4 * place, words[place]
        while here and words[here + p.RECORD.guest_length >> 2] & 0xFFFF >= length:
            link = here + p.RECORD.next
            here = words[link >> 2]
        return link, here

    def length(self, record: int) -> int:
        """Guest bytes of a record."""
        return int.from_bytes(self._view[record + p.RECORD.guest_length : record + p.RECORD.guest_length + 2], "little")

    def guest(self, record: int) -> bytes:
        """The guest bytes that a record was made of."""
        return bytes(self._view[record + p.RECORD.size : record + p.RECORD.size + self.length(record)])

    def exits(self, record: int) -> dict[int, int]:
        """Where each branch out of a block leads when it is not chained, by where it lies. Offsets into its code."""
        of = p.RECORD.read(self._view, record)
        first = record + p.RECORD.size + 2 * (of["guest_length"] + 7 & ~7) + p.PAIR * (of["parameters"] + of["rips"])
        words = self._view[first : first + p.PAIR * of["exits"]].cast("I")
        return {words[at]: words[at + 1] for at in range(0, len(words), p.PAIR // 4)}

    # --- as bytes

    def pack(self) -> bytes:
        """All of them as bytes, or those that this run has used where all would be too much. They are indexed anew when read."""
        if self.end > KEPT:
            self._keep_used()
        raws = [(raw.hex(), bits) for raw, bits in self.instructions.raws]
        return pack((self.run, raws), self._view[_FIRST : self.end])

    def unpack(self, data: bytes | memoryview, adopt: Callable[[int, int], int]) -> None:
        """Know what `pack` gave; WrongContent, and nothing is known, when these bytes are no such thing.

        For the start of a run: what is known already would be lost. `adopt` is the native function on these records.
        """
        assert not self.added, "blocks were translated before the kept ones were read"
        head, records = unpack(data)
        run, raws = _checked(head)
        size = len(records)
        if size > p.KNOWN_ROOM - _FIRST or size % 16:
            raise WrongContent
        self._view[_FIRST : _FIRST + size] = records
        if not adopt(_FIRST, _FIRST + size):
            self._view[:_INDEX] = bytes(_INDEX)
            raise WrongContent
        self.instructions.fill(raws)
        self.end, self.added, self.run = _FIRST + size, 0, run % 0xFFFF + 1

    def _keep_used(self) -> None:
        """Move the records that this run has used together, and index them anew."""
        at, end = _FIRST, self.end
        self._view[:_INDEX] = bytes(_INDEX)
        self.end = _FIRST
        while at < end:
            of = p.RECORD.read(self._view, at)
            size = of["code_at"] + of["code_length"] + 15 & ~15
            if of["run"] == self.run:
                record = bytearray(self._view[at : at + size])
                prefix = bytes(record[p.RECORD.size : p.RECORD.size + of["prefix_length"]])
                before, following = self._neighbours(spread(of["space"], prefix) if prefix else None, of["guest_length"])
                struct.pack_into("<I", record, p.RECORD.next, following)
                self._view[self.end : self.end + size] = record
                if before is not None:
                    self._words[before >> 2] = self.end
                self.end += size
            at += size


def _checked(head: object) -> tuple[int, list[tuple[bytes, int]]]:
    """(number of the run, instructions) in front of the records; WrongContent when it is not that."""
    match head:
        case [int() as run, list() as raws] if 0 <= run <= 0xFFFF:
            return run, [_instruction(raw) for raw in raws]
    raise WrongContent


def _instruction(raw: object) -> tuple[bytes, int]:
    match raw:
        case [str() as digits, int() as bits] if re.fullmatch("([0-9a-f]{2}){1,15}", digits) and bits in (16, 32, 64):
            return bytes.fromhex(digits), bits
    raise WrongContent
