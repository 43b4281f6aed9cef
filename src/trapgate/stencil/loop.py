"""Compiles a hot loop of the guest as one function: all its instructions lowered together, registers and flags in host registers.

Its blocks have a place already, as stencils. That copy stays, and is where the function goes on for whatever is out of line: a slow
access, a fault, an interrupt, a way out of the loop. It stores what it keeps in registers, and jumps to the same place of
the same instruction there. So nothing that happens seldom needs to know of this function.
"""

import re
from collections.abc import Sequence
from functools import cache

from trapgate.isa import catalog
from trapgate.isa.facts import every_operation, facts
from trapgate.isa.forms import Form
from trapgate.isa.state import GENERAL, LAYOUT
from trapgate.isa.vocabulary import TRANSIENTS, Trace, Value
from trapgate.stencil.compile import Compiler
from trapgate.stencil.graph import Edge, Loop, Node, NotALoop, Step, around
from trapgate.stencil.lower import CONVENTION, FLOW_PARAMETERS, Body, Lowering

NAME = "loop"
KEPT = (*GENERAL, "flag_result", "flag_aux")  # the fields of the CPU state that live in host registers
_FIRST_GENERAL = LAYOUT[GENERAL[0]].offset
_VOLATILE = ("request",)  # another thread writes it
_HOLE = re.compile(r"\b([RSUBQ]\w*)(?:\+\d+)?")  # what is added to the name of a byte is only for `stencil.tidy`


@cache
def _forms() -> dict[str, Form]:
    return {form.name: form for form in catalog.forms()}


@cache
def _trace(form: str) -> Trace:
    return _forms()[form].trace()


@cache
def _opaque(form: str) -> bool:
    """Whether a called function, or an access that may be to any field, sees the CPU state amid a micro-op."""
    trace = _trace(form)
    reached = facts(trace).addresses - {"rip", "bounce"}  # what packed instructions find XMM by; an address to compare with
    return bool(reached) or any(value.op in ("call", "return", "put_at") for value in every_operation(trace))


def part_of_loop(graph: Sequence[Node]) -> frozenset[int]:
    """The blocks on some way from block 0 back to it."""
    good = [not any(_opaque(step.form) for step in node.steps) for node in graph]
    return around([[to for to in node.edges() if good[to]] if good[n] else [] for n, node in enumerate(graph)])


def compile_loop(graph: Sequence[Node]) -> Loop:
    """The loop through block 0 of a graph; NotALoop where there is none."""
    blocks = part_of_loop(graph)
    if not blocks:
        raise NotALoop
    lowering = Lowering()
    _LoopBody(lowering, graph, blocks)
    sections = Compiler(position_independent=True).compile(lowering.module())
    places, code = dict[str, int](), bytearray()
    for name, section in sections.items():
        code += bytes(-len(code) % 64)
        places[name] = len(code)
        code += section.code
    holes = []
    for name, section in sections.items():
        for hole in section.holes:
            at = places[name] + hole.offset
            if not hole.relative:
                raise NotALoop
            if hole.name in places:
                code[at : at + 4] = (places[hole.name] + hole.addend - at).to_bytes(4, "little", signed=True)
            else:
                holes.append((at, int(hole.name.removeprefix("at_"), 16), hole.addend))
    return Loop(bytes(code), places[NAME], holes, blocks)


