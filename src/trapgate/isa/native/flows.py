"""The ways out of translated code: slow accesses, the dispatcher, leaving for Python and resuming from there."""

from collections.abc import Callable
from functools import partial

from trapgate.arch.flags import AC, IF, RF, TF
from trapgate.isa import modes
from trapgate.isa import state as s
from trapgate.isa.families.memory import WIDTHS
from trapgate.isa.native.mode import with_flags
from trapgate.isa.native.paging import jump_filter, present_rights, tlb_slot
from trapgate.isa.native.placing import ENTRY, PLACED, jump_entry, stops_in_page
from trapgate.isa.request import leave_soon
from trapgate.isa.vocabulary import TRANSIENTS, Trace, Value

SOON = 64  # a budget that the next block may not fit in: the instruction clock may interrupt before it


def leave(m: Trace, reason: int) -> None:
    """Back to Python, transients saved."""
    for name in TRANSIENTS:
        m.put(f"saved_{name}", m[name])
    m.put("exit_reason", m.const(reason, 32))
    m.result()


def resume(m: Trace) -> None:
    """From Python back behind the access that was left for it."""
    for name in TRANSIENTS:
        m[name] = m.get(f"saved_{name}", 64)
    m.jump_to(m.get("saved_RESUME", 64))


def hand_over(m: Trace, kind: int, size: Value) -> None:
    """Leave an access to Python."""
    m.put("access_kind", m.const(kind, 32))
    m.put("access_size", size.trunc(32))
    leave(m, s.EXIT_ACCESS)


def reach(m: Trace, size: Value, wanted: Value | int, kind: int, faults_in_python: bool = False) -> Value:
    """The host address of EA, or the path ends here with a fault or in Python."""
    m.put("count_slow", m.get("count_slow", 64) + 1)
    wanted = m.lift(wanted, 64) | present_rights(m)
    host = m.call("access", 64, m["EA"], size, wanted)
    with m.when(host == s.ACCESS_FAULT):
        if faults_in_python:
            hand_over(m, kind, size)
        else:
            m.jump("deliver")
    with m.when(host == s.ACCESS_HARD):
        hand_over(m, kind, size)
    return host


def reach_two(m: Trace, size: int, wanted: int, kind: int) -> tuple[Value, Value, Value]:
    """(host address of the first part, of the second, bytes in the first) of an access that crosses a page in 64-bit mode."""
    long_code = (m.get("mode", 32) & modes.CODE64) != 0
    with m.when(~long_code):
        hand_over(m, kind, m.const(size, 64))
    address, all_wanted = m["EA"], m.lift(wanted, 64) | present_rights(m)
    first = m.const(4096, 64) - (address & 0xFFF)
    hosts = []
    for at, length in ((address, first), (address + first, m.const(size, 64) - first)):
        host = m.call("access", 64, at, length, all_wanted)
        with m.when(host == s.ACCESS_FAULT):
            m.jump("deliver")
        with m.when(host == s.ACCESS_HARD):
            hand_over(m, kind, m.const(size, 64))
        hosts.append(host)
    return hosts[0], hosts[1], first


def crosses(m: Trace, size: int) -> Value:
    """1-bit: the access at EA lies in two pages."""
    return ((m["EA"] & 0xFFF) + size).ugt(0x1000)


