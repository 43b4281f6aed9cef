"""The translator: guest bytes in, a known block out. Decoding, looking up templates, stringing them together."""

import ctypes
from collections.abc import Callable
from typing import NamedTuple

from iced_x86 import Decoder

from trapgate.arch.models import CpuModel
from trapgate.isa import state as s
from trapgate.isa.state import LAYOUT
from trapgate.memory import PAGE_SIZE, Ram
from trapgate.soft.codebuffer import CodeBuffer
from trapgate.soft.composer import BlockTemplate, Composer
from trapgate.soft.known import KnownBlocks, Numbered
from trapgate.soft.state import CpuState
from trapgate.soft.template import Template
from trapgate.soft.templates import Decoded, Templates

BLOCK_LIMIT = 64  # instructions
MAX_LENGTH = 15
TWO_PAGES = 1 << 63  # in the space of known blocks: an instruction that needs bytes of the next page
MOST_INSTRUCTIONS = 1 << 16  # kept decoded for Python
MOST_BLOCKS = 1 << 18  # kept by their bytes


class Found(NamedTuple):
    """A block that is known now."""

    record: int  # in the known blocks
    second: int  # guest-physical page of the bytes behind the first page, or -1
    host: int  # where its bytes lie


class Translator:
    """Makes blocks; knows nothing of when."""

    def __init__(self, ram: Ram, code: CodeBuffer, state: CpuState, model: CpuModel) -> None:
        self.state = state
        self.breakpoints: frozenset[int] = frozenset()  # linear addresses at which a block must stop
        self.known_blocks = KnownBlocks()
        self.templates = Templates(code.library, model)
        self._natives = {name: LAYOUT["native_table"].offset + 8 * n for n, name in enumerate(sorted(code.entries))}
        self._ram, self._memory = ram, ram._view
        self._both = (ctypes.c_char * (2 * MAX_LENGTH))()  # the bytes at the end of a page and those behind it
        self._find = code.function("find_block", 64, 3)
        self.block_limit = BLOCK_LIMIT
        state.known_base, state.chaining = self.known_blocks.address, 1
        self.configure()

    def configure(self, *, counting: bool | None = None, block_limit: int | None = None, chaining: bool | None = None) -> None:
        """How blocks are made: heads that count (the instruction clock), instructions at most, chained. What is not given stays."""
        if counting is not None:
            self.templates.counting = counting
        self.block_limit = block_limit or self.block_limit
        self.state.block_space = self.templates.counting << 16 | self.block_limit << 32
        if chaining is not None:
            self.state.chaining = chaining

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
        room, stops = PAGE_SIZE - physical % PAGE_SIZE, frozenset[int]() if mode & s.MODE_STEP else self.breakpoints
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
        parts = self._parts(physical, mode, room, {stop - linear for stop in stops})
        return Found(self.known_blocks.add(space, self._compose(mode, parts)), -1, host)

    def _look_up(self, host: int, room: int, space: int) -> int:
        """The record of the longest known block that `room` bytes at a host address begin with, or 0."""
        return int(self._find(ctypes.addressof(self.state), host, room, space))

    def _in_two_pages(self, physical: int, mode: int, room: int, second: Callable[[], int]) -> Found | None:
        """The block of one instruction that reaches into the next page, or is none whatever is there; None for any other."""
        bits = (16, 32, 64)[mode & s.MODE_CODE]
        data = self._memory[physical : physical + room].tobytes()
        if not Decoder(bits, data).decode().is_invalid:
            return None
        page = second()
        data += self._memory[page : page + MAX_LENGTH].tobytes()
        ctypes.memmove(self._both, data, len(data))
        host, space = ctypes.addressof(self._both), self.state.block_space | mode | TWO_PAGES
        record = self._look_up(host, len(data), space)
        if not record:
            raw = data[: max(1, Decoder(bits, data[:MAX_LENGTH]).decode().len)]
            record = self.known_blocks.add(space, self._compose(mode, [self.templates.known(raw, mode)]))
        return Found(record, page if self.known_blocks.length(record) > room else -1, host)

    def _parts(self, physical: int, mode: int, room: int, stops: set[int]) -> list[Decoded]:
        """The instructions of a block, none where a breakpoint comes first. `stops`: offsets of breakpoints."""
        bits = (16, 32, 64)[mode & s.MODE_CODE]
        limit = 1 if mode & s.MODE_STEP else self.block_limit
        data = self._memory[physical : physical + min(room, MAX_LENGTH * limit)].tobytes()
        decoder = Decoder(bits, data)
        seen = self.templates.seen(mode)
        parts: list[Decoded] = []
        at = 0
        while len(parts) < limit and at < len(data) and at not in stops:
            instruction = decoder.decode()
            length = instruction.len
            if instruction.is_invalid:
                if parts and len(data) - at < MAX_LENGTH:
                    break  # it may go on behind these bytes: a block of its own
                length = max(1, length)
            raw = data[at : at + length]
            entry = seen.get(raw) or self.templates.known(raw, mode)
            parts.append(entry)
            at += length
            if entry.kind.ends:
                break
        return parts

    @property
    def counting(self) -> bool:
        """Whether blocks count instructions."""
        return self.templates.counting

    @property
    def instructions(self) -> Numbered:
        """Those that Python executes, by number."""
        return self.known_blocks.instructions

    @property
    def crowded(self) -> bool:
        """A guest that makes ever new code must not fill the host's memory."""
        return self.known_blocks.full or len(self.instructions) > MOST_INSTRUCTIONS or self.known_blocks.added > MOST_BLOCKS

    def forget(self) -> None:
        """Start over, together with all blocks: their entries name records."""
        self.templates.forget()
        self.known_blocks = KnownBlocks()
        self.state.known_base = self.known_blocks.address

    def _compose(self, mode: int, parts: list[Decoded]) -> BlockTemplate:
        """String the templates of a block together, and add the out-of-line parts."""
        composer = Composer((16, 32, 64)[mode & s.MODE_CODE], self._natives)
        composer.add(self.templates.head(len(parts)), 0)
        by, ends = 0, False
        if not parts:  # a breakpoint: whoever planted it decides what happens to the instruction
            composer.add(self.templates.stop, 0)
            ends = True
        for raw, template in self._choose(parts, mode):
            composer.add(template, by, raw)
            by += len(raw)
            ends = template.ends
        if not ends:
            composer.leave(by)
        return composer.finish(b"".join(part.raw for part in parts))

    def _choose(self, parts: list[Decoded], mode: int) -> list[tuple[bytes, Template]]:
        """A template for each instruction: without flags where nobody reads them, fused where a branch follows a compare."""
        chosen: list[tuple[bytes, Template]] = []
        needed = True
        index = len(parts) - 1
        if index >= 1 and parts[index].kind.fuses and not mode & s.MODE_STEP:
            fused = self.templates.fused(parts[index - 1], parts[index])
            if fused is not None:
                chosen.append((parts[index - 1].raw + parts[index].raw, fused))
                needed = needed_before(fused, True)
                index -= 2
        while index >= 0:
            entry = parts[index]
            template = self.templates.template(entry, dead=not needed and entry.kind.has_dead)
            chosen.append((entry.raw, template))
            needed = needed_before(template, needed)
            index -= 1
        chosen.reverse()
        return chosen


def needed_before(template: Template, needed: bool) -> bool:
    """Whether somebody reads the flags before an instruction, `needed` saying the same of those behind it."""
    needed = needed or template.ends or bool(template.exits)  # whatever is behind an exit reads them
    return template.reads_flags or template.leaves or (needed and not template.sets_flags)
