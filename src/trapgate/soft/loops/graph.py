"""Gathers what lies around a hot block: the placed blocks of its page that it leads to, as a graph of micro-ops for `stencil.loop`.

A block is decoded and lowered again as it was when it was translated, so that each micro-op's place in the block's code is known:
there the compiled loop goes on for whatever is out of line.
"""

import ctypes
from collections.abc import Iterator

from trapgate.isa import modes
from trapgate.isa.families.branch import head_name
from trapgate.isa.native import placing as p
from trapgate.memory import PAGE_SIZE
from trapgate.soft.blocks.core import TranslatingCore
from trapgate.soft.decode import decoding
from trapgate.soft.decode.template import Builder, Rip, Template
from trapgate.stencil.graph import Edge, Node, Step, Way, around
from trapgate.values import dataclass, replace

MOST_BLOCKS = 12  # of one graph
_PAGE = ~(PAGE_SIZE - 1)


@dataclass(frozen=True, slots=True)
class Placed:
    """A block in the dispatcher's table."""

    rip: int
    physical: int
    mode: int
    code: int  # its offset in the code buffer
    record: int


@dataclass(frozen=True, slots=True)
class Graph:
    """Blocks from a first one on, and what they hold."""

    blocks: tuple[Placed, ...]
    nodes: tuple[Node, ...]
    generation: int  # of all blocks


@dataclass(frozen=True, slots=True)
class _Instruction:
    """One instruction of a block, or a compare and its branch: what it was made of, and where it lies."""

    template: Template
    builder: Builder
    dead: bool  # in the variant without flags
    rip: int
    start: int  # host address


def placed(core: TranslatingCore, rip: int, physical: int, mode: int) -> Placed | None:
    """The block of the dispatcher's table at some place, if it has an instruction: one before a breakpoint has none."""
    entry = core.lookup(rip, physical, mode)
    if not entry:
        return None
    code, record = (ctypes.c_uint32.from_address(entry + at).value for at in (p.PLACED.code, p.PLACED.record))
    return Placed(rip, physical, mode, code, record) if core.translator.known_blocks.length(record) else None


def graph(core: TranslatingCore, first: Placed) -> Graph | None:
    """Everything that may be one loop with a block; None where no way leads back to it."""
    found, numbers, steps = [first], {first.rip: 0}, list[list[Step]]()
    for block in found:  # grows
        steps.append(own := _BlockSteps(core, block, str(len(steps))).steps())
        for rip in _leads_to(own):
            if rip in numbers or (rip ^ first.rip) & _PAGE or len(found) == MOST_BLOCKS:
                continue
            other = placed(core, rip, first.physical & _PAGE | rip & ~_PAGE, first.mode)
            if other is not None:
                numbers[rip] = len(found)
                found.append(other)
    loop = sorted(around([[numbers[rip] for rip in _leads_to(own) if rip in numbers] for own in steps]))
    numbers = {found[old].rip: new for new, old in enumerate(loop)}

    def settled(way: Way) -> Way:
        if not isinstance(way, Edge):
            return way
        return Edge(numbers[way.block], way.address) if way.block in numbers else way.address

    nodes = [
        Node([replace(step, ways={name: settled(way) for name, way in step.ways.items()}) for step in steps[old]]) for old in loop
    ]
    return Graph(tuple(found[old] for old in loop), tuple(nodes), core.blocks.generation) if loop else None


def _leads_to(steps: list[Step]) -> list[int]:
    """The RIPs that a block's edges lead to."""
    return [way.block for step in steps for way in step.ways.values() if isinstance(way, Edge)]


