"""Templates of instructions, by their bytes and mode: decoded, lowered, laid out, each of them once."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from iced_x86 import Decoder, FlowControl, Instruction, Mnemonic

from trapgate.arch.models import CpuModel
from trapgate.isa import state as s
from trapgate.isa.flags import CONDITIONS
from trapgate.soft import decode_flow, decode_string, decode_system  # noqa: F401  (they fill ROWS)
from trapgate.soft.announced import meaning
from trapgate.soft.decode import ROWS
from trapgate.soft.gates import lower_gated
from trapgate.soft.instructions import HANDLERS
from trapgate.soft.layout import Layouts
from trapgate.soft.parameters import addresses, parametrised, without
from trapgate.soft.shapes import Shape, variable
from trapgate.soft.template import Builder, Template
from trapgate.soft.toolong import is_too_long
from trapgate.stencil.library import Library

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
    mode: int
    kind: Kind
    value: int  # of the constant in which instructions of its shape differ
    templates: dict[bool, Template]  # by whether its flags are not stored


class Templates:
    """All of one CPU model. `counting`: repeated string instructions and heads of blocks count, for the instruction clock."""

    def __init__(self, library: Library, model: CpuModel) -> None:
        self.model, self.counting = model, False
        self._layouts = Layouts(library)
        self._known = defaultdict[int, dict[bytes, Decoded]](dict)  # by mode and bytes
        self._kinds: dict[tuple[int, bytes, tuple[int, ...]], Kind] = {}  # by mode, what members have in common, addresses
        self._pairs: dict[tuple[int, bytes, int], Shape | None] = {}  # compares and branches in one: by mode, bytes, kind of branch
        self._heads: dict[int, Template] = {}

    def forget(self) -> None:
        """Start over."""
        self._known.clear()
        self._pairs.clear()  # they name kinds by their identity
        self._kinds.clear()

    def seen(self, mode: int) -> Mapping[bytes, Decoded]:
        """The instructions that were met before in a mode, by their bytes."""
        return self._known[mode]

    def known(self, raw: bytes, mode: int) -> Decoded:
        """What is known of an instruction."""
        known = self._known[mode]
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
            entry = known[raw] = Decoded(raw, mode, kind, value, {})
        return entry

    def template(self, entry: Decoded, dead: bool) -> Template:
        """The template of an instruction; `dead`: nobody reads its flags."""
        found = entry.templates.get(dead)
        if found is None:
            raw, mode, kind = entry.raw, entry.mode, entry.kind
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

    def fused(self, first: Decoded, branch: Decoded) -> Template | None:
        """A compare and the branch behind it as one template, or None where no stencil does both."""
        raw, mode, size = first.raw + branch.raw, first.mode, len(first.raw)
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

    @cached_property
    def stop(self) -> Template:
        """A breakpoint: the way out, in the place of an instruction."""
        builder = self._builder(0, 0)
        builder.raises("leave_breakpoint")
        return builder.finish()

    def head(self, count: int) -> Template:
        """The beginning of a block of so many instructions."""
        count = count if self.counting else 0
        found = self._heads.get(count)
        if found is None:
            builder = self._builder(0, 0)
            builder.op("head.count", Ucount=count) if self.counting else builder.op("head")
            found = self._heads[count] = builder.finish()
        return found


def _named(*names: str) -> frozenset[int]:
    return frozenset(getattr(Mnemonic, name) for name in names)


_JCC = _named(*(f"J{name.upper()}" for name in CONDITIONS))
