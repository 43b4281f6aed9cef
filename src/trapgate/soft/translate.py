"""The translator: guest bytes in, a block of host code out. Decoding, looking up templates, copying, patching, chaining."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from iced_x86 import Decoder, FlowControl, Instruction, Mnemonic, RflagsBits

from trapgate.arch.models import CpuModel
from trapgate.isa import state as s
from trapgate.isa.flags import CONDITIONS
from trapgate.memory import PAGE_SIZE, Ram
from trapgate.soft import decode_flow, decode_string, decode_system  # noqa: F401  (they fill ROWS)
from trapgate.soft.announced import meaning
from trapgate.soft.blocks import Block, Blocks, Site
from trapgate.soft.codebuffer import CodeBuffer
from trapgate.soft.decode import ROWS
from trapgate.soft.gates import lower_gated
from trapgate.soft.instructions import HANDLERS
from trapgate.soft.template import Builder, Template
from trapgate.soft.toolong import is_too_long

BLOCK_LIMIT = 64  # instructions
MAX_LENGTH = 15
STATUS = RflagsBits.OF | RflagsBits.SF | RflagsBits.ZF | RflagsBits.AF | RflagsBits.CF | RflagsBits.PF
SHARED_MNEMONICS = (Mnemonic.MOVSD, Mnemonic.CMPSD)  # string and SSE instructions of the same name
_LEA_RCX = b"\x48\x8d\x0d"  # lea rcx, [rip + disp32]: RCX holds RESUME at every seam


@dataclass(slots=True)
class Decoded:
    """What the translator remembers of some instruction bytes in one mode."""

    instruction: Instruction
    length: int
    reads_flags: bool
    sets_flags: bool  # all six, whatever the operands
    faults: bool  # may leave in the middle: flags must be right before it
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
        self.counting = False  # instruction clock: block heads count
        self.breakpoints: frozenset[int] = frozenset()  # linear addresses at which a block must stop
        self.instructions: list[Instruction] = []  # those that Python executes, by number
        self._numbers: dict[bytes, int] = {}
        self._decoded: dict[int, dict[bytes, Decoded]] = {}
        self._memory = ram._view
        self.block_limit = BLOCK_LIMIT
        self.chaining = True

    def translate(self, rip: int, physical: int, mode: int, linear: int, second: Callable[[], int]) -> Block:
        """The block at RIP. `second()` gives the guest-physical page behind the first one, when an instruction reaches into it."""
        page_end = (physical & ~(PAGE_SIZE - 1)) + PAGE_SIZE
        bits = (16, 32, 64)[mode & s.MODE_CODE]
        known = self._decoded.setdefault(mode, {})
        data = bytes(self._memory[physical : min(page_end, physical + MAX_LENGTH * self.block_limit)])
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
        return self._emit(rip, physical, mode, parts, second_page)

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
        shifts_by_cl = i.op_count > 1 and i.mnemonic in _SHIFTS
        memory = any(i.op_kind(n) >= _FIRST_MEMORY_KIND for n in range(i.op_count))
        faults = memory or i.is_stack_instruction or i.flow_control != FlowControl.NEXT or i.mnemonic in _MAY_FAULT or not _plain(i)
        faults = faults or meaning(i, self.model) is None
        return Decoded(
            i, len(raw), bool(i.rflags_read & STATUS) or shifts_by_cl,
            i.rflags_modified & STATUS == STATUS and not shifts_by_cl, faults,
            i.mnemonic in _JCC,
        )  # fmt: skip

    def _template(self, entry: Decoded, raw: bytes, mode: int, dead: bool = False) -> Template:
        found = entry.dead if dead else entry.live
        if found is None:
            builder = Builder(self.code.library, mode, entry.length, dead, self.model.amd)
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
        builder = Builder(self.code.library, mode, first.length, False, self.model.amd)
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

    def _emit(self, rip: int, physical: int, mode: int, parts: list[tuple[Decoded, bytes]], second_page: int) -> Block:
        """Copy the templates one behind another, patch them, add the out-of-line parts."""
        code = bytearray()
        colds: list[tuple[int, str, int, int]] = []  # branch, function, resume offset, RIP
        exits: list[tuple[int, int]] = []  # branch, target RIP
        natives: list[tuple[int, str]] = []
        mask = (1 << (16, 32, 64)[mode & s.MODE_CODE]) - 1
        head = self._head(len(parts))
        place(code, head, rip, 0, mask, colds, exits, natives)
        here = rip
        ends = False
        if not parts:  # a breakpoint: whoever planted it decides what happens to the instruction
            place(code, self._stop, rip, len(code), mask, colds, exits, natives)
            ends = True
        for number, (entry, raw, template) in enumerate(self._choose(parts, mode)):
            start = len(code)
            place(code, template, here, start, mask, colds, exits, natives)
            if template.python:
                self._number(code, start, template, raw, entry)
            here = here + entry.length & mask
            ends = template.ends
            del number
        if not ends:
            exits.append((len(code) + 1, here))
            code += b"\xe9\0\0\0\0"
        base = self.code.end
        entries, buffer_base = self.code.entries, self.code.base
        sites: list[Site] = []
        for at, function, resume, its_rip in colds:
            thunk = len(code)
            code[at : at + 4] = (thunk - at - 4).to_bytes(4, "little", signed=True)
            code += _LEA_RCX + (resume - thunk - 7).to_bytes(4, "little", signed=True) + set_rip(its_rip)
            there = entries[function] - buffer_base
            code += b"\xe9" + (there - (base + len(code) + 5)).to_bytes(4, "little", signed=True)
        for at, function in natives:
            code[at : at + 4] = (entries[function] - buffer_base - (base + at + 4)).to_bytes(4, "little", signed=True)
        dispatch = entries["dispatch"] - buffer_base
        page, linear_page = physical & ~(PAGE_SIZE - 1), rip & ~(PAGE_SIZE - 1)
        chain = self.chaining and not mode & s.MODE_STEP and second_page < 0
        for at, target in exits:
            thunk = len(code)
            code[at : at + 4] = (thunk - at - 4).to_bytes(4, "little", signed=True)
            code += set_rip(target)
            code += b"\xe9" + (dispatch - (base + len(code) + 5)).to_bytes(4, "little", signed=True)
            same_page = target & ~(PAGE_SIZE - 1) == linear_page
            wants = (target, page | target & (PAGE_SIZE - 1), mode) if chain and same_page else None
            sites.append(Site(base + at, base + thunk, wants))
        length = sum(entry.length for entry, _ in parts)
        offset = self.code.append(bytes(code))
        assert offset == base
        pages = (page,) if second_page < 0 else (page, second_page)
        return Block((rip, physical, mode), offset, length, pages, second_page, sites=sites)

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
                joined = Decoded(first.instruction, first.length + branch.length, False, True, True, False)
                chosen.append((joined, first_raw + branch_raw, fused))
                needed = first.reads_flags or first.faults or not first.sets_flags
                index -= 2
        while index >= 0:
            entry, raw = parts[index]
            dead = not needed and entry.sets_flags
            chosen.append((entry, raw, self._template(entry, raw, mode, dead)))
            if entry.sets_flags:
                needed = False
            if entry.reads_flags or entry.faults:
                needed = True
            index -= 1
        chosen.reverse()
        return chosen

    @cached_property
    def _stop(self) -> Template:
        builder = Builder(self.code.library, 0, 0)
        builder.raises("leave_breakpoint")
        return builder.finish()

    def _head(self, count: int) -> Template:
        builder = Builder(self.code.library, 0, 0)
        builder.op("head.count", Ucount=count) if self.counting else builder.op("head")
        return builder.finish()

    def _number(self, code: bytearray, start: int, template: Template, raw: bytes, entry: Decoded) -> None:
        """Give an instruction that Python executes its number."""
        key = raw
        number = self._numbers.get(key)
        if number is None or self.instructions[number].code != entry.instruction.code:
            number = len(self.instructions)
            self.instructions.append(entry.instruction)
            self._numbers[key] = number
        for at in template.python:
            code[start + at : start + at + 4] = number.to_bytes(4, "little")


def place(
    code: bytearray, template: Template, rip: int, start: int, mask: int,
    colds: list[tuple[int, str, int, int]], exits: list[tuple[int, int]], natives: list[tuple[int, str]],
) -> None:  # fmt: skip
    """Append a template and note what is left to patch."""
    code += template.code
    for at, by in template.rips:
        code[start + at : start + at + 8] = (rip + by & mask).to_bytes(8, "little")
    for at, function, resume in template.colds:
        colds.append((start + at, function, start + resume, rip))
    for at, name in template.natives:
        natives.append((start + at, name))
    for way in template.exits:
        exits.append((start + way.at, rip + way.by & mask))


def set_rip(rip: int) -> bytes:
    """Host code: store a constant to the RIP of the state at R12."""
    if rip < 1 << 31 or rip >= (1 << 64) - (1 << 31):
        return b"\x49\xc7\x04\x24" + (rip & 0xFFFFFFFF).to_bytes(4, "little")
    low, high = rip & 0xFFFFFFFF, rip >> 32
    return b"\x41\xc7\x04\x24" + low.to_bytes(4, "little") + b"\x41\xc7\x44\x24\x04" + high.to_bytes(4, "little")


def _plain(i: Instruction) -> bool:
    """Whether an instruction has a row of ours that cannot leave its block."""
    return i.mnemonic in ROWS and not i.is_privileged


def _named(*names: str) -> frozenset[int]:
    return frozenset(getattr(Mnemonic, name) for name in names)


_SHIFTS = _named("SHL", "SAL", "SHR", "SAR", "ROL", "ROR", "RCL", "RCR", "SHLD", "SHRD")
_MAY_FAULT = _named(
    "DIV", "IDIV", "CLI", "STI", "POPF", "POPFD", "POPFQ", "SWAPGS", "STAC", "CLAC", "INVLPG",
    "RDFSBASE", "RDGSBASE", "WRFSBASE", "WRGSBASE",
)  # fmt: skip
_JCC = _named(*(f"J{name.upper()}" for name in CONDITIONS))
_FIRST_MEMORY_KIND = 15  # iced_x86.OpKind: MEMORY_SEG_SI and everything behind it lies in memory
