"""The translator: guest bytes in, a known block out. Decoding, looking up templates, stringing them together."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from iced_x86 import Decoder, FlowControl, Instruction, Mnemonic

from trapgate.arch.models import CpuModel
from trapgate.isa import state as s
from trapgate.isa.flags import CONDITIONS
from trapgate.isa.state import LAYOUT
from trapgate.memory import PAGE_SIZE, Ram
from trapgate.soft import decode_flow, decode_string, decode_system  # noqa: F401  (they fill ROWS)
from trapgate.soft.announced import meaning
from trapgate.soft.codebuffer import CodeBuffer
from trapgate.soft.composer import BlockTemplate, Composer
from trapgate.soft.decode import ROWS
from trapgate.soft.gates import lower_gated
from trapgate.soft.instructions import HANDLERS
from trapgate.soft.known import KnownBlocks, Numbered
from trapgate.soft.layout import Layouts
from trapgate.soft.parameters import addresses, parametrised, without
from trapgate.soft.shapes import Shape, variable
from trapgate.soft.state import CpuState
from trapgate.soft.template import Builder, Template
from trapgate.soft.toolong import is_too_long

BLOCK_LIMIT = 64  # instructions
MAX_LENGTH = 15
TWO_PAGES = 1 << 63  # in the space of known blocks: an instruction that needs bytes of the next page
MOST_INSTRUCTIONS = 1 << 16  # kept decoded for Python
MOST_BLOCKS = 1 << 18  # kept by their bytes
SHARED_MNEMONICS = (Mnemonic.MOVSD, Mnemonic.CMPSD)  # string and SSE instructions of the same name


@dataclass(slots=True)
class Kind:
    """What instructions of one shape have in common."""

    shape: Shape
    fuses: bool  # Jcc
    ends: bool  # no instruction behind it runs in the same block
    has_dead: bool  # there is a variant for places where nobody reads its flags
    addresses: tuple[int, ...]  # offsets of constants that may be parameters: members differ in these alone
    shared: dict[bool, Template] = field(default_factory=dict)  # where all of them are parameters


@dataclass(slots=True)
class Decoded:
    """What the translator remembers of some instruction bytes in one mode."""

    raw: bytes
    kind: Kind
    value: int  # of the constant in which instructions of its shape differ
    templates: dict[bool, Template]  # by whether its flags are not stored


class Found(NamedTuple):
    """A block that is known now."""

    record: int  # in the known blocks
    second: int  # guest-physical page of the bytes behind the first page, or -1
    host: int  # where its bytes lie


class Translator:
    """Makes blocks; knows nothing of when."""

    def __init__(self, ram: Ram, code: CodeBuffer, state: CpuState, model: CpuModel) -> None:
        self.code, self.state, self.model = code, state, model
        self.breakpoints: frozenset[int] = frozenset()  # linear addresses at which a block must stop
        self.known_blocks = KnownBlocks()
        self._decoded: dict[int, dict[bytes, Decoded]] = {}  # by mode and bytes
        self._kinds: dict[tuple[int, bytes, tuple[int, ...]], Kind] = {}  # by mode, what members have in common, addresses
        self._pairs: dict[tuple[int, bytes, int], Shape | None] = {}  # compares and branches in one: by mode, bytes, kind of branch
        self._heads: dict[int, Template] = {}
        self._natives = {name: LAYOUT["native_table"].offset + 8 * n for n, name in enumerate(sorted(code.entries))}
        self._ram, self._memory = ram, ram._view
        self._layouts = Layouts(code.library)
        self._both = (ctypes.c_char * (2 * MAX_LENGTH))()  # the bytes at the end of a page and those behind it
        self._find = code.function("find_block", 64, 3)
        self.counting, self.block_limit = False, BLOCK_LIMIT
        state.known_base, state.chaining = self.known_blocks.address, 1
        self.configure()

    def configure(self, *, counting: bool | None = None, block_limit: int | None = None, chaining: bool | None = None) -> None:
        """How blocks are made: heads that count (the instruction clock), instructions at most, chained. What is not given stays."""
        self.counting = self.counting if counting is None else counting
        self.block_limit = block_limit or self.block_limit
        self.state.block_space = self.counting << 16 | self.block_limit << 32
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
            record = self.known_blocks.add(space, self._compose(mode, [self._known(raw, mode)]))
        return Found(record, page if self.known_blocks.length(record) > room else -1, host)

    def _parts(self, physical: int, mode: int, room: int, stops: set[int]) -> list[Decoded]:
        """The instructions of a block, none where a breakpoint comes first. `stops`: offsets of breakpoints."""
        bits = (16, 32, 64)[mode & s.MODE_CODE]
        limit = 1 if mode & s.MODE_STEP else self.block_limit
        data = self._memory[physical : physical + min(room, MAX_LENGTH * limit)].tobytes()
        decoder = Decoder(bits, data)
        known = self._decoded.setdefault(mode, {})
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
            entry = known.get(raw) or self._known(raw, mode)
            parts.append(entry)
            at += length
            if entry.kind.ends:
                break
        return parts

    def _known(self, raw: bytes, mode: int) -> Decoded:
        """What is known of an instruction."""
        known = self._decoded.setdefault(mode, {})
        entry = known.get(raw)
        if entry is None:
            bits = (16, 32, 64)[mode & s.MODE_CODE]
            decoder = Decoder(bits, raw, ip=0)
            i = decoder.decode()
            at = size = 0
            common, may_move = raw, tuple[int, ...]()
            if bits == 64 and not i.is_invalid:
                places = decoder.get_constant_offsets(i)
                may_move = addresses(i, places, raw)
                if may_move:
                    common = without(raw, may_move)
                else:
                    at, size = variable(i, places)
                    common = raw[:at] + raw[at + size :]
            value = int.from_bytes(raw[at : at + size], "little", signed=True)
            kind = self._kinds.get((mode, common, may_move))
            if kind is None:
                builder = self._lowered(raw, mode, i)
                ends = builder.ends or i.flow_control != FlowControl.NEXT
                kind = Kind(Shape(builder, value), i.mnemonic in _JCC, ends, builder.layout().has_dead, may_move)
                self._kinds[mode, common, may_move] = kind
            entry = known[raw] = Decoded(raw, kind, value, {})
        return entry

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
        self._decoded.clear()
        self._pairs.clear()  # they name kinds by their identity
        self._kinds.clear()
        self.known_blocks = KnownBlocks()
        self.state.known_base = self.known_blocks.address

    def _template(self, entry: Decoded, mode: int, dead: bool) -> Template:
        found = entry.templates.get(dead)
        if found is None:
            raw, kind = entry.raw, entry.kind
            if kind.addresses:
                found = kind.shared.get(dead)
                if found is None:
                    found = parametrised(raw, kind.addresses, dead, lambda other: self._lowered(other, mode))
                    if {place for place, *_ in found.parameters} == set(kind.addresses):
                        kind.shared[dead] = found
            else:
                found = kind.shape.template(entry.value, dead, lambda: self._lowered(raw, mode))
            entry.templates[dead] = found
        return found

    def _lowered(self, raw: bytes, mode: int, instruction: Instruction | None = None) -> Builder:
        builder = self._builder(mode, len(raw))
        instruction = instruction or Decoder(builder.code_size, raw, ip=0).decode()
        if instruction.is_invalid and is_too_long(raw, builder.code_size):
            builder.raises("raise_gp0")
        else:
            self._lower(builder, instruction)
        return builder

    def _builder(self, mode: int, length: int) -> Builder:
        return Builder(self._layouts, mode, length, self.model.amd, self.counting)

    def _fused(self, first: Decoded, branch: Decoded, mode: int) -> Template | None:
        """A compare and the branch behind it as one template, or None where no stencil does both."""
        raw, size = first.raw + branch.raw, len(first.raw)
        key = mode, first.raw, id(branch.kind)
        if key not in self._pairs:
            joined = self._joined(raw, size, mode)
            self._pairs[key] = None if joined is None else Shape(joined, branch.value)
        shape = self._pairs[key]
        if shape is None:
            return None
        if first.kind.addresses:
            return parametrised(raw, first.kind.addresses, False, lambda other: self._joined(other, size, mode))
        return shape.template(branch.value, False, lambda: self._joined(raw, size, mode))

    def _joined(self, raw: bytes, size: int, mode: int) -> Builder | None:
        """An instruction of `size` bytes and the branch behind it, lowered together; None where no stencil does both."""
        builder = self._builder(mode, size)
        self._lower(builder, Decoder(builder.code_size, raw[:size], ip=0).decode())
        if not builder.ops or builder.ends:
            return None
        before = len(builder.ops)
        builder.length = len(raw)
        self._lower(builder, Decoder(builder.code_size, raw[size:], ip=size).decode())
        return builder if len(builder.ops) == before else None

    def _lower(self, builder: Builder, i: Instruction) -> None:
        """Micro-ops of one instruction: general-purpose rows, then packed and floating ones, then Python, else #UD."""
        known_as = None if i.is_invalid else meaning(i, self.model)
        if known_as is None:
            builder.raises("raise_ud")
            return
        row = ROWS.get(known_as)
        if row is not None and not (i.mnemonic in SHARED_MNEMONICS and not i.is_string_instruction):
            row(builder, i)
        elif lower_gated(i, builder):
            pass
        elif i.mnemonic in HANDLERS:
            builder.python(i)
        else:
            builder.raises("raise_ud")

    def _compose(self, mode: int, parts: list[Decoded]) -> BlockTemplate:
        """String the templates of a block together, and add the out-of-line parts."""
        composer = Composer((16, 32, 64)[mode & s.MODE_CODE], self._natives)
        composer.add(self._head(len(parts)), 0)
        by, ends = 0, False
        if not parts:  # a breakpoint: whoever planted it decides what happens to the instruction
            composer.add(self._stop, 0)
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
            fused = self._fused(parts[index - 1], parts[index], mode)
            if fused is not None:
                chosen.append((parts[index - 1].raw + parts[index].raw, fused))
                needed = needed_before(fused, True)
                index -= 2
        while index >= 0:
            entry = parts[index]
            template = self._template(entry, mode, dead=not needed and entry.kind.has_dead)
            chosen.append((entry.raw, template))
            needed = needed_before(template, needed)
            index -= 1
        chosen.reverse()
        return chosen

    @cached_property
    def _stop(self) -> Template:
        builder = self._builder(0, 0)
        builder.raises("leave_breakpoint")
        return builder.finish()

    def _head(self, count: int) -> Template:
        count = count if self.counting else 0
        found = self._heads.get(count)
        if found is None:
            builder = self._builder(0, 0)
            builder.op("head.count", Ucount=count) if self.counting else builder.op("head")
            found = self._heads[count] = builder.finish()
        return found


def needed_before(template: Template, needed: bool) -> bool:
    """Whether somebody reads the flags before an instruction, `needed` saying the same of those behind it."""
    needed = needed or template.ends or bool(template.exits)  # whatever is behind an exit reads them
    return template.reads_flags or template.leaves or (needed and not template.sets_flags)


def _named(*names: str) -> frozenset[int]:
    return frozenset(getattr(Mnemonic, name) for name in names)


_JCC = _named(*(f"J{name.upper()}" for name in CONDITIONS))
