"""Executes instructions by their rules (`isa.rules`), from translated code on; Python does where native code settles nothing."""

from collections.abc import Callable
from functools import partial

from trapgate.arch.flags import TF
from trapgate.isa import state as s
from trapgate.isa.native.flows import decline, go_on, notice_flags, proceed
from trapgate.isa.native.mode import has
from trapgate.isa.rules.reading import DONE, FAULTED
from trapgate.isa.rules.returns import SIZES
from trapgate.isa.vocabulary import Trace, Value


def settle(m: Trace, rule: str, *arguments: Value) -> None:
    """Have a rule done; the path ends with its fault, or in Python where it is not plain."""
    outcome = m.call(rule, 64, *arguments)
    with m.when(outcome == FAULTED, likely=False):
        m.jump("deliver")
    with m.when(outcome != DONE, likely=False):
        decline(m)


def interrupt_return(m: Trace, size: int) -> None:
    """IRET of this operand size."""
    with m.when(m.get("stepping", 32) != 0, likely=False):
        decline(m)  # what becomes of TF and RF behind a step is Python's to see
    settle(m, f"interrupt_return{8 * size}")
    following = m.get("next_rip", 64)
    notice_flags(m, m.get("rflags", 64), following)
    go_on(m, following)


def system_call(m: Trace, rule: str) -> None:
    """SYSCALL and SYSRET, whose flags may trap at once."""
    odd = m.get("stepping", 32) != 0
    odd = odd | (has(m.get("told", 32), s.TOLD_CALL) if rule == "system_call" else has(m.get("r11", 64), TF))
    with m.when(odd, likely=False):
        decline(m)
    settle(m, rule)
    following = m.get("next_rip", 64)
    notice_flags(m, m.get("rflags", 64), following)
    go_on(m, following)


def fast_call(m: Trace, rule: str, amd: bool) -> None:
    """SYSENTER and SYSEXIT."""
    if rule == "fast_call":
        with m.when(has(m.get("told", 32), s.TOLD_CALL), likely=False):
            decline(m)
    settle(m, rule, m.const(amd, 64))
    go_on(m, m.get("next_rip", 64))


def far_transfer(m: Trace, rule: str) -> None:
    """A far JMP or CALL to T0 (selector) : T2 (offset)."""
    settle(m, rule, m["T0"] & 0xFFFF, m["T2"])
    go_on(m, m.get("next_rip", 64))


def far_return(m: Trace, size: int) -> None:
    """RETF that releases X bytes of parameters."""
    settle(m, f"far_return{8 * size}", m["X"])
    go_on(m, m.get("next_rip", 64))


def load_table(m: Trace, rule: str) -> None:
    """LLDT and LTR of the selector T0."""
    settle(m, rule, m["T0"] & 0xFFFF)
    proceed(m)


def frame(m: Trace, rule: str) -> None:
    """PUSHA and POPA."""
    settle(m, rule)
    proceed(m)


FLOWS: dict[str, Callable[[Trace], None]] = {
    **{f"iret{8 * size}": partial(interrupt_return, size=size) for size in SIZES},
    **{f"retf{8 * size}": partial(far_return, size=size) for size in SIZES},
    **{f"callf{8 * size}": partial(far_transfer, rule=f"far_call{8 * size}") for size in SIZES},
    "jmpf": partial(far_transfer, rule="far_jump"),
    **{f"pusha{bits}": partial(frame, rule=f"push_all{bits}") for bits in (16, 32)},
    **{f"popa{bits}": partial(frame, rule=f"pop_all{bits}") for bits in (16, 32)},
    "syscall": partial(system_call, rule="system_call"),
    **{f"sysret{end}": partial(system_call, rule=f"system_return{end}") for end in ("32", "64", "32_amd", "64_amd")},
    "sysenter": partial(fast_call, rule="fast_call", amd=False),
    "sysenter_amd": partial(fast_call, rule="fast_call", amd=True),
    "sysexit32": partial(fast_call, rule="fast_return32", amd=False),
    "sysexit32_amd": partial(fast_call, rule="fast_return32", amd=True),
    "sysexit64": partial(fast_call, rule="fast_return64", amd=False),
    "lldt": partial(load_table, rule="load_ldt"),
    "ltr": partial(load_table, rule="load_task"),
}
