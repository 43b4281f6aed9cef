"""Branches; and makes the seams of blocks: the head where interrupts are seen, and the ways out."""

from collections.abc import Iterator
from functools import partial

from trapgate.isa import flags, modes
from trapgate.isa.forms import Form
from trapgate.isa.state import JUMP_BYTES, JUMP_ENTRIES
from trapgate.isa.vocabulary import Trace, Value


def head(m: Trace, counting: bool, limited: bool) -> None:
    """The start of a block: leave when something waits (an interrupt, a kick).

    `counting`: take the block's instructions off the budget (instruction clock), and leave before it is overdrawn. `limited`: leave
    where the block reaches beyond the limit of CS; which of its instructions does is for single steps to say.
    """
    leaves, left = m.get("request", 32) != 0, None
    if counting:
        left = m.get("budget", 64) - m.hole("Ucount")
        leaves = left.sign | leaves
    if limited:
        leaves = leaves | m.hole("Qreach").ugt(m.get("cs_limit", 32).zext(64))
    with m.when(leaves, likely=False):
        m.cold("leave_interrupted")
    if left is not None:
        m.put("budget", left)
    m.jump("NEXT")


def head_name(counting: bool, limited: bool) -> str:
    """The stencil that a block begins with."""
    return "head" + ".count" * counting + ".limit" * limited


def conditional(m: Trace, code: int) -> None:
    """Jcc."""
    with m.when(flags.condition(m, code)):
        m.jump("TAKEN")
    m.jump("NEXT")


def counted(m: Trace, name: str, width: int) -> None:
    """LOOP, LOOPE, LOOPNE, JCXZ; the count register at the address size."""
    if name == "jcxz":
        taken = m.get("rcx", width) == 0
    else:
        count = m.get("rcx", width) - 1
        m.put("rcx", count.zext(64) if width == 32 else count)
        taken = count != 0
        if name != "loop":
            zero = flags.condition(m, 4)
            taken = taken & (zero if name == "loope" else ~zero)
    with m.when(taken):
        m.jump("TAKEN")
    m.jump("NEXT")


def go_to(m: Trace, target: Value, narrow: bool = False) -> None:
    """RIP = target; straight to its block if the jump cache knows it, else to the dispatcher. `narrow`: in 16-bit code, perhaps."""
    m.put("rip", target)
    mode = m.get("mode", 32).zext(64)
    key = ((mode & modes.CODE) == 0).select(target | m.get("cs_base", 64) << 16, target) if narrow else target
    tag = (key & ((1 << 48) - 1)) | (mode << 48)
    half = (key >> 63) * JUMP_BYTES
    entry = (((key ^ (key >> 11)) & (JUMP_ENTRIES - 1)) << 4) + half
    with m.when(m.get_at("jumps", entry, 64) == tag, likely=True):
        m.jump_to(m.get_at("jumps", entry + 8, 64))
    m.jump("dispatch")


def indirect(m: Trace, source: str, width: int) -> None:
    """Near JMP, CALL and RET through a transient, cut to the operand size."""
    go_to(m, m[source].trunc(width).zext(64), narrow=width == 16)


def constant(m: Trace) -> None:
    """A direct jump into another page: its mapping may change, so the jump cache decides."""
    go_to(m, m.hole("Qtarget"))


def set_rip(m: Trace) -> None:
    """RIP = a constant, then the dispatcher: the end of blocks that must not be chained."""
    m.put("rip", m.hole("Qtarget"))
    m.jump("dispatch")


def skip(m: Trace) -> None:
    """To another place of the same instruction."""
    m.jump("TAKEN")


def set_rip_indirect(m: Trace, source: str, width: int) -> None:
    """The same with a computed target."""
    m.put("rip", m[source].trunc(width).zext(64))
    m.jump("dispatch")


def check_limit(m: Trace, source: str) -> None:
    """Outside 64-bit mode a near branch beyond the limit of CS faults before anything changes."""
    with m.when(m[source].ugt(m.get("cs_limit", 32).zext(64)), likely=False):
        m.cold("raise_gp0")
    m.jump("NEXT")


def check_canonical(m: Trace, source: str) -> None:
    """In 64-bit mode a near branch to a non-canonical address faults before anything changes."""
    target = m[source]
    with m.when((target << 16).sar(16) != target, likely=False):
        m.cold("raise_gp0")
    m.jump("NEXT")


def check_call(m: Trace, size: int) -> None:
    """The same for CALL on AMD's CPUs, which stores nothing then, but whose stack faults first (as measured). T2 is the target."""
    target = m["T2"]
    with m.when((target << 16).sar(16) != target, likely=False):
        m["X"] = m.const(size, 64)
        m.cold("raise_call")
    m.jump("NEXT")


def forms() -> Iterator[Form]:
    """Every stencil of this family."""
    for counting in (False, True):
        for limited in (False, True):
            yield Form(head_name(counting, limited), partial(head, counting=counting, limited=limited))
    for code, name in enumerate(flags.CONDITIONS):
        yield Form(f"j{name}", partial(conditional, code=code))
    for name in ("loop", "loope", "loopne", "jcxz"):
        for width in (16, 32, 64):
            yield Form(f"{name}.{width}", partial(counted, name=name, width=width))
    for source in ("T0", "T2"):
        for width in (16, 32, 64):
            yield Form(f"goto.{source}.{width}", partial(indirect, source=source, width=width))
            yield Form(f"rip.{source}.{width}", partial(set_rip_indirect, source=source, width=width))
        yield Form(f"limit.{source}", partial(check_limit, source=source))
        yield Form(f"canonical.{source}", partial(check_canonical, source=source))
    for size in (2, 8):
        yield Form(f"canonical.call.{size}", partial(check_call, size=size))
    yield Form("goto", constant)
    yield Form("rip", set_rip)
    yield Form("skip", skip)
