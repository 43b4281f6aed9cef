"""The translator makes a known block of guest bytes. Native code composes it; Python supplies the patterns that are new."""

import ctypes
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from trapgate.arch.models import CpuModel
from trapgate.isa import modes
from trapgate.isa.native.gathering import MOST
from trapgate.isa.state import COUNTING_SHIFT, LAYOUT
from trapgate.memory import PAGE_SIZE, Ram
from trapgate.soft.blocks.known import KnownBlocks, Numbered
from trapgate.soft.blocks.patterns import Patterns
from trapgate.soft.decode import decoding
from trapgate.soft.decode.lowering import Lowering
from trapgate.soft.state.codebuffer import CodeBuffer, table_order
from trapgate.soft.state.view import CpuState

MAX_LENGTH = 15
TWO_PAGES = 1 << 63  # in the space of known blocks: an instruction that needs bytes of the next page
MOST_INSTRUCTIONS = 1 << 16  # kept decoded for Python


class Found(NamedTuple):
    """A block that is known now."""

    record: int  # in the known blocks
    second: int  # guest-physical page of the bytes behind the first page, or -1
    host: int  # where its bytes lie


class Translator:
    """Makes blocks of guest bytes; when one is wanted, its caller decides."""

    def __init__(self, ram: Ram, code: CodeBuffer, state: CpuState, model: CpuModel) -> None:
        self.keep_account(state)
        self.breakpoints: frozenset[int] = frozenset()  # linear addresses at which a block must stop
        self._natives = {name: LAYOUT["native_table"].offset + 8 * n for n, name in enumerate(table_order(code.entries))}
        self._ram = ram
        self._both = (ctypes.c_char * (2 * MAX_LENGTH))()  # the bytes at the end of a page and those behind it
        self._find, self._compose = code.function("find_block", 64, 3), code.function("compose_block", 64, 4)
        self._adopt = code.function("adopt_records", 64, 2)
        self.block_limit = MOST
        self.lowering = Lowering(code.library, model)
        state.chaining = 1
        self.forget()
        self.configure()

    def configure(self, *, counting: bool | None = None, block_limit: int | None = None, chaining: bool | None = None) -> None:
        """How blocks are made: heads that count (the instruction clock), instructions at most, chained. What is not given stays."""
        if counting is not None and counting != self.counting:
            self.lowering.counting = counting
            self._forget_patterns()
        self.block_limit = block_limit or self.block_limit
        self.state.block_space = self.counting << COUNTING_SHIFT | self.block_limit << 32
        if chaining is not None:
            self.state.chaining = chaining

    def keep_account(self, state: CpuState) -> None:
        """The CPU with this state runs from now on."""
        self.state, self._address = state, ctypes.addressof(state)

    def stop_at(self, breakpoints: frozenset[int]) -> None:
        """Blocks end in front of these linear addresses; the caller drops those that have one inside."""
        self.breakpoints = breakpoints
        pages = bytearray(len(self.state.stop_pages))
        for address in breakpoints:
            page = address >> 12 & 0xFFF
            pages[page >> 3] |= 1 << (page & 7)
        self.state.stop_pages[:] = pages

    def block(self, physical: int, mode: int, linear: int, second: Callable[[], int]) -> Found:
        """The block at a linear address. `second()` gives the guest-physical page behind its own, for an instruction in two."""
        room, stops = PAGE_SIZE - physical % PAGE_SIZE, frozenset[int]() if mode & modes.STEP else self.breakpoints
        space, host = self.state.block_space | mode, self._ram.host_base + physical
        record = self._look_up(host, room, space)
        if record:
            end = linear + self.known_blocks.length(record)
            if not any(linear <= stop < end for stop in stops):
                return Found(record, -1, host)
        if room < MAX_LENGTH and linear not in stops:
            found = self._in_two_pages(physical, mode, room, second)
            if found is not None:
                return found
        most = 1 if mode & modes.STEP else self._most(physical, mode, room, {stop - linear for stop in stops})
        return Found(self._composed(host, room, space, most), -1, host)

    def _look_up(self, host: int, room: int, space: int) -> int:
        """The record of the longest known block that `room` bytes at a host address begin with, or 0."""
        return self._find(self._address, host, room, space)

    def _composed(self, host: int, room: int, space: int, most: int) -> int:
        """The record of a new block of at most so many instructions."""
        while not (record := self._compose(self._address, host, room, space, most)):
            room = self.patterns.answer(host, room, space)
        return record

    def _in_two_pages(self, physical: int, mode: int, room: int, second: Callable[[], int]) -> Found | None:
        """The block of one instruction that reaches into the next page, or is none whatever is there; None for any other."""
        bits = modes.code_bits(mode)
        data = self._ram.read(physical, room)
        if not decoding.decoder(self.lowering.model, bits, data).decode().is_invalid:
            return None
        page = second()
        data += self._ram.read(page, MAX_LENGTH)
        ctypes.memmove(self._both, data, len(data))
        host, space = ctypes.addressof(self._both), self.state.block_space | mode | TWO_PAGES
        record = self._look_up(host, len(data), space) or self._composed(host, len(data), space, 1)
        return Found(record, page if self.known_blocks.length(record) > room else -1, host)

    def _most(self, physical: int, mode: int, room: int, stops: set[int]) -> int:
        """How many instructions a block may have: those in front of the first breakpoint. `stops`: offsets of breakpoints."""
        if not any(0 <= stop < room for stop in stops):
            return self.block_limit
        decoder = decoding.decoder(self.lowering.model, modes.code_bits(mode), self._ram.read(physical, room))
        at = 0
        for count in range(self.block_limit):
            if at in stops:
                return count
            at += max(1, decoder.decode().len)
        return self.block_limit

    @property
    def counting(self) -> bool:
        """Whether blocks count instructions."""
        return self.lowering.counting

    @property
    def instructions(self) -> Numbered:
        """Those that Python executes, by number."""
        return self.known_blocks.instructions

    @property
    def crowded(self) -> bool:
        """A guest that makes ever new code must not fill the host's memory."""
        return self.known_blocks.full or self.patterns.full or len(self.instructions) > MOST_INSTRUCTIONS

    def learn(self, data: memoryview) -> bool:
        """Know what an earlier run's `known_blocks.pack` gave; WrongContent, and nothing is known, when it is no such thing."""
        self.known_blocks.unpack(data, partial(self._adopt, self._address))
        return True

    def forget(self) -> None:
        """Start over, together with all blocks: their entries name records."""
        self.known_blocks = KnownBlocks(decoding.options(self.lowering.model))
        self.state.known_base = self.known_blocks.address
        self._forget_patterns()

    def _forget_patterns(self) -> None:
        """Start over with instructions."""
        self.patterns = Patterns(self.lowering, self._natives, self.instructions, self.state)
