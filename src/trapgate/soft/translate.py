"""The translator: guest bytes in, a block of host code out. Decoding, looking up templates, copying, patching, chaining."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from iced_x86 import Decoder, FlowControl, Instruction, Mnemonic

from trapgate.arch.models import CpuModel
from trapgate.isa import state as s
from trapgate.isa.flags import CONDITIONS
from trapgate.isa.state import LAYOUT
from trapgate.memory import PAGE_SIZE, Ram
from trapgate.soft import decode_flow, decode_string, decode_system  # noqa: F401  (they fill ROWS)
from trapgate.soft.announced import meaning
from trapgate.soft.blocks import Block, Blocks, Site
from trapgate.soft.codebuffer import CodeBuffer
from trapgate.soft.composer import ENTRY, BlockTemplate, Composer
from trapgate.soft.decode import ROWS
from trapgate.soft.gates import lower_gated
from trapgate.soft.instructions import HANDLERS
from trapgate.soft.known import KnownBlocks
from trapgate.soft.template import Builder, Template
from trapgate.soft.toolong import is_too_long

BLOCK_LIMIT = 64  # instructions
MAX_LENGTH = 15
MOST_INSTRUCTIONS = 1 << 16  # kept decoded for Python
MOST_BLOCKS = 1 << 18  # kept by their bytes
SHARED_MNEMONICS = (Mnemonic.MOVSD, Mnemonic.CMPSD)  # string and SSE instructions of the same name


@dataclass(slots=True)
class Decoded:
    """What the translator remembers of some instruction bytes in one mode."""

    instruction: Instruction
    length: int
    fuses: bool  # Jcc
    live: Template | None = None
    dead: Template | None = None
    fused: dict[bytes, Template] | None = None


class FetchFault(Exception):
    """The bytes behind the first page could not be fetched."""


class Translator:
    """Makes blocks; knows nothing of when."""

    def __init__(self, ram: Ram, code: CodeBuffer, blocks: Blocks, model: CpuModel) -> None:
        self.ram, self.code, self.blocks, self.model = ram, code, blocks, model
        self.counting = False  # instruction clock: block heads and repeated string instructions count; set before anything is run
        self.breakpoints: frozenset[int] = frozenset()  # linear addresses at which a block must stop
        self.instructions: list[Instruction] = []  # those that Python executes, by number
        self._numbers: dict[tuple[bytes, int], int] = {}
        self._decoded: dict[int, dict[bytes, Decoded]] = {}
        self._heads: dict[int, Template] = {}
        self._natives = {name: LAYOUT["native_table"].offset + 8 * n for n, name in enumerate(sorted(code.entries))}
        self.known_blocks = KnownBlocks()
        self._memory = ram._view
        self.block_limit = BLOCK_LIMIT
        self.chaining = True

    def translate(self, rip: int, physical: int, mode: int, linear: int, second: Callable[[], int]) -> Block:
        """The block at RIP. `second()` gives the guest-physical page behind the first one, when an instruction reaches into it."""
        page_end = (physical & ~(PAGE_SIZE - 1)) + PAGE_SIZE
        bits = (16, 32, 64)[mode & s.MODE_CODE]
        known = self._decoded.setdefault(mode, {})
        data = bytes(self._memory[physical : min(page_end, physical + MAX_LENGTH * self.block_limit)])
        space = mode | self.counting << 16 | self.block_limit << 32
        if not self.breakpoints:
            found = self.known_blocks.find(space, data)
            if found is not None:
                return self._place(found, rip, physical, mode, -1)
        decoder = Decoder(bits, data)
        limit = 1 if mode & s.MODE_STEP else self.block_limit
        parts: list[tuple[Decoded, bytes]] = []
        at, second_page = 0, -1
        breakpoints = self.breakpoints
        stepping = bool(mode & s.MODE_STEP)
        while len(parts) < limit and at < len(data):
            if breakpoints and not stepping and linear + at in breakpoints:
                break
            instruction = decoder.decode()
            length = instruction.len
            if instruction.is_invalid:
                room = len(data) - at
                if room < MAX_LENGTH and physical + len(data) == page_end:
                    if parts:
                        break  # it gets a block of its own
                    second_page = second()
                    data = data[at:] + bytes(self._memory[second_page : second_page + MAX_LENGTH])
                    parts.append(self._one(known, mode, bits, data))
                    at = parts[0][0].length
                    if at <= room:
                        second_page = -1
                    break
                length = max(1, min(length, room))
            raw = data[at : at + length]
            entry = known.get(raw)
            if entry is None:
                entry = known[raw] = self._decode(raw, bits, mode)
            parts.append((entry, raw))
            at += length
            if entry.instruction.flow_control != FlowControl.NEXT or (entry.live is not None and entry.live.ends):
                break
            if entry.live is None and self._template(entry, raw, mode).ends:
                break
        template = self._compose(mode, parts)
        if second_page < 0 and parts:
            self.known_blocks.add(space, template)
        return self._place(template, rip, physical, mode, second_page)

    @property
    def crowded(self) -> bool:
        """A guest that makes ever new code must not fill the host's memory."""
        return len(self.instructions) > MOST_INSTRUCTIONS or self.known_blocks.added > MOST_BLOCKS

    def forget(self) -> None:
        """Start over, together with all blocks: their code holds the numbers of instructions."""
        self.instructions.clear()
        self._numbers.clear()
        self._decoded.clear()
        self.known_blocks = KnownBlocks()

    def _one(self, known: dict[bytes, Decoded], mode: int, bits: int, data: bytes) -> tuple[Decoded, bytes]:
        """The instruction at the start of some bytes that are all there."""
        instruction = Decoder(bits, data[:MAX_LENGTH]).decode()
        raw = data[: max(1, instruction.len)]
        if raw not in known:
            known[raw] = self._decode(raw, bits, mode)
        return known[raw], raw

    def _decode(self, raw: bytes, bits: int, mode: int) -> Decoded:
        decoder = Decoder(bits, raw, ip=0)
        i = decoder.decode()
        return Decoded(i, len(raw), i.mnemonic in _JCC)

    def _template(self, entry: Decoded, raw: bytes, mode: int, dead: bool = False) -> Template:
        found = entry.dead if dead else entry.live
        if found is None:
            builder = Builder(self.code.library, mode, entry.length, dead, self.model.amd, self.counting)
            if entry.instruction.is_invalid and is_too_long(raw, builder.code_size):
                builder.raises("raise_gp0")
            else:
                self._lower(builder, entry.instruction)
            found = builder.finish()
            if dead:
                entry.dead = found
            else:
                entry.live = found
        return found

    def _fused(self, first: Decoded, first_raw: bytes, branch: Decoded, branch_raw: bytes, mode: int) -> Template | None:
        """A compare and the branch behind it as one template, or None where no stencil does both."""
        table = first.fused
        if table is None:
            table = first.fused = {}
        if branch_raw in table:
            return table[branch_raw] or None
        builder = Builder(self.code.library, mode, first.length, False, self.model.amd, self.counting)
        self._lower(builder, first.instruction)
        if not builder.ops or builder.ends:
            return None
        before = len(builder.ops)
        builder.length += branch.length
        target = branch.instruction.near_branch_target
        shifted = Decoder(builder.code_size, branch_raw, ip=first.length).decode()
        del target
        self._lower(builder, shifted)
        if len(builder.ops) != before:
            return None
        table[branch_raw] = found = builder.finish()
        return found

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

    def _compose(self, mode: int, parts: list[tuple[Decoded, bytes]]) -> BlockTemplate:
        """String the templates of a block together, and add the out-of-line parts."""
        composer = Composer((16, 32, 64)[mode & s.MODE_CODE], self._natives)
        composer.add(self._head(len(parts)), 0)
        by, ends = 0, False
        if not parts:  # a breakpoint: whoever planted it decides what happens to the instruction
            composer.add(self._stop, 0)
            ends = True
        for entry, raw, template in self._choose(parts, mode):
            composer.add(template, by, raw)
            by += entry.length
            ends = template.ends
        if not ends:
            composer.leave(by)
        return composer.finish(b"".join(raw for _, raw in parts))

    def _place(self, template: BlockTemplate, rip: int, physical: int, mode: int, second_page: int) -> Block:
        """Copy a block to where it runs, and fill in what depends on RIP."""
        guest, image, rips, exits, numbers = template
        code = bytearray(image)
        mask = (1 << (16, 32, 64)[mode & s.MODE_CODE]) - 1
        code[:8] = rip.to_bytes(8, "little")
        for at, by in rips:
            code[at : at + 8] = (rip + by & mask).to_bytes(8, "little")
        for at, raw in numbers:
            code[at : at + 4] = self._number(raw, mode).to_bytes(4, "little")
        base = self.code.append(code)
        page, low = physical & ~(PAGE_SIZE - 1), rip & ~(PAGE_SIZE - 1)
        sites = []
        if self.chaining and not mode & s.MODE_STEP and second_page < 0:
            for at, thunk, by in exits:
                target = rip + by & mask
                if target & ~(PAGE_SIZE - 1) == low:
                    sites.append(Site(base + at, base + thunk, (target, page | target & PAGE_SIZE - 1, mode)))
        pages = (page,) if second_page < 0 else (page, second_page)
        return Block((rip, physical, mode), base + ENTRY, len(guest), pages, second_page, sites=sites)

    def _choose(self, parts: list[tuple[Decoded, bytes]], mode: int) -> list[tuple[Decoded, bytes, Template]]:
        """A template for each instruction: without flags where nobody reads them, fused where a branch follows a compare."""
        chosen: list[tuple[Decoded, bytes, Template]] = []
        needed = True
        index = len(parts) - 1
        if index >= 1 and parts[index][0].fuses and not mode & s.MODE_STEP:
            first, first_raw = parts[index - 1]
            branch, branch_raw = parts[index]
            fused = self._fused(first, first_raw, branch, branch_raw, mode)
            if fused is not None:
                joined = Decoded(first.instruction, first.length + branch.length, False)
                chosen.append((joined, first_raw + branch_raw, fused))
                needed = needed_before(fused, True)
                index -= 2
        while index >= 0:
            entry, raw = parts[index]
            template = self._template(entry, raw, mode)
            if not needed and template.has_dead:
                template = self._template(entry, raw, mode, dead=True)
            chosen.append((entry, raw, template))
            needed = needed_before(template, needed)
            index -= 1
        chosen.reverse()
        return chosen

    @cached_property
    def _stop(self) -> Template:
        builder = Builder(self.code.library, 0, 0)
        builder.raises("leave_breakpoint")
        return builder.finish()

    def _head(self, count: int) -> Template:
        count = count if self.counting else 0
        found = self._heads.get(count)
        if found is None:
            builder = Builder(self.code.library, 0, 0)
            builder.op("head.count", Ucount=count) if self.counting else builder.op("head")
            found = self._heads[count] = builder.finish()
        return found

    def _number(self, raw: bytes, mode: int) -> int:
        """The number of an instruction that Python executes."""
        key = (raw, mode & s.MODE_CODE)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.instructions)
            self.instructions.append(Decoder((16, 32, 64)[mode & s.MODE_CODE], raw, ip=0).decode())
        return number


def needed_before(template: Template, needed: bool) -> bool:
    """Whether somebody reads the flags before an instruction, `needed` saying the same of those behind it."""
    needed = needed or template.ends or bool(template.exits)  # whatever is behind an exit reads them
    return template.reads_flags or template.leaves or (needed and not template.sets_flags)


def _named(*names: str) -> frozenset[int]:
    return frozenset(getattr(Mnemonic, name) for name in names)


_JCC = _named(*(f"J{name.upper()}" for name in CONDITIONS))
