"""Blocks kept by their guest bytes: found by native code, packed, unpacked, forgotten when nobody asks."""

import ctypes
import random
import struct
from collections.abc import Callable
from functools import partial

import pytest

from trapgate.isa.native import placing as p
from trapgate.isa.state import LAYOUT
from trapgate.memory import Ram
from trapgate.soft.blocks import known
from trapgate.soft.blocks.known import KnownBlocks
from trapgate.soft.state.codebuffer import CodeBuffer
from trapgate.soft.state.view import CpuState
from trapgate.stencil.cache import Cache, WrongContent, pack
from trapgate.stencil.library import load_library
from unit.soft.plain import record

AT = 0x1000
KERNEL = (0x81234567).to_bytes(4, "little")
OTHER_KERNEL = (0xA1234567).to_bytes(4, "little")


def block(
    blocks: KnownBlocks, mode: int, guest: bytes, parameters: tuple[tuple[int, int, int, int], ...] = (), findable: bool = True
) -> int:
    blocks.instructions.number(b"\x0f\xa2", 64)
    return record(blocks, mode, guest, (b"code of " + guest).ljust(32, b"."), parameters, ((8, 1),), ((20, 30, -2),), findable)


LONG, LONGER, SHORT, OTHER = b"ABCDEFGHIJ", b"ABCDEFGHIJKL", b"AB", b"zzzzzzzzzz"


class Searching:
    """Guest RAM, and the native search in it."""

    def __init__(self) -> None:
        self.ram = Ram(1 << 20)
        self.code = CodeBuffer(load_library(Cache()), 16 << 20)
        self.state = CpuState()
        self._find = self.code.function("find_block", 64, 3)
        self._adopt = self.code.function("adopt_records", 64, 2)
        assert LAYOUT["rip"].offset == 0

    def found(self, blocks: KnownBlocks, mode: int, data: bytes) -> bytes | None:
        """The guest bytes of the record that is found for `data`, at the end of a page."""
        self.state.known_base = blocks.address
        self.ram.write(0x2000 - len(data), data)
        record = self._find(ctypes.addressof(self.state), self.ram.host_base + 0x2000 - len(data), len(data), mode)
        return bytes(blocks.guest(record)) if record else None

    def learn(self, blocks: KnownBlocks, data: bytes) -> None:
        """Have them know what others packed."""
        self.state.known_base = blocks.address
        blocks.unpack(data, partial(self._adopt, ctypes.addressof(self.state)))


@pytest.fixture(scope="module")
def native() -> Searching:
    return Searching()


def filled() -> KnownBlocks:
    blocks = KnownBlocks()
    for guest in (LONG, SHORT, LONGER):
        block(blocks, 2, guest)
    block(blocks, 1, OTHER)
    return blocks


def test_the_longest_block_that_fits_is_found(native: Searching) -> None:
    blocks = filled()
    assert native.found(blocks, 2, LONGER + b"more") == LONGER
    assert native.found(blocks, 2, LONG + b"x") == LONG
    assert native.found(blocks, 2, b"ABxxxxxxxxxx") == SHORT
    assert native.found(blocks, 2, b"AB") == SHORT
    assert native.found(blocks, 2, b"A") is None


def test_a_block_that_needs_more_than_the_page_has_is_not_found(native: Searching) -> None:
    native.ram.write(0x2000, b"KL")  # the bytes behind the page would fit
    assert native.found(filled(), 2, LONG) == LONG


def test_modes_do_not_share_blocks(native: Searching) -> None:
    assert native.found(filled(), 1, LONG) is None
    assert native.found(filled(), 2, OTHER) is None


def test_blocks_that_are_not_to_be_found_are_not(native: Searching) -> None:
    blocks = KnownBlocks()
    assert blocks.guest(block(blocks, 2, LONG, findable=False)) == LONG
    assert native.found(blocks, 2, LONG) is None


def test_a_parameter_may_have_any_value_that_looks_like_an_address(native: Searching) -> None:
    blocks = KnownBlocks()
    guest = b"\x48\xc7\xc7" + KERNEL + b"\xc3"
    block(blocks, 2, guest, ((3, 0, 8, 0),))
    assert native.found(blocks, 2, b"\x48\xc7\xc7" + OTHER_KERNEL + b"\xc3") == guest
    assert native.found(blocks, 2, b"\x48\xc7\xc7" + OTHER_KERNEL + b"\xc2") is None
    for value in (0x7FFFFFFF, 0x40000000, 0xFFFF0000, 0xFFFFFFF0, 1):
        assert native.found(blocks, 2, b"\x48\xc7\xc7" + value.to_bytes(4, "little") + b"\xc3") is None
    for value in (0x80000000, 0xFFFEFFFF):
        assert native.found(blocks, 2, b"\x48\xc7\xc7" + value.to_bytes(4, "little") + b"\xc3") == guest


def test_packed_and_unpacked_they_are_the_same(native: Searching) -> None:
    blocks = KnownBlocks()
    native.learn(blocks, filled().pack())
    assert blocks.added == 0
    assert native.found(blocks, 2, LONGER) == LONGER
    assert native.found(blocks, 1, OTHER) == OTHER
    assert blocks.instructions[0].code == filled().instructions[0].code
    block(blocks, 2, b"ABCDEFGHZ")  # the same prefix as a packed one
    assert native.found(blocks, 2, LONG) == LONG
    again = KnownBlocks()
    native.learn(again, blocks.pack())
    assert native.found(again, 2, b"ABCDEFGHZ") == b"ABCDEFGHZ"
    assert native.found(again, 2, LONGER) == LONGER


