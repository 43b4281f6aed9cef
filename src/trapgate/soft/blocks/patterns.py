"""Keeps patterns of instructions: lowered once, found and strung together by native code (`isa.native.gathering`, `composing`)."""

import ctypes
from typing import NamedTuple

from iced_x86 import Decoder, FlowControl, Instruction, Mnemonic

from trapgate.isa import modes
from trapgate.isa.flags import CONDITIONS
from trapgate.isa.native import composing as c
from trapgate.isa.native import gathering as g
from trapgate.isa.native.placing import EXTENDED, PLAIN, RELATIVE
from trapgate.mapping import Mapping
from trapgate.soft.blocks.constants import Constant, constants, mask
from trapgate.soft.blocks.dependents import Dependents, Lower, Observed
from trapgate.soft.blocks.known import Numbered, spread
from trapgate.soft.decode import decoding
from trapgate.soft.decode.lowering import Lowering, fused
from trapgate.soft.decode.template import Builder
from trapgate.soft.state.view import CpuState

ROOM = 96 << 20  # bytes of memory: reserved, not touched
_FIELD_KIND = {1: c.NARROW, 4: PLAIN, 8: EXTENDED}  # by bytes
_NONE = (0, 0, False)  # of the guest's constants
_CONDITION = {getattr(Mnemonic, f"J{name.upper()}"): n for n, name in enumerate(CONDITIONS, 1)}


class Pattern(NamedTuple):
    """What Python remembers of one, by its first member."""

    raw: bytes
    mode: int
    builder: Builder
    lower: Lower  # of other members
    free: tuple[Constant, ...]  # in which members differ
    encoding: int


