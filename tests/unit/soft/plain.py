"""Blocks as plain Python makes them, each instruction lowered by itself, nothing remembered; and as native code makes them."""

import ctypes
import struct
from array import array
from collections.abc import Sequence

from iced_x86 import Decoder

from trapgate.arch.models import CpuModel
from trapgate.isa import modes
from trapgate.isa.native import placing as p
from trapgate.isa.state import LAYOUT
from trapgate.memory import Ram
from trapgate.soft.blocks.known import KnownBlocks, Numbered, spread
from trapgate.soft.blocks.translator import Translator
from trapgate.soft.decode.lowering import Lowering, Part
from trapgate.soft.decode.template import Template
from trapgate.soft.state.codebuffer import CodeBuffer, table_order
from trapgate.soft.state.view import CpuState

HEADER = struct.Struct("<IHHQIIHHHH")
ALL = (1 << 64) - 1
LEAVE = {2: (b"\x48\x05", 4), 1: (b"\x05", 4), 0: (b"\x66\x05", 2)}  # add to RAX, EAX, AX: opcode, bytes of the immediate
FARTHEST = (1 << 31) - 1


def record(
    blocks: KnownBlocks,
    space: int,
    guest: bytes,
    code: bytes,
    parameters: Sequence[tuple[int, int, int, int]] = (),
    rips: Sequence[tuple[int, int]] = (),
    exits: Sequence[tuple[int, int, int]] = (),
    findable: bool = True,
) -> int:
    """Keep a block as `isa.native.placing` says it looks; where its record lies."""
    mask = bytearray(b"\xff" * len(guest))
    for at, *_ in parameters:
        mask[at : at + 4] = b"\0\0\0\x80"
    pairs = array("Q")
    for offset, kind, at, addend in parameters:
        pairs.extend((offset | kind << 16 | at << 32, addend & ALL))
    for at, addend in rips:
        pairs.extend((at, addend & ALL))
    for at, unlinked, by in exits:
        pairs.extend((at | unlinked << 32, by & ALL))
    code, padding = code + bytes(-len(code) % 16), bytes(-len(guest) % 8)
    body = guest + padding + mask + padding + pairs.tobytes()
    prefix = guest[: prefix_length(min([len(guest), *(at for at, *_ in parameters)]))] if findable else b""
    before, following = blocks._neighbours(spread(space, prefix) if prefix else None, len(guest))
    code_at, number = HEADER.size + len(body), blocks.end
    counts = len(guest), len(parameters), len(rips), len(exits)
    made = HEADER.pack(following, len(prefix), blocks.run, space, len(code), code_at, *counts) + body + code
    blocks._view[number : number + len(made)] = made
    blocks.end = number + len(made) + 15 & ~15
    blocks.added += 1
    if before is not None:
        blocks._words[before >> 2] = number
    return number


class Native:
    """A translator over RAM of its own, and what it makes of instruction bytes at one place."""

    def __init__(self, code: CodeBuffer) -> None:
        self.code, self.ram, self.state = code, Ram(1 << 20), CpuState()
        self.state.ram_base, self.state.code_base, self.state.code_write = self.ram.host_base, code.base, code.written_at
        self.translator = Translator(self.ram, code, self.state, CpuModel.parse("EPYC-Turin"))
        self._copy = code.function("copy_block", 64, 3)

    def placed(self, data: bytes, mode: int, rip: int) -> tuple[bytes, bytes]:
        """(guest bytes, code) of the block that begins with these bytes, which lie at the end of a page."""
        at = 0x2000 - len(data)
        self.ram.write(at, data)
        found = self.translator.block(at, mode, rip, lambda: 0x2000)
        self.state.code_end = self.code.first
        start = self._copy(ctypes.addressof(self.state), found.record, rip, found.host)
        length = self.translator.known_blocks.length(found.record)
        return data[:length], ctypes.string_at(self.code.written_at + start, self.state.code_end - start)