def test_past_the_limit_only_what_was_used_is_kept(native: Searching, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = KnownBlocks()
    native.learn(blocks, filled().pack())
    native.state.known_base, native.state.code_write, native.state.code_end = (
        blocks.address,
        native.code.written_at,
        native.code.first,
    )
    native.ram.write(AT, OTHER)
    record = native._find(ctypes.addressof(native.state), native.ram.host_base + AT, 4096, 1)
    native.code.function("copy_block", 64, 3)(ctypes.addressof(native.state), record, 0, native.ram.host_base + AT)
    block(blocks, 2, b"made in this run")
    monkeypatch.setattr(known, "KEPT", 1)
    again = KnownBlocks()
    native.learn(again, blocks.pack())
    assert native.found(again, 1, OTHER) == OTHER
    assert native.found(again, 2, b"made in this run") == b"made in this run"
    assert native.found(again, 2, LONG) is None


Change = Callable[[bytearray, int], None]
PARAMETER = b"\x48\xc7\xc7" + KERNEL + b"\xc3"


def packed() -> tuple[bytearray, int]:
    """Five records, the last with a parameter, as they lie on the disk; and where the first record begins."""
    blocks = filled()
    block(blocks, 2, PARAMETER, ((3, 0, 8, 0),))
    data = bytearray(blocks.pack())
    return data, 8 + int.from_bytes(data[:8], "little")


def first(at: int, size: int, value: int) -> Change:
    """A field of the first record."""

    def change(data: bytearray, start: int) -> None:
        data[start + at : start + at + size] = value.to_bytes(size, "little")

    return change


def pair(at: int, size: int, value: int) -> Change:
    """Something in the last record's parameter, RIP hole or exit, each of which has 16 bytes."""

    def change(data: bytearray, start: int) -> None:
        place = data.index(PARAMETER, start) + 2 * len(PARAMETER) + at
        data[place : place + size] = value.to_bytes(size, "little")

    return change


def head(value: object) -> Change:
    """Another head in front of the records."""

    def change(data: bytearray, start: int) -> None:
        data[:start] = pack(value, b"")

    return change


def cut(data: bytearray, start: int) -> None:
    del data[-16:]


def longer(data: bytearray, start: int) -> None:
    data.extend(bytes(16))


def odd(data: bytearray, start: int) -> None:
    data.extend(bytes(7))


def nothing(data: bytearray, start: int) -> None:
    del data[4:]


def far(data: bytearray, start: int) -> None:
    data[:8] = b"\xff" * 8


def empty(data: bytearray, start: int) -> None:
    data[8:start] = bytes(start - 8)


@pytest.mark.parametrize(
    "change",
    [
        *(cut, longer, odd, nothing, far, empty),
        *(first(at, 4, value) for at in (p.RECORD.code_length, p.RECORD.code_at) for value in (0, 15, 1 << 20, (1 << 32) - 1)),
        *(
            first(at, 2, value)
            for at in (p.RECORD.guest_length, p.RECORD.parameters, p.RECORD.rips, p.RECORD.exits)
            for value in (0xFFFF, 3)
        ),
        *(first(p.RECORD.prefix_length, 2, value) for value in (11, 12, 15, 16, 17, 0xFFFF)),
        *(pair(*what) for what in ((0, 2, 5), (2, 2, 3), (4, 4, 29), (16, 4, 25), (32, 4, 29), (36, 4, 33))),
        *map(head, (None, [], (1,), (-1, []), (1, [5]), {})),
        *(head((1, [raw])) for raw in (("", 64), ("90" * 16, 64), ("90", 63), ("9", 64), ("9g", 64), (5, 64))),
    ],
)
def test_what_cannot_be_such_records_is_refused(native: Searching, change: Change) -> None:
    data, start = packed()
    native.learn(KnownBlocks(), bytes(data))  # they are right, but for the change
    change(data, start)
    blocks = KnownBlocks()
    with pytest.raises(WrongContent):
        native.learn(blocks, bytes(data))
    assert native.found(blocks, 2, LONGER) is None
    block(blocks, 2, LONG)
    assert native.found(blocks, 2, LONG) == LONG


def test_links_on_the_disk_are_not_followed(native: Searching) -> None:
    """A record that is its own successor, one that leads beyond the memory: chains are made anew."""
    for value in (known._FIRST, (1 << 32) - 1, 8):
        data, start = packed()
        struct.pack_into("<I", data, start + p.RECORD.next, value)
        blocks = KnownBlocks()
        native.learn(blocks, bytes(data))
        assert native.found(blocks, 2, LONG + b"x") == LONG
        assert native.found(blocks, 2, b"ABCDEFGHIx") == SHORT


def test_any_damage_is_refused_or_harmless(native: Searching) -> None:
    """Random changes of any byte: whatever is taken stays inside its record, so searching it never leaves the memory."""
    chance, taken = random.Random(1), 0
    blocks = KnownBlocks()
    for _ in range(1000):
        data, start = packed()
        for _ in range(chance.choice((1, 1, 2, 5))):
            at = chance.randrange(start if chance.random() < 0.8 else 0, len(data))
            data[at] = chance.choice((0, 1, 0x7F, 0xFF, chance.randrange(256)))
        blocks._view[: known._FIRST] = bytes(known._FIRST)
        try:
            native.learn(blocks, bytes(data))
        except WrongContent:
            continue
        taken += 1
        for guest in (LONG, SHORT, LONGER, OTHER):
            native.found(blocks, 2, guest)
    assert 100 < taken < 900
