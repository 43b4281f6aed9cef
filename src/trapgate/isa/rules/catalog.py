"""Lists the rules by name, for both readings: native functions, and what Python evaluates."""

from collections.abc import Callable
from functools import partial

from trapgate.isa.rules import events, frames, returns, syscalls, tables, transfers
from trapgate.isa.rules.reading import Native, Reading
from trapgate.isa.vocabulary import Trace

RULES: dict[str, tuple[Callable[[Reading], None], int]] = {
    "enter_event": (events.enter_event, 3),
    **{f"interrupt_return{8 * size}": (partial(returns.interrupt_return, size=size), 0) for size in returns.SIZES},
    **{f"far_return{8 * size}": (partial(transfers.far_return, size=size), 1) for size in returns.SIZES},
    **{f"far_call{8 * size}": (partial(transfers.far_transfer, size=size), 2) for size in returns.SIZES},
    "far_jump": (partial(transfers.far_transfer, size=0), 2),
    **{f"push_all{8 * size}": (partial(frames.push_all, size=size), 0) for size in (2, 4)},
    **{f"pop_all{8 * size}": (partial(frames.pop_all, size=size), 0) for size in (2, 4)},
    "system_call": (syscalls.system_call, 0),
    "fast_call": (syscalls.fast_call, 1),
    "fast_return32": (partial(syscalls.fast_return, wide=False), 1),
    "fast_return64": (partial(syscalls.fast_return, wide=True), 1),
    **{
        f"system_return{64 if wide else 32}{'_amd' * amd}": (partial(syscalls.system_return, wide=wide, amd=amd), 0)
        for wide in (False, True)
        for amd in (False, True)
    },
    "load_ldt": (tables.load_ldt, 1),
    "load_task": (tables.load_task, 1),
}
"""Each with how many arguments of 64 bits it takes; the result says how it ended."""


def _native(rule: Callable[[Reading], None]) -> Callable[[Trace], None]:
    return lambda m: rule(Native(m))


FUNCTIONS = {name: (_native(rule), 64, count) for name, (rule, count) in RULES.items()}
