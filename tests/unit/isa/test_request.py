"""`request` belongs to several threads: native code may ask to be left, and never takes back what another has asked for."""

from collections.abc import Iterator

from trapgate.isa import catalog
from trapgate.isa.facts import every_operation
from trapgate.isa.vocabulary import Trace


def traces() -> Iterator[tuple[str, Trace]]:
    for form in catalog.forms():
        yield form.name, form.trace()
    for name, flow in catalog.native_flows().items():
        flow(trace := Trace())
        yield name, trace
    for name, (function, _, count) in catalog.native_functions().items():
        function(trace := Trace([64] * count))
        yield name, trace


def test_native_code_stores_nothing_but_ones() -> None:
    stored = [
        (name, value.args[0])
        for name, trace in traces()
        for value in every_operation(trace)
        if value.op == "put" and value.attr == "request"
    ]
    assert {"sti", "interrupt_return64"} <= {name for name, _ in stored}
    assert [name for name, value in stored if (value.op, value.attr) != ("const", 1)] == []