def slow_load(m: Trace, width: int) -> None:
    """Behind `load` on a TLB miss."""
    if width > 8:
        with m.when(crosses(m, width // 8), likely=False):
            low, high, first = reach_two(m, width // 8, 0, s.KIND_LOAD)
            total, at = m.variable(64, 0), m.variable(64, width // 8)
            with m.loop():
                at.set(at.value - 1)
                host = at.value.ult(first).select(low + at.value, high + at.value - first)
                total.set((total.value << 8) | m.load(host, 8).zext(64))
                with m.when(at.value == 0):
                    m.leave()
            m["T0"] = total.value
            m.jump_to(m["RESUME"])
    host = reach(m, m.const(width // 8, 64), 0, s.KIND_LOAD)
    m["T0"] = m.load(host, width).zext(64)
    m.jump_to(m["RESUME"])


def slow_store(m: Trace, width: int) -> None:
    """Behind `store` on a TLB miss."""
    if width > 8:
        with m.when(crosses(m, width // 8), likely=False):
            low, high, first = reach_two(m, width // 8, s.ACCESS_WRITE, s.KIND_STORE)
            value, at = m.variable(64, m["T0"]), m.variable(64, 0)
            with m.loop():
                host = at.value.ult(first).select(low + at.value, high + at.value - first)
                m.store(host, value.value.trunc(8))
                value.set(value.value >> 8)
                at.set(at.value + 1)
                with m.when(at.value == width // 8):
                    m.leave()
            m.jump_to(m["RESUME"])
    host = reach(m, m.const(width // 8, 64), s.ACCESS_WRITE, s.KIND_STORE)
    m.store(host, m["T0"].trunc(width))
    m.jump_to(m["RESUME"])


def slow_modify(m: Trace, width: int) -> None:
    """Behind `modify`."""
    host = reach(m, m.const(width // 8, 64), s.ACCESS_WRITE | s.ACCESS_READ, s.KIND_MODIFY)
    m["HOST"] = host
    m["T0"] = m.load(host, width).zext(64)
    m.jump_to(m["RESUME"])


def slow_commit(m: Trace) -> None:
    """What was written to the bounce buffer goes where it belongs."""
    hand_over(m, s.KIND_COMMIT, m.const(0, 64))


def dispatch(m: Trace) -> None:
    """Find the block at RIP: jump cache, table of blocks, known blocks, known instructions; else Python translates."""
    with m.when(m.get("stepping", 32) != 0, likely=False):
        leave(m, s.EXIT_STEPPED)
    m.put("count_dispatch", m.get("count_dispatch", 64) + 1)
    rip, mode = m.get("rip", 64), m.get("mode", 32).zext(64)
    tag, entry = jump_entry(rip, mode)
    with m.when(m.get_at("jumps", entry, 64) == tag):
        m.jump_to(m.get_at("jumps", entry + 8, 64))
    long_code = (mode & modes.CODE64) != 0
    with m.when(~long_code & rip.ugt(m.get("cs_limit", 32).zext(64)), likely=False):
        leave(m, s.EXIT_BREAKPOINT)  # as a step: it looks for breakpoints first, then at the limit
    linear = linear_at(m, rip)
    rights = present_rights(m)
    held = tlb_slot(m, linear, rights) << 5
    host = m.variable(64, linear + m.get_at("tlb", held + 24, 64))
    with m.when(m.get_at("tlb", held + 16, 64) != (linear & ~m.const(0xFFF, 64))):
        host.set(m.call("access", 64, linear, m.const(1, 64), rights | s.ACCESS_FETCH))
        with m.when(host.value == s.ACCESS_FAULT):
            m.jump("deliver")
        with m.when(host.value == s.ACCESS_HARD):
            leave(m, s.EXIT_FETCH)
    physical = host.value - m.get("ram_base", 64)
    m.put("walk_physical", physical)
    found = m.call("lookup_block", 64, rip, physical, mode)
    code = m.variable(64, 0)
    with m.when(found != 0):
        code.set(m.get("code_base", 64) + m.load(found + PLACED.code, 32).zext(64))
    with m.otherwise():
        with m.when(stops_in_page(m, linear), likely=False):
            leave(m, s.EXIT_TRANSLATE)
        room, space = m.const(4096, 64) - (physical & 0xFFF), m.get("block_space", 64) | mode
        record = m.variable(64, m.call("find_block", 64, host.value, room, space))
        with m.when(record.value == 0, likely=False):
            record.set(m.call("compose_block", 64, host.value, room, space, (space >> 32) & 0xFF))
            with m.when(record.value == 0, likely=False):
                leave(m, s.EXIT_TRANSLATE)
        code.set(m.call("place_block", 64, record.value, physical))
        with m.when(code.value == 0, likely=False):
            leave(m, s.EXIT_TRANSLATE)
    word, bit = jump_filter(m, rip)
    m.put_at("jump_pages", word, m.get_at("jump_pages", word, 64) | bit)
    m.put_at("jumps", entry, tag)
    m.put_at("jumps", entry + 8, code.value + ENTRY)
    m.jump_to(code.value + ENTRY)


def linear_at(m: Trace, rip: Value) -> Value:
    """The linear address of a place in the code segment."""
    long_code = (m.get("mode", 32) & modes.CODE64) != 0
    return long_code.select(rip, (rip + m.get("cs_base", 64)) & 0xFFFFFFFF)


def invlpg(m: Trace) -> None:
    """INVLPG of EA, then on at next_rip."""
    m.call("flush_page", 0, m["EA"])
    go_on(m, m.get("next_rip", 64))


def write_cr3(m: Trace) -> None:
    """MOV CR3, T0 in long mode without PCID."""
    reserved = ~m.get("physical_mask", 64)
    with m.when((m["T0"] & reserved) != 0, likely=False):
        m.jump("raise_gp0")
    m.put("cr3", m["T0"])
    m.call("flush", 0, m.const(1, 64))
    go_on(m, m.get("next_rip", 64))


def supervisor_access(m: Trace, on: bool) -> None:
    """STAC and CLAC at CPL 0."""
    old = m.get("rflags", 64)
    new = old | AC if on else old & ~m.const(AC, 64)
    m.put("rflags", new)
    m.put("mode", with_flags(m, new))
    go_on(m, m.get("next_rip", 64))


def flags_changed(m: Trace) -> None:
    """Behind POPF: AC changes the mode, TF is Python's to see, an interrupt may have waited for IF."""
    flags = m.get("rflags", 64)
    m.put("mode", with_flags(m, flags))
    following = m.get("next_rip", 64)
    notice_flags(m, flags, following)
    go_on(m, following)


def go_on(m: Trace, rip: Value) -> None:
    """The instruction is complete: on at `rip`."""
    m.put("rip", rip)
    m.jump("dispatch")


def notice_flags(m: Trace, flags: Value, rip: Value) -> None:
    """TF, and RF where an execution breakpoint may be at `rip`, need single steps from Python; IF may let a waiting interrupt in.

    RF counts as well for an interrupt that is taken before the next instruction: it pushes RF as it stands.
    """
    matters = stops_in_page(m, linear_at(m, rip)).select(m.const(TF | RF, 64), m.const(TF, 64))
    waiting = ((flags & IF) != 0).select(m.get("irq_waiting", 32), m.const(0, 32))
    leave_soon(m, waiting | ((flags & matters) != 0).zext(32))
    with m.when((flags & RF) != 0):
        leave_soon(m, m.get("budget", 64).ult(SOON))
        with m.when(m.get("request", 32) == 0):
            m.put("rflags", flags & ~m.const(RF, 64))  # the next instruction would clear it


def raise_(m: Trace, vector: int, error: int | None) -> None:
    """A fault found by a stencil."""
    m.put("fault_vector", m.const(vector, 32))
    m.put("fault_error", m.const(error or 0, 32))
    m.put("fault_has_error", m.const(error is not None, 32))
    m.jump("deliver")


def raise_ac(m: Trace) -> None:
    """An access that is not aligned where it must be; X says how long it is and whether it stores. On AMD's CPUs a page fault comes
    first."""
    wanted = ((m["X"] >> 16) & s.ACCESS_WRITE) | present_rights(m)
    host = m.call("access", 64, m["EA"], m["X"] & 0xFFFF, wanted)
    with m.when(host == s.ACCESS_FAULT):
        m.jump("deliver")
    raise_(m, 17, 0)


FLOWS: dict[str, Callable[[Trace], None]] = {
    "resume": resume,
    "dispatch": dispatch,
    "slow_commit": slow_commit,
    "slow_segment": partial(leave, reason=s.EXIT_SEGMENT),
    "leave_interrupted": partial(leave, reason=s.EXIT_INTERRUPTED),
    "leave_repeating": partial(leave, reason=s.EXIT_REPEATING),
    "leave_instruction": partial(leave, reason=s.EXIT_INSTRUCTION),
    "leave_port": partial(leave, reason=s.EXIT_PORT),
    "leave_breakpoint": partial(leave, reason=s.EXIT_BREAKPOINT),
    "invlpg": invlpg,
    "write_cr3": write_cr3,
    "stac": partial(supervisor_access, on=True),
    "clac": partial(supervisor_access, on=False),
    "flags_changed": flags_changed,
    "raise_de": partial(raise_, vector=0, error=None),
    "raise_ud": partial(raise_, vector=6, error=None),
    "raise_nm": partial(raise_, vector=7, error=None),
    "raise_ac": raise_ac,
    "raise_ac0": partial(raise_, vector=17, error=0),
    "raise_gp0": partial(raise_, vector=13, error=0),
    **{f"slow_load{w}": partial(slow_load, width=w) for w in WIDTHS},
    **{f"slow_store{w}": partial(slow_store, width=w) for w in WIDTHS},
    **{f"slow_modify{w}": partial(slow_modify, width=w) for w in WIDTHS},
}
