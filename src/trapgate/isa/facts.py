"""Finds what can be seen in the record of a body, without running it: what it reads and writes, its flags, the ways out.

Theory: one walk in program order that carries what has *certainly* been written so far. Reading that again is no read of what was
there before; where two paths meet, only what both wrote is certain. A loop's body is walked once: later turns are only surer.
What host instructions and called functions touch cannot be seen: `opaque`.
"""

from collections.abc import Iterator, Sequence

from trapgate.isa.evaluate import host_instruction
from trapgate.isa.vocabulary import TRANSIENTS, Block, Trace, Value
from trapgate.values import dataclass

FLAG_FIELDS = ("flag_result", "flag_aux")
MEMORY = "memory"  # stands for all host memory in `reads` and `writes`
COMPUTED = "*"  # stands for a computed address in `jumps`
STAYS = ("NEXT", "TAKEN")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a body does, whatever its operands are. Names are those of fields of the CPU state, of `R...` holes, of transients."""

    reads: frozenset[str]  # what may be read as it was on entry
    writes: frozenset[str]  # what may be changed
    addresses: frozenset[str]  # fields whose host address is taken: reached through memory, perhaps
    jumps: frozenset[str]  # names of targets
    sets_flags: bool  # NEXT and TAKEN are reached only with all six flags written; old ones carried over show in `reads_flags`
    opaque: bool  # host instructions or called functions do more than can be seen

    @property
    def reads_flags(self) -> bool:
        """Whether the flags before it matter."""
        return not self.reads.isdisjoint(FLAG_FIELDS)

    @property
    def may_leave(self) -> bool:
        """Whether it may end elsewhere than at NEXT or TAKEN: a fault, a slow access, a native function, another block."""
        return not self.jumps <= set(STAYS)


def facts(trace: Trace) -> Facts:
    """The facts of a recorded body."""
    walk = _Walk()
    walk.operations(trace.operations, {})
    stays = [written for target, written in walk.ends if target in STAYS]
    sets_flags = bool(stays) and all(written.get(name, 0) == 64 for written in stays for name in FLAG_FIELDS)
    jumps = frozenset(target for target, _ in walk.ends)
    return Facts(frozenset(walk.reads), frozenset(walk.writes), frozenset(walk.addresses), jumps, sets_flags, walk.opaque)


def every_operation(trace: Trace) -> Iterator[Value]:
    """All recorded operations, nested ones behind the one that holds them."""

    def walk(operations: Sequence[Value]) -> Iterator[Value]:
        for value in operations:
            yield value
            if isinstance(value.attr, Block):
                yield from walk(value.attr.operations)
                if value.attr.otherwise is not None:
                    yield from walk(value.attr.otherwise.operations)

    return walk(trace.operations)


Written = dict[str, int]  # names that have certainly been written, and how many low bits of them


class _Walk:
    """One walk over a record."""

    def __init__(self) -> None:
        self.reads, self.writes, self.addresses = set[str](), set[str](), set[str]()
        self.ends: list[tuple[str, Written]] = []
        self.opaque = False
        self._leaves: list[list[Written]] = []

    def operations(self, operations: Sequence[Value], written: Written) -> Written | None:
        """Walk on from what is certain; what is certain behind it, or None when nothing gets there."""
        for value in operations:
            if isinstance(value.attr, Block):
                after = self._loop(value.attr, written) if value.op == "loop" else self._when(value.attr, written)
                if after is None:
                    return None
                written = after
            elif value.op in ("jump", "jump_to", "leave", "return"):
                if value.op == "leave":
                    self._leaves[-1].append(written)
                elif value.op != "return":
                    self.ends.append((value.attr if value.op == "jump" else COMPUTED, written))
                return None
            else:
                self._plain(value, written)
        return written

    def _when(self, block: Block, written: Written) -> Written | None:
        other = block.otherwise.operations if block.otherwise else ()
        ways = [self.operations(block.operations, dict(written)), self.operations(other, dict(written))]
        return _common([way for way in ways if way is not None])

    def _loop(self, block: Block, written: Written) -> Written | None:
        self._leaves.append([])
        self.operations(block.operations, dict(written))
        return _common(self._leaves.pop())

    def _plain(self, value: Value, written: Written) -> None:
        match value.op:
            case "get":
                self._read(value.attr, value.width, written)
            case "put":
                self._write(value.attr, value.args[0].width, written)
            case "var_get" if value.attr in TRANSIENTS:
                self._read(value.attr, value.width, written)
            case "var_set" if value.attr in TRANSIENTS:
                self._write(value.attr, 64, written)
            case "get_at":
                self.reads.add(value.attr)
            case "put_at":
                self.writes.add(value.attr)
            case "load":
                self.reads.add(MEMORY)
            case "store":
                self.writes.add(MEMORY)
            case "address_of":
                self.addresses.add(value.attr)
            case "call" | "call_host":
                self.opaque = True
            case "asm":
                template, constraints = value.attr
                if "memory" in constraints:
                    self.reads.add(MEMORY)
                    self.writes.add(MEMORY)
                if host_instruction(template) is None:
                    self.opaque = True

    def _read(self, name: str, width: int, written: Written) -> None:
        if written.get(name, 0) < width:
            self.reads.add(name)

    def _write(self, name: str, width: int, written: Written) -> None:
        self.writes.add(name)
        written[name] = max(width, written.get(name, 0))


def _common(ways: list[Written]) -> Written | None:
    if not ways:
        return None
    first, *others = ways
    return {name: width for name, width in ((n, min([w, *(o.get(n, 0) for o in others)])) for n, w in first.items()) if width}
