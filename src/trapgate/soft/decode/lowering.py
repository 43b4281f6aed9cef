"""Lowers the bytes of an instruction to micro-ops, and the parts of a block that are no instructions."""

from copy import copy
from typing import NamedTuple

from iced_x86 import Instruction, Mnemonic

from trapgate.arch.models import CpuModel
from trapgate.isa import modes
from trapgate.isa.families.branch import head_name
from trapgate.isa.state import REACH
from trapgate.soft.decode import changing, decoding, flow, integer, strings, system  # noqa: F401  (they fill ROWS)
from trapgate.soft.decode.announced import meaning
from trapgate.soft.decode.avx import is_vex
from trapgate.soft.decode.gates import lower_gated
from trapgate.soft.decode.layout import Layouts
from trapgate.soft.decode.length import is_too_long
from trapgate.soft.decode.rows import ROWS
from trapgate.soft.decode.template import Builder, Rip, Template
from trapgate.soft.state.instructions import HANDLERS
from trapgate.stencil.library import Library

SHARED_MNEMONICS = (Mnemonic.MOVSD, Mnemonic.CMPSD)  # string and SSE instructions of the same name


class Part(NamedTuple):
    """An instruction of a block, or a compare and its branch: what it is made of."""

    raw: bytes
    builder: Builder
    template: Template
    dead: bool  # in the variant without flags


class Lowering:
    """For one CPU model. `counting`: repeated string instructions and heads of blocks count, for the instruction clock."""

    def __init__(self, library: Library, model: CpuModel) -> None:
        self.model, self.counting = model, False
        self._layouts = Layouts(library)

    def lowered(self, raw: bytes, mode: int, instruction: Instruction | None = None) -> Builder:
        """The micro-ops of an instruction."""
        builder = self._builder(mode, len(raw))
        instruction = instruction or decoding.decoder(self.model, builder.code_size, raw).decode()
        if instruction.is_invalid and is_too_long(raw, builder.code_size):
            builder.raises("raise_gp0")
        elif decoding.is_locked_move(instruction, raw):
            builder.raises("raise_ud")
        else:
            self._lower(builder, instruction)
        return builder

    def parts(self, raws: list[bytes], mode: int) -> list[Part]:
        """What a block of these instructions consists of behind its head: what `isa.native.gathering` chooses, without memory."""
        parts, needed, left = list[Part](), True, list(raws)
        builders = [self.lowered(raw, mode) for raw in raws]
        both = fused(*builders[-2:]) if len(builders) > 1 else None
        if both is not None:
            parts.append(Part(b"".join(left[-2:]), both, both.finish(), False))
            needed = needed_before(parts[0].template, True)
            del left[-2:]
        for raw, builder in reversed(list(zip(left, builders, strict=False))):
            dead = not needed and builder.layout().has_dead
            parts.append(Part(raw, builder, builder.finish(dead), dead))
            needed = needed_before(parts[-1].template, needed)
        return parts[::-1]

    def _builder(self, mode: int, length: int) -> Builder:
        return Builder(self._layouts, mode, length, self.model.amd, self.counting)

    def _lower(self, builder: Builder, i: Instruction) -> None:
        """Micro-ops of one instruction: general-purpose rows, then packed and floating ones, then Python, else #UD."""
        known_as = None if i.is_invalid else meaning(i, self.model)
        if known_as is None or (builder.mode & modes.REAL and is_vex(i)):  # SDM vol. 2, 2.3: no VEX in real and virtual-8086 mode
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

    def stop(self) -> Template:
        """A breakpoint: the way out, in the place of an instruction."""
        builder = self._builder(0, 0)
        builder.raises("leave_breakpoint")
        return builder.finish()

    def head(self, count: int, limited: bool = False) -> Template:
        """The beginning of a block of so many instructions; `limited`: in a mode in which the limit of CS counts."""
        builder = self._builder(0, 0)
        holes: dict[str, int | Rip | str] = {"Ucount": count} if self.counting else {}
        if limited:
            holes["Qreach"] = Rip(REACH)
        builder.op(head_name(self.counting, limited), **holes)
        return builder.finish()


def fused(first: Builder, branch: Builder) -> Builder | None:
    """A compare and the branch behind it in one, or None where no stencil does both."""
    if not first.ops or first.ends or len(branch.ops) != 1:
        return None
    (compare, holes), (jump, way) = first.ops[-1], branch.ops[0]
    name, target = f"{compare}.{jump}", way.get("TAKEN")
    if name not in first.layouts.library.stencils:
        return None
    assert isinstance(target, Rip)
    both = copy(first)
    both.ops = [*first.ops[:-1], (name, {**holes, "TAKEN": Rip(first.length + target.by)})]
    both.direct_exits, both.ends = [first.length + by for by in branch.direct_exits], True
    return both


def needed_before(template: Template, needed: bool) -> bool:
    """Whether somebody reads the flags before an instruction, `needed` saying the same of those behind it."""
    needed = needed or template.ends or bool(template.exits)  # whatever is behind an exit reads them
    return template.reads_flags or template.leaves or (needed and not template.sets_flags)
