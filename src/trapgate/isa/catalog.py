"""Gathers everything that is compiled: the forms of all families and the native functions."""

from collections.abc import Callable, Iterator

from trapgate.isa.families import arith, avx, bits, branch, fpstate, memory, move, shift, sse, stack, string, system, x87
from trapgate.isa.forms import Form
from trapgate.isa.native import (
    adopting,
    composing,
    control,
    debugregs,
    delivery,
    flows,
    forgetting,
    gathering,
    locks,
    mode,
    msrs,
    paging,
    placing,
    segments,
    settling,
    spanning,
    timing,
    walking,
    watching,
)
from trapgate.isa.rules import catalog as rules
from trapgate.isa.vocabulary import Trace

FAMILIES = (memory, move, arith, shift, bits, stack, branch, string, system, sse, avx, x87, fpstate)


def forms() -> Iterator[Form]:
    """Every stencil."""
    for family in FAMILIES:
        yield from family.forms()


def native_flows() -> dict[str, Callable[[Trace], None]]:
    """Native functions that are jumped to."""
    rooms = (flows, locks, delivery, timing, control, debugregs, segments, settling, msrs, x87)
    return {name: flow for room in rooms for name, flow in room.FLOWS.items()}


def native_functions() -> dict[str, tuple[Callable[[Trace], None], int, int]]:
    """Native functions that are called: body, width of the result, number of 64-bit arguments."""
    rooms = (walking, paging, watching, placing, forgetting, gathering, composing, adopting, delivery, mode, x87, rules, spanning)
    return {name: function for room in rooms for name, function in room.FUNCTIONS.items()}
