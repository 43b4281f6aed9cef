"""Has the rules of `isa.rules` done for Python: by native code where that settles it, else by evaluating the rule's other reading.

Evaluated, each access is made for itself, as `SoftCore` makes accesses: over two pages, on a device, on a data breakpoint.
"""

from collections.abc import Callable
from functools import cache

from trapgate.isa.evaluate import Host, evaluate
from trapgate.isa.rules.catalog import RULES
from trapgate.isa.rules.reading import DONE, FAULTED, Exact
from trapgate.isa.vocabulary import Trace
from trapgate.soft.exact.stack import Stack
from trapgate.soft.state.core import SoftCore
from trapgate.soft.state.fault import GuestFault


def settle(cpu: SoftCore, rule: str, *arguments: int) -> None:
    """Have a rule done; GuestFault before any register has changed."""
    st = cpu.state
    kept = st.cr2, st.fault_vector, st.fault_error, st.fault_has_error
    outcome = cpu.rules[rule](cpu.address, *arguments)
    if outcome == FAULTED:
        raise cpu.prepared_fault()
    if outcome != DONE:
        st.cr2, st.fault_vector, st.fault_error, st.fault_has_error = kept
        evaluated(cpu, rule, *arguments)
    cpu.update_mode()


def evaluated(cpu: SoftCore, rule: str, *arguments: int) -> None:
    """The same without native code."""
    host = Host(memoryview(cpu.state).cast("B"), cpu.address, functions=_Words(cpu).functions())
    ended = evaluate(_record(rule), host, {}, arguments=arguments)
    assert ended.value == DONE, ended


@cache
def _record(rule: str) -> Trace:
    body, count = RULES[rule]
    trace = Trace((64,) * count)
    body(Exact(trace))
    return trace


class _Words:
    """What the exact reading of a rule calls by name."""

    def __init__(self, cpu: SoftCore) -> None:
        self._cpu, self._stacks = cpu, list[Stack]()

    def functions(self) -> dict[str, Callable[..., int | None]]:
        """By name."""
        cpu = self._cpu
        return {
            "read": lambda address, size: cpu.read(address, size, 0),
            "write": lambda address, size, value: cpu.write(address, size, value, 0),
            "fault": self._fault, "stack": self._stack, "copy": self._copy,
            "push": lambda number, value, size: self._stacks[number].push(value, size),
            "pop": lambda number, size: self._stacks[number].pop(size),
            "skip": lambda number, by: self._stacks[number].skip(by),
            "pointer": lambda number: self._stacks[number].pointer,
            "flush_jumps": lambda halves: cpu.flush_jumps(),
            "follow_mode": cpu.update_mode,
        }  # fmt: skip

    def _fault(self, vector: int, error: int) -> None:
        raise GuestFault(vector, error & 0xFFFF)

    def _stack(self, pointer: int, bits: int, base: int, limit: int, attributes: int, error: int, inner: int) -> int:
        self._stacks.append(Stack(self._cpu, pointer, bits, base, limit, attributes, error, 0 if inner else None))
        return len(self._stacks) - 1

    def _copy(self, source: int, target: int, count: int, size: int) -> None:
        words = [self._stacks[source].pop(size) for _ in range(count)]
        for word in reversed(words):
            self._stacks[target].push(word, size)