class Plain:
    """Composes and copies blocks in a mode, by the rules alone."""

    def __init__(self, code: CodeBuffer, numbers: Numbered | None = None) -> None:
        self.code, self.lowering, self.state = code, Lowering(code.library, CpuModel.parse("EPYC-Turin")), CpuState()
        self.state.code_base, self.state.code_write = code.base, code.written_at
        self.known = KnownBlocks()
        self.state.known_base = self.known.address
        self.numbers = Numbered() if numbers is None else numbers
        self._natives = {name: LAYOUT["native_table"].offset + 8 * n for n, name in enumerate(table_order(code.entries))}
        self._copy = code.function("copy_block", 64, 3)

    def placed(self, data: bytes, mode: int, rip: int) -> bytes:
        """The code of the block that consists of these guest bytes."""
        code, rips, exits = self.composed(data, mode)
        number = record(self.known, mode, data, code, (), rips, exits, findable=False)
        self.state.code_end = self.code.first
        guest = ctypes.create_string_buffer(data)
        at = self._copy(ctypes.addressof(self.state), number, rip, ctypes.addressof(guest))
        found = ctypes.string_at(self.code.written_at + at, self.state.code_end - at)
        self.known.end = number  # for the next one
        return found

    def _numbered(self, part: Part, bits: int) -> Template:
        """Its template, with the number of the instruction where Python executes it."""
        code = bytearray(part.template.code)
        for at in part.template.python:
            code[at : at + 4] = self.numbers.number(part.raw, bits).to_bytes(4, "little")
        return part.template._replace(code=bytes(code))

    def composed(self, data: bytes, mode: int) -> tuple[bytes, list[tuple[int, int]], list[tuple[int, int, int]]]:
        """(code, RIP holes, exits) of a block."""
        raws, at, bits = list[bytes](), 0, (16, 32, 64)[mode & modes.CODE]
        while at < len(data):
            i = Decoder(bits, data[at:]).decode()
            raws.append(data[at:] if i.is_invalid else data[at : at + i.len])  # nothing follows what is no instruction
            at += len(raws[-1])
        head = self.lowering.head(len(raws), not mode & modes.UNLIMITED)
        parts = [(b"", head), *((part.raw, self._numbered(part, bits)) for part in self.lowering.parts(raws, mode))]
        if not raws:
            parts.append((b"", self.lowering.stop()))
        code, by = bytearray(p.ENTRY), 0
        rips, natives, ways = list[tuple[int, int]](), list[tuple[int, str, int, int]](), list[tuple[int, int]]()
        for raw, template in parts:
            start = len(code)
            code += template.code
            rips += [(start + at, by + addend) for at, addend in template.rips]
            natives += [(start + at, function, start + resume, by) for at, function, resume in template.colds]
            natives += [(start + at, function, 0, by) for at, function in template.natives]
            ways += [(start + at, by + to) for at, to in template.exits]
            by += len(raw)
        if not parts[-1][1].ends:
            ways.append((len(code) + 1, by))
            code += b"\xe9\0\0\0\0"
        exits = []
        for at, function, resume, by in natives:
            code[at : at + 4] = (len(code) - at - 4).to_bytes(4, "little", signed=True)
            if resume:
                code += b"\x48\x8d\x0d" + (resume - len(code) - 7).to_bytes(4, "little", signed=True)
                code += self._way_out(len(code), mode, by, function)
            else:
                code += b"\x41\xff\xa4\x24" + self._natives[function].to_bytes(4, "little")
        for at, by in ways:
            code[at : at + 4] = (len(code) - at - 4).to_bytes(4, "little", signed=True)
            exits.append((at, len(code), by))
            code += self._way_out(len(code), mode, by, "dispatch")
        return bytes(code), rips, exits

    def _way_out(self, at: int, mode: int, by: int, function: str) -> bytes:
        """RIP + by into the CPU state, cut to the code size; on at a native function."""
        opcode, size = LEAVE[mode & modes.CODE]
        code = b"\x48\x8b\x05" + (-at - 7).to_bytes(4, "little", signed=True)
        steps = [by] if mode & modes.CODE != 2 or by <= FARTHEST else [FARTHEST, by - FARTHEST]
        for step in steps:
            code += opcode + (step & (1 << 8 * size) - 1).to_bytes(size, "little")
        return code + b"\x49\x89\x04\x24\x41\xff\xa4\x24" + self._natives[function].to_bytes(4, "little")


def prefix_length(free: int) -> int:
    """By how many of its first bytes a record is found, of which so many are no parameter."""
    return p.LONG if free >= p.LONG else min(free, p.SHORT)
