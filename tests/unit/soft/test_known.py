"""Blocks kept by their guest bytes: found by native code, packed, unpacked, forgotten when nobody asks."""

import ctypes

import pytest

from trapgate.isa.state import LAYOUT
from trapgate.memory import Ram
from trapgate.soft import known
from trapgate.soft.codebuffer import CodeBuffer
from trapgate.soft.known import KnownBlocks
from trapgate.soft.state import CpuState
from trapgate.stencil.cache import Cache
from trapgate.stencil.library import load_library
from unit.soft.plain import record

AT = 0x1000
KERNEL = (0x81234567).to_bytes(4, "little")
OTHER_KERNEL = (0xA1234567).to_bytes(4, "little")


def block(
    blocks: KnownBlocks, mode: int, guest: bytes, parameters: tuple[tuple[int, int, int, int], ...] = (), findable: bool = True
) -> int:
    blocks.instructions.number(b"\x0f\xa2", 64)
    return record(blocks, mode, guest, b"code of " + guest, parameters, ((8, 1),), ((20, 30, -2),), findable)


LONG, LONGER, SHORT, OTHER = b"ABCDEFGHIJ", b"ABCDEFGHIJKL", b"AB", b"zzzzzzzzzz"


class Searching:
    """Guest RAM, and the native search in it."""

    def __init__(self) -> None:
        self.ram = Ram(1 << 20)
        self.code = CodeBuffer(load_library(Cache()), 16 << 20)
        self.state = CpuState()
        self._find = self.code.function("find_block", 64, 3)
        assert LAYOUT["rip"].offset == 0

    def found(self, blocks: KnownBlocks, mode: int, data: bytes) -> bytes | None:
        """The guest bytes of the record that is found for `data`, at the end of a page."""
        self.state.known_base = blocks.address
        self.ram.write(0x2000 - len(data), data)
        record = self._find(ctypes.addressof(self.state), self.ram.host_base + 0x2000 - len(data), len(data), mode)
        return bytes(blocks.guest(record)) if record else None


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
    blocks.unpack(filled().pack())
    assert blocks.added == 0
    assert native.found(blocks, 2, LONGER) == LONGER
    assert native.found(blocks, 1, OTHER) == OTHER
    assert blocks.instructions[0].code == filled().instructions[0].code
    block(blocks, 2, b"ABCDEFGHZ")  # the same prefix as a packed one
    assert native.found(blocks, 2, LONG) == LONG
    again = KnownBlocks()
    again.unpack(blocks.pack())
    assert native.found(again, 2, b"ABCDEFGHZ") == b"ABCDEFGHZ"
    assert native.found(again, 2, LONGER) == LONGER


def test_past_the_limit_only_what_was_used_is_kept(native: Searching, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = KnownBlocks()
    blocks.unpack(filled().pack())
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
    again.unpack(blocks.pack())
    assert native.found(again, 1, OTHER) == OTHER
    assert native.found(again, 2, b"made in this run") == b"made in this run"
    assert native.found(again, 2, LONG) is None
