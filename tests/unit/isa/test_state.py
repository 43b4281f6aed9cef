"""Every field of the CPU state is read by somebody: native code, or Python."""

import ast
from collections.abc import Iterator
from pathlib import Path

import trapgate
from trapgate.arch import xstate
from trapgate.isa import catalog
from trapgate.isa.facts import every_operation
from trapgate.isa.state import GENERAL, LAYOUT, SEGMENTS
from trapgate.isa.vocabulary import TRANSIENTS, Trace

# Registers whose place follows from an operand, or that Python names by their parts; what `resume` gives back.
BY_NUMBER = {
    *GENERAL,
    *(place.field for place in xstate.VECTORS.values()),
    *(f"{name}_{part}" for name in SEGMENTS for part in ("base", "limit", "attributes", "selector")),
    *(f"saved_{name}" for name in TRANSIENTS),
    "end",
}
READS = ("get", "get_at", "address_of")


def _traces() -> Iterator[Trace]:
    for form in catalog.forms():
        yield form.trace()
    for flow in catalog.native_flows().values():
        flow(trace := Trace())
        yield trace
    for function, _, arguments in catalog.native_functions().values():
        function(trace := Trace((64,) * arguments))
        yield trace


def _read_by_python() -> set[str]:
    """Attributes that any source reads, and words in strings: `getattr` and assembly name fields so."""
    found = set[str]()
    package = Path(trapgate.__file__).parent
    for path in package.rglob("*.py"):
        if path.name == "state.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in LAYOUT:
                found.add(node.value)
    return found


def test_every_field_is_read() -> None:
    read = {operation.attr for trace in _traces() for operation in every_operation(trace) if operation.op in READS}
    unread = LAYOUT.keys() - read - BY_NUMBER - _read_by_python()
    assert not unread, sorted(unread)