class _BlockSteps:
    """The micro-ops of one block. Where an edge leads is a RIP as yet."""

    def __init__(self, core: TranslatingCore, block: Placed, label: str) -> None:
        self._core, self._block, self._label = core, block, label
        self._mask = (1 << modes.code_bits(block.mode)) - 1  # of RIP
        self._base = core.code.base + block.code
        self._limited = not block.mode & modes.UNLIMITED
        self._head = core.translator.lowering.head(1, self._limited)
        self._unlinked = core.translator.known_blocks.exits(block.record)
        self._instructions = list(self._laid_out())

    def steps(self) -> list[Step]:
        """All of them, the head first."""
        cold, *_ = self._head.colds  # however many branches LLVM made of it, they leave alike
        ways: dict[str, Way] = {"NEXT": self._entry(0), "COLD_leave_interrupted": _aim(self._base + p.ENTRY + cold[0])}
        holes = dict[str, int]()
        if self._limited:
            ((at, _),) = self._head.rips
            holes["Qreach"] = ctypes.c_uint64.from_address(self._base + p.ENTRY + at).value
        steps = [Step(self._label, head_name(False, self._limited), True, holes, ways)]
        for place, one in enumerate(self._instructions):
            for op, (name, _) in enumerate(one.builder.ops):
                form = f"{name}!" if one.dead and f"{name}!" in self._core.code.library.stencils else name
                first = op == 0 and 0 not in one.builder.labels.values()
                steps.append(Step(f"{self._label}.{place}.{op}", form, first, self._holes(one, op), self._ways(place, op)))
        return steps

    def _holes(self, one: _Instruction, op: int) -> dict[str, int]:
        """What the holes of a micro-op's stencil hold."""
        values, holes = {**one.builder.common, **one.builder.ops[op][1]}, dict[str, int]()
        for at, _, name, _, number in one.builder.layout(one.dead).values:
            if number == op:
                match values[name]:
                    case int(value):
                        holes[name] = value
                    case Rip(by):
                        holes[name] = one.rip + by & self._mask
                    case _:  # the number of an instruction for Python, known since the block is placed
                        holes[name] = ctypes.c_uint32.from_address(one.start + at).value
        return holes

    def _ways(self, place: int, op: int) -> dict[str, Way]:
        """Where the jumps of a micro-op lead."""
        one = self._instructions[place]
        builder, layout = one.builder, one.builder.layout(one.dead)
        ways: dict[str, Way] = {name: self._core.code.entries[name] for _, name in layout.natives}
        for at, function, _ in layout.colds:
            if layout.starts[op] <= at < layout.starts[op + 1]:
                ways[f"COLD_{function}"] = _aim(one.start + at)
        match builder.ops[op][1].get("TAKEN"):
            case Rip(by):
                for site in (one.start + at - self._base for at, number in layout.branches if number == op):
                    ways["TAKEN"] = Edge(one.rip + by & self._mask, self._base + self._unlinked[site])
            case str(label):
                ways["TAKEN"] = self._at(place, builder.labels[label])
        if op + 1 < len(builder.ops) or builder.direct_exits or not one.template.ends:
            ways["NEXT"] = self._at(place, op + 1)
        return ways

    def _at(self, place: int, op: int) -> Way:
        """Where a micro-op begins, or what is behind the last of an instruction."""
        one = self._instructions[place]
        if op < len(one.builder.ops):
            return f"{self._label}.{place}.{op}"
        if one.builder.direct_exits:
            return Edge(one.rip + one.builder.direct_exits[0] & self._mask, one.start + len(one.builder.layout(one.dead).code))
        return self._entry(place + 1)

    def _entry(self, place: int) -> Way:
        """Where an instruction begins, or what is behind the last."""
        if place < len(self._instructions):
            return self._at(place, 0)
        return Edge(self._end_rip, self._end)

    def _laid_out(self) -> Iterator[_Instruction]:
        """Its instructions as they lie in its code."""
        core, mode = self._core, self._block.mode
        translator = core.translator
        data = core.ram.read(self._block.physical, translator.known_blocks.length(self._block.record))
        raws = [data[i.ip : i.next_ip] for i in decoding.decoder(core.model, modes.code_bits(mode), data)]
        rip, start = self._block.rip, self._base + p.ENTRY + len(self._head.code)
        for part in translator.lowering.parts(raws, mode):
            yield _Instruction(part.template, part.builder, part.dead, rip, start)
            rip, start = rip + len(part.raw) & self._mask, start + len(part.template.code)
        self._end_rip, self._end = rip, start


def _aim(site: int) -> int:
    """The host address that the 32-bit branch at `site` leads to."""
    return site + 4 + ctypes.c_int32.from_address(site).value
