"""Everything that is compiled: the forms of all families and the native functions."""

from collections.abc import Callable, Iterator

from trapgate.isa.families import arith, bits, branch, fpstate, memory, move, shift, sse, stack, string, system, x87
from trapgate.isa.forms import Form
from trapgate.isa.native import (
    adopting,
    composing,
    delivery,
    flows,
    forgetting,
    gathering,
    locks,
    mode,
    paging,
    placing,
    timing,
    transfers64,
    walking,
    watching,
)
from trapgate.isa.vocabulary import Trace

FAMILIES = (memory, move, arith, shift, bits, stack, branch, string, system, sse, x87, fpstate)


def forms() -> Iterator[Form]:
    """Every stencil."""
    for family in FAMILIES:
        yield from family.forms()


def native_flows() -> dict[str, Callable[[Trace], None]]:
    """Native functions that are jumped to."""
    return {**flows.FLOWS, **locks.FLOWS, **delivery.FLOWS, **transfers64.FLOWS, **timing.FLOWS, **x87.FLOWS}


def native_functions() -> dict[str, tuple[Callable[[Trace], None], int, int]]:
    """Native functions that are called: body, width of the result, number of 64-bit arguments."""
    rooms = (walking, paging, watching, placing, forgetting, gathering, composing, adopting, delivery, mode, x87)
    return {name: function for room in rooms for name, function in room.FUNCTIONS.items()}