class Patterns:
    """All patterns met so far.

    `lowering` makes templates; `natives` says where in the CPU state the address of each native function lies; `instructions`
    numbers those that Python executes; `state` is the CPU's, whose native code searches the patterns.
    """

    def __init__(self, lowering: Lowering, natives: dict[str, int], instructions: Numbered, state: CpuState) -> None:
        self._lowering, self._natives, self._instructions, self._dependents = lowering, natives, instructions, Dependents()
        memory = Mapping(ROOM, "patterns of guest code")
        self._view = memory.view
        self._words = self._view.cast("I")
        self._end = c.END
        self._made: dict[int, Pattern] = {}  # by where their record lies
        self._fusing: dict[str, int] = {}
        state.patterns = memory.address
        self._words[g.DISPATCH >> 2] = natives["dispatch"]
        self._words[g.STOP >> 2] = self._keep(Observed(lowering.stop(), [], {}))
        for first, limited in ((g.HEADS, False), (g.LIMITED_HEADS, True)):
            heads = [self._keep(Observed(lowering.head(n, limited), [], {})) for n in range(g.MOST + 1 if lowering.counting else 1)]
            for count in range(g.MOST + 1):
                self._words[(first >> 2) + count] = heads[count if lowering.counting else 0]

    def close(self) -> None:
        """Let go of everything: what was observed of instructions leads back here, and would keep it all."""
        vars(self).clear()

    @property
    def full(self) -> bool:
        """Time to start over."""
        return ROOM - self._end < 1 << 20

    def answer(self, host: int, room: int, space: int) -> int:
        """What native code lacks for the block at a host address. How much of `room` the block may fill from now on."""
        question, at, first, second = self._words[g.QUESTION >> 2 : (g.QUESTION >> 2) + 4]
        if question == g.WHICH_TEMPLATE:
            self._give_template(first, bool(second))
        elif question == g.WHICH_PAIR:
            self._give_pair(first, second)
        else:
            assert question == g.WHICH_PATTERN, "there is no room for blocks: they should have been forgotten"
            data = ctypes.string_at(host + at, min(room - at, 15))
            i = (decoder := decoding.decoder(self._lowering.model, modes.code_bits(space), data)).decode()
            if i.is_invalid and at and len(data) < 15:
                return at  # it may go on behind these bytes: a block of its own
            self._give_pattern(data[: max(1, i.len)], space & 0xFFFFFFFF, i, decoder)
        return room

    # --- the three answers

    def _give_pattern(self, raw: bytes, space: int, i: Instruction, decoder: Decoder) -> None:
        """A pattern for an instruction that is of none."""
        mode = space & modes.ALL
        builder = self._lowering.lowered(raw, mode, i)
        if not builder.asks_floating:
            space = space & ~modes.FLOATING | modes.ANY_FLOATING
        free = tuple[Constant, ...]()
        if builder.long and not i.is_invalid:
            free = constants(i, decoder.get_constant_offsets(i), raw)
        ends = builder.ends or i.flow_control != FlowControl.NEXT
        lower: Lower = lambda other: self._lowering.lowered(other, mode)  # noqa: E731
        number = self._give(Pattern(raw, mode, builder, lower, free, i.code), ends)
        words = self._words
        words[number + g.PATTERN.fuses >> 2] = 0 if ends else self._conditions(builder)
        words[number + g.PATTERN.condition >> 2] = _CONDITION.get(i.mnemonic, 0)
        same = mask(len(raw), self._made[number].free)
        prefix = raw[: min(g.PREFIX, len(raw) - len(same.lstrip(b"\xff")))]
        place = spread(space, prefix) & g.PLACES - 1
        g.PATTERN.put(self._view, number, next=words[place], space=space, bytes=raw, mask=same)
        words[place] = number

    def _give_template(self, number: int, dead: bool) -> None:
        """The template of a pattern without flags."""
        assert dead, "a pattern has the other one from the start"
        pattern = self._made[number]
        seen = self._dependents.observe(pattern.raw, pattern.builder, pattern.free, True, pattern.lower, pattern.encoding)
        assert len(seen.moved) == len(pattern.free), f"{pattern.raw.hex()}: flags change what becomes of a constant"
        self._words[number + g.PATTERN.dead >> 2] = self._keep(seen, pattern.raw, pattern.mode)

    def _give_pair(self, first: int, branch: int) -> None:
        """What an instruction and the branch behind it are together."""
        one, two = self._made[first], self._made[branch]
        builder, number, size = fused(one.builder, two.builder), 0, len(one.raw)
        if builder is not None:
            free = one.free + tuple(constant.behind(size) for constant in two.free)

            def lower(other: bytes) -> Builder | None:
                compare, jump = one.lower(other[:size]), two.lower(other[size:])
                return None if compare is None or jump is None else fused(compare, jump)

            number = self._give(Pattern(one.raw + two.raw, one.mode, builder, lower, free, one.encoding << 16 | two.encoding), True)
            assert self._made[number].free == free, f"{one.raw.hex()}, {two.raw.hex()}: a branch changes what becomes of a constant"
        pair = self._append(g.PAIR.pack(next=self._words[first + g.PATTERN.pairs >> 2], branch=branch, pattern=number, unused=0))
        self._words[first + g.PATTERN.pairs >> 2] = pair

    def _conditions(self, builder: Builder) -> int:
        """One bit for each condition (from 1) that the last micro-op can be fused with."""
        if not builder.ops:
            return 0
        last = builder.ops[-1][0]
        found = self._fusing.get(last)
        if found is None:
            stencils = builder.layouts.library.stencils
            found = self._fusing[last] = sum(1 << n for n, name in enumerate(CONDITIONS, 1) if f"{last}.j{name}" in stencils)
        return found

    # --- records

    def _give(self, pattern: Pattern, ends: bool) -> int:
        """Store a pattern, not in the index yet, its constants cut down to those that go; where its record lies."""
        raw, builder = pattern.raw, pattern.builder
        seen = self._dependents.observe(raw, builder, pattern.free, False, pattern.lower, pattern.encoding)
        live, layout = self._keep(seen, raw, pattern.mode), builder.laid_out
        assert layout is not None
        made = g.PATTERN.pack(
            next=0, space=0, bytes=b"", mask=b"", length=len(raw), ends=ends, has_dead=layout.has_dead,
            live=live, dead=0, pairs=0, fuses=0, condition=0,
        )  # fmt: skip
        number = self._append(made)
        self._made[number] = pattern._replace(free=tuple(constant for constant in pattern.free if constant in seen.moved))
        return number

    def _keep(self, seen: Observed, raw: bytes = b"", mode: int = 0) -> int:
        """Store a template; where its record lies."""
        template, fields, moved = seen
        code = bytearray(template.code)
        for at in template.python:
            code[at : at + 4] = self._instructions.number(raw, modes.code_bits(mode)).to_bytes(4, "little")
        holes: list[bytes] = []
        rips, exits = [(_NONE, 0)] * len(template.rips), [(_NONE, 0)] * len(template.exits)
        for constant, found in moved.items():
            value = constant.value(raw)
            what = constant.at, constant.size, constant.may_be_parameter
            for n in found.fields:
                at, size, held = fields[n]
                holes.append(_hole(what, _FIELD_KIND[size], at, held - value))
            for n in found.rips:
                rips[n] = what, value
            for n in found.exits:
                exits[n] = what, value
        holes += [_hole(what, RELATIVE, at, to - value) for (at, to), (what, value) in zip(template.rips, rips, strict=True)]
        holes += [_hole(what, c.EXIT, at, by - value) for (at, by), (what, value) in zip(template.exits, exits, strict=True)]
        for at, function, resume in template.colds:
            holes.append(_hole(_NONE, c.NATIVE, at, self._natives[function] | resume << 32))
        for at, function in template.natives:
            holes.append(_hole(_NONE, c.NATIVE, at, self._natives[function]))
        assert len(code) <= c.MOST_CODE and len(holes) <= c.MOST_HOLES, f"a template of {len(code)} bytes, {len(holes)} holes"
        facts = g.READS * (template.reads_flags or template.leaves) | g.SETS * template.sets_flags | g.FINAL * template.ends
        facts |= g.EXPOSES * (template.ends or bool(template.exits))  # whatever is behind an exit reads them
        return self._append(b"".join((g.TEMPLATE.pack(facts=facts, code_length=len(code), holes=len(holes)), *holes, code)))

    def _append(self, record: bytes) -> int:
        at = self._end
        self._view[at : at + len(record)] = record
        self._end = at + len(record) + 7 & ~7
        return at


def _hole(what: tuple[int, int, bool], kind: int, at: int, base: int) -> bytes:
    """`what`: offset and size of the guest's constant, and whether it may be a parameter."""
    constant_at, constant_size, may_be_parameter = what
    return c.HOLE.pack(
        constant_at=constant_at,
        constant_size=constant_size,
        kind=kind,
        may_be_parameter=may_be_parameter,
        offset=at,
        base=base & (1 << 64) - 1,
    )