class _LoopBody(Body):
    """The text of the function."""

    def __init__(self, module: Lowering, graph: Sequence[Node], blocks: frozenset[int]) -> None:
        super().__init__(module, flow=True)
        self._graph, self._blocks = graph, blocks
        self._step = graph[0].steps[0]
        steps = [step for n in sorted(blocks) for step in graph[n].steps]
        puts = [(value.attr, step) for step in steps for value in every_operation(_trace(step.form)) if value.op == "put"]
        self._written = {kept[0] for field, step in puts if (kept := self._kept(field, step))}
        head = [f'define dso_local {CONVENTION} void @{NAME}{FLOW_PARAMETERS} #1 section ".text.{NAME}" {{']
        for name in KEPT:
            self.lines.append(f"  %kept_{name} = alloca i64")
            self.lines.append(f"  store i64 {self._temporary(f'load i64, ptr {self._at(LAYOUT[name].offset)}')}, ptr %kept_{name}")
        for number, step in enumerate(steps):
            for name, width in _trace(step.form).variables.items():
                self.lines.append(f"  %var_s{number}_{name} = alloca i{width}")
        self.lines.append(f"  br label %{_label(graph[0].steps[0].label)}")
        for self._number, step in enumerate(steps):
            self._step = step
            self.names = {}
            self.lines.append(f"{_label(step.label)}:")
            if step.first:  # nothing is handed on between instructions
                self.lines += [f"  store i64 poison, ptr %var_{name}" for name in TRANSIENTS]
            self.ended = False
            self._operations(_trace(step.form).operations)
            assert self.ended
        module.defined.add(NAME)
        module.functions.append("\n".join([*head, *self.lines, "}"]))

    # --- fields

    def _offset(self, field: str, step: Step | None = None) -> int:
        """Where a field lies, or what a hole of that name holds."""
        return LAYOUT[field].offset if field in LAYOUT else (step or self._step).holes.get(field, 0) & 0xFFFFFFFF

    def _kept(self, field: str, step: Step | None = None) -> tuple[str, int] | None:
        """(kept field, bit in it) of a field that lives in a host register."""
        offset = self._offset(field, step)
        if 0 <= (at := offset - _FIRST_GENERAL) < 8 * len(GENERAL):
            return GENERAL[at >> 3], 8 * (at & 7)
        for name in ("flag_result", "flag_aux"):
            if offset == LAYOUT[name].offset:
                return name, 0
        return None

    def _at(self, offset: int) -> str:
        return self._temporary(f"getelementptr i8, ptr %cpu, i64 {offset}")

    def _field(self, field: str) -> str:
        assert self._kept(field) is None, f"the address of {field}, which is in a register"
        return self._at(self._offset(field))

    def _field_at(self, field: str, index: Value) -> str:
        inner = self._temporary(f"getelementptr i8, ptr %cpu, i64 {self._name(index)}")
        return self._temporary(f"getelementptr i8, ptr {inner}, i64 {self._offset(field)}")

    def _op_get(self, value: Value) -> None:
        kept = self._kept(value.attr)
        if kept is None:
            volatile = "volatile " if value.attr in _VOLATILE else ""
            self._set(value, f"load {volatile}i{value.width}, ptr {self._field(value.attr)}, align 1, !tbaa !12")
            return
        name, bit = kept
        whole = self._temporary(f"load i64, ptr %kept_{name}")
        if bit:
            whole = self._temporary(f"lshr i64 {whole}, {bit}")
        if value.width == 64:
            self._set(value, f"add i64 {whole}, 0")
        else:
            self._set(value, f"trunc i64 {whole} to i{value.width}")

    def _op_put(self, value: Value) -> None:
        (stored,) = value.args
        kept = self._kept(value.attr)
        if kept is None:
            self.lines.append(f"  store i{stored.width} {self._name(stored)}, ptr {self._field(value.attr)}, align 1, !tbaa !12")
            return
        name, bit = kept
        new = self._name(stored)
        if stored.width < 64:
            keep = (1 << 64) - 1 ^ ((1 << stored.width) - 1 << bit)
            old = self._temporary(f"and i64 {self._temporary(f'load i64, ptr %kept_{name}')}, {keep - (1 << 64)}")
            new = self._temporary(f"zext i{stored.width} {new} to i64")
            if bit:
                new = self._temporary(f"shl i64 {new}, {bit}")
            new = self._temporary(f"or i64 {old}, {new}")
        self.lines.append(f"  store i64 {new}, ptr %kept_{name}")

    def _op_load(self, value: Value) -> None:
        super()._op_load(value)
        self.lines[-1] += ", !tbaa !13"

    def _op_store(self, value: Value) -> None:
        super()._op_store(value)
        self.lines[-1] += ", !tbaa !13"

    def _op_get_at(self, value: Value) -> None:
        super()._op_get_at(value)
        self.lines[-1] += ", !tbaa !12"

    # --- holes

    def _op_hole(self, value: Value) -> None:
        number, kind = self._step.holes.get(value.attr, 0), value.attr[0]
        if kind == "S":
            number = (number & 0xFFFFFFFF ^ 1 << 31) - (1 << 31)
        elif kind in "RU":
            number &= 0xFFFFFFFF
        elif kind == "B":
            number &= 0xFF
        number &= (1 << value.width) - 1
        self._set(value, f"add i{value.width} {number - (1 << value.width) if number >> value.width - 1 else number}, 0")

    def _op_asm(self, value: Value) -> None:
        template, constraints = value.attr
        holes = self._step.holes
        template = _HOLE.sub(lambda found: str(holes[found[1]]) if found[1] in holes else found[0], template)
        filled = Value(value.trace, value.op, value.width, value.args, (template, constraints))
        super()._op_asm(filled)
        if value.width:
            self.names[id(value)] = self.names[id(filled)]

    def _op_var_get(self, value: Value) -> None:
        self._set(value, f"load i{value.width}, ptr %{self._variable(value.attr)}")

    def _op_var_set(self, value: Value) -> None:
        (stored,) = value.args
        self.lines.append(f"  store i{stored.width} {self._name(stored)}, ptr %{self._variable(value.attr)}")

    def _variable(self, name: str) -> str:
        return f"var_{name}" if name in TRANSIENTS else f"var_s{self._number}_{name}"

    # --- ways

    def _op_jump(self, value: Value) -> None:
        way = self._step.ways.get(value.attr)
        if isinstance(way, Edge):
            way = self._graph[way.block].steps[0].label if way.block in self._blocks else way.address
        if way is None:
            self.lines.append("  unreachable")
            self.ended = True
        elif isinstance(way, str):
            self.lines.append(f"  br label %{_label(way)}")
            self.ended = True
        else:
            self._store_kept()
            self.module.targets.add(symbol := f"at_{way:x}")
            self._tail(f"@{symbol}")

    def _op_jump_to(self, value: Value) -> None:
        self._store_kept()
        super()._op_jump_to(value)

    def _store_kept(self) -> None:
        for name in KEPT:
            if name in self._written:
                stored = self._temporary(f"load i64, ptr %kept_{name}")
                self.lines.append(f"  store i64 {stored}, ptr {self._at(LAYOUT[name].offset)}, align 8, !tbaa !12")


def _label(label: str) -> str:
    return f"at.{label}"
