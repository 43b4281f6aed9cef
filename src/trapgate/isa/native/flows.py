"""Leads out of translated code: slow accesses, the dispatcher, leaving for Python and resuming from there."""

from collections.abc import Callable
from functools import partial

from trapgate.arch.flags import AC, IF, RF, TF
from trapgate.isa import modes
from trapgate.isa import state as s
from trapgate.isa.families.memory import WIDTHS
from trapgate.isa.native.mode import has, with_flags
from trapgate.isa.native.paging import jump_filter, present_rights, tlb_slot
from trapgate.isa.native.placing import ENTRY, PLACED, is_narrow, jump_entry, stops_in_page
from trapgate.isa.request import leave_soon
from trapgate.isa.vocabulary import TRANSIENTS, Operand, Trace, Value

SOON = 64  # a budget that the next block may not fit in: the instruction clock may interrupt before it


def leave(m: Trace, reason: int) -> None:
    """Back to Python, transients saved."""
    for name in TRANSIENTS:
        m.put(f"saved_{name}", m[name])
    m.put("exit_reason", m.const(reason, 32))
    m.result()


def decline(m: Trace) -> None:
    """Python executes the instruction, whose number its stencil has left: nothing has changed yet."""
    leave(m, s.EXIT_INSTRUCTION)


def proceed(m: Trace) -> None:
    """The instruction goes on behind its stencil."""
    m.jump_to(m["RESUME"])


def complete(m: Trace) -> None:
    """The instruction is complete, and what its block was made for may hold no more."""
    go_on(m, m.get("next_rip", 64))


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


def reach_two(m: Trace, size: Operand, wanted: int, kind: int) -> tuple[Value, Value, Value]:
    """(host address of the first part, of the second, bytes in the first) of an access that crosses a page."""
    size = m.lift(size, 64)
    address, all_wanted = m["EA"], m.lift(wanted, 64) | present_rights(m)
    first = m.const(4096, 64) - (address & 0xFFF)
    beyond = address + first
    with m.when(~has(m.get("mode", 32), modes.CODE64) & beyond.ugt(0xFFFFFFFF), likely=False):
        hand_over(m, kind, size)  # behind 4 GiB the vendors' CPUs differ: `stack_fault.refuse_wrap`
    hosts = []
    for at, length in ((address, first), (beyond, size - first)):
        host = m.call("page_host", 64, at, length, all_wanted)
        with m.when(host == s.ACCESS_FAULT):
            m.jump("deliver")
        with m.when(host == s.ACCESS_HARD):
            hand_over(m, kind, size)
        hosts.append(host)
    return hosts[0], hosts[1], first


def crosses(m: Trace, size: Operand) -> Value:
    """1-bit: the access at EA lies in two pages."""
    return ((m["EA"] & 0xFFF) + size).ugt(0x1000)


def join(m: Trace, low: Value, high: Value, first: Value) -> Value:
    """The eight bytes that begin with the `first` (1 to 7) at the end of a page, and go on in another."""
    ahead = m.load(low + first - 8, 64) >> ((m.const(8, 64) - first) << 3)
    return ahead | m.load(high, 64) << (first << 3)


def split(m: Trace, size: Operand, wanted: int, kind: int) -> Value:
    """Copy an operand in two pages into the bounce buffer, from where `slow_commit` puts it back; where that is."""
    size = m.lift(size, 64)
    low, high, first = reach_two(m, size, wanted, kind)
    bounce, at = m.address_of("bounce"), m.variable(64, 0)
    with m.loop():
        with m.when(at.value == size):
            m.leave()
        m.store(bounce + at.value, m.load(_of_two(at.value, low, high, first), 8))
        at.set(at.value + 1)
    for name, value in (("size", size), ("first", first), ("low", low), ("high", high)):
        m.put(f"split_{name}", value)
    return bounce


def _of_two(at: Value, low: Value, high: Value, first: Value) -> Value:
    """The host address of a byte of an operand in two pages."""
    return at.ult(first).select(low + at, high + at - first)


def slow_load(m: Trace, width: int) -> None:
    """Behind `load` on a TLB miss."""
    if width > 8:
        with m.when(crosses(m, width // 8), likely=False):
            m["T0"] = join(m, *reach_two(m, width // 8, 0, s.KIND_LOAD)).trunc(width).zext(64)
            proceed(m)
    host = reach(m, m.const(width // 8, 64), 0, s.KIND_LOAD)
    m["T0"] = m.load(host, width).zext(64)
    proceed(m)


def slow_store(m: Trace, width: int) -> None:
    """Behind `store` on a TLB miss."""
    if width > 8:
        with m.when(crosses(m, width // 8), likely=False):
            low, high, first = reach_two(m, width // 8, s.ACCESS_WRITE, s.KIND_STORE)
            value = m["T0"]
            for at in range(width // 8):
                m.store(_of_two(m.const(at, 64), low, high, first), (value >> 8 * at).trunc(8))
            proceed(m)
    host = reach(m, m.const(width // 8, 64), s.ACCESS_WRITE, s.KIND_STORE)
    m.store(host, m["T0"].trunc(width))
    proceed(m)


def slow_modify(m: Trace, width: int) -> None:
    """Behind `modify`."""
    size, wanted = m.const(width // 8, 64), s.ACCESS_WRITE | s.ACCESS_READ
    if width > 8:
        with m.when(crosses(m, size), likely=False):
            take(m, split(m, size, wanted, s.KIND_MODIFY), width)
    take(m, reach(m, size, wanted, s.KIND_MODIFY), width)


def take(m: Trace, host: Value, width: int) -> None:
    """The operand of a read-modify-write is at `host`: on with the instruction."""
    m["HOST"] = host
    m["T0"] = m.load(host, width).zext(64)
    proceed(m)


def slow_commit(m: Trace) -> None:
    """What was written to the bounce buffer goes where it belongs: into two pages of RAM, or wherever Python knows."""
    size = m.get("split_size", 64)
    with m.when(size != 0):
        low, high, first = (m.get(f"split_{name}", 64) for name in ("low", "high", "first"))
        bounce, at = m.address_of("bounce"), m.variable(64, 0)
        with m.loop():
            with m.when(at.value == size):
                m.leave()
            m.store(_of_two(at.value, low, high, first), m.load(bounce + at.value, 8))
            at.set(at.value + 1)
        m.put("split_size", m.const(0, 64))
        proceed(m)
    hand_over(m, s.KIND_COMMIT, m.const(0, 64))


def dispatch(m: Trace) -> None:
    """Find the block at RIP: jump cache, tables of blocks, known blocks, known instructions; else Python translates."""
    with m.when(m.get("stepping", 32) != 0, likely=False):
        leave(m, s.EXIT_STEPPED)
    m.put("ahead", m.const(0, 64))
    m.put("count_dispatch", m.get("count_dispatch", 64) + 1)
    rip, mode = m.get("rip", 64), m.get("mode", 32).zext(64)
    tag, entry = jump_entry(rip, mode)
    odd = is_narrow(mode) & rip.ugt(0xFFFF)  # no key of the jump cache
    with m.when((m.get_at("jumps", entry, 64) == tag) & ~odd):
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
            left = m.get("budget", 64) - 1  # no block has counted it
            with m.when(left.sign, likely=False):
                leave(m, s.EXIT_INTERRUPTED)
            m.put("budget", left)
            m.jump("deliver")
        with m.when(host.value == s.ACCESS_HARD):
            leave(m, s.EXIT_FETCH)
    physical = host.value - m.get("ram_base", 64)
    m.put("walk_physical", physical)
    found = m.call("lookup_block", 64, rip, physical, mode)
    code, second = m.variable(64, 0), m.variable(64, linear)
    with m.when(found != 0):
        code.set(m.get("code_base", 64) + m.load(found + PLACED.code, 32).zext(64) + ENTRY)
    with m.otherwise():
        code.set(m.call("spanning_block", 64, rip, linear, physical, mode))
        second.set((code.value != 0).select(linear + 4096, linear))
        with m.when(code.value == 0):
            code.set(_made(m, linear, physical, host.value, mode))
    with m.when(~odd):
        for page in (linear, second.value):
            word, bit = jump_filter(m, page)
            m.put_at("jump_pages", word, m.get_at("jump_pages", word, 64) | bit)
        m.put_at("jumps", entry, tag)
        m.put_at("jumps", entry + 8, code.value)
    m.jump_to(code.value)


def _made(m: Trace, linear: Value, physical: Value, host: Value, mode: Value) -> Value:
    """The entry of a block that is found by its bytes or composed, and placed; the path ends in Python where that is not to be."""
    with m.when(stops_in_page(m, linear), likely=False):
        leave(m, s.EXIT_TRANSLATE)
    room, space = m.const(4096, 64) - (physical & 0xFFF), m.get("block_space", 64) | mode
    record = m.variable(64, m.call("find_block", 64, host, room, space))
    with m.when(record.value == 0, likely=False):
        record.set(m.call("compose_block", 64, host, room, space, (space >> 32) & 0xFF))
        with m.when(record.value == 0, likely=False):
            leave(m, s.EXIT_TRANSLATE)
    code = m.call("place_block", 64, record.value, physical)
    with m.when(code == 0, likely=False):
        leave(m, s.EXIT_TRANSLATE)
    return code + ENTRY


def linear_at(m: Trace, rip: Value) -> Value:
    """The linear address of a place in the code segment."""
    long_code = (m.get("mode", 32) & modes.CODE64) != 0
    return long_code.select(rip, (rip + m.get("cs_base", 64)) & 0xFFFFFFFF)


def invlpg(m: Trace) -> None:
    """INVLPG of EA, then on at next_rip."""
    m.call("flush_page", 0, m["EA"])
    complete(m)


def supervisor_access(m: Trace, on: bool) -> None:
    """STAC and CLAC at CPL 0."""
    old = m.get("rflags", 64)
    new = old | AC if on else old & ~m.const(AC, 64)
    m.put("rflags", new)
    m.put("mode", with_flags(m, new))
    complete(m)


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


def floating_changed(m: Trace) -> None:
    """Behind an instruction in the midst of a block that has masked all SSE exceptions, or has unmasked one: the mode follows."""
    m.call("update_mode", 0)
    m.put("budget", m.get("budget", 64) + m.get("ahead", 64))
    complete(m)


def raise_(m: Trace, vector: int, error: int | None) -> None:
    """A fault found by a stencil."""
    m.put("fault_vector", m.const(vector, 32))
    m.put("fault_error", m.const(error or 0, 32))
    m.put("fault_has_error", m.const(error is not None, 32))
    m.jump("deliver")


def raise_call(m: Trace) -> None:
    """CALL to what is not canonical: its stack faults first; X says how many bytes it would have stored."""
    first = m.get("rsp", 64) - m["X"]
    page = (first + m["X"] - 1) & ~m.const(0xFFF, 64)
    for at in (first, first.ult(page).select(page, first)):
        with m.when(m.call("access", 64, at, m.const(1, 64), present_rights(m) | s.ACCESS_WRITE) == s.ACCESS_FAULT):
            m.jump("deliver")
    raise_(m, 13, 0)


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
    "stac": partial(supervisor_access, on=True),
    "clac": partial(supervisor_access, on=False),
    "flags_changed": flags_changed,
    "floating_changed": floating_changed,
    "raise_de": partial(raise_, vector=0, error=None),
    "raise_ud": partial(raise_, vector=6, error=None),
    "raise_nm": partial(raise_, vector=7, error=None),
    "raise_call": raise_call,
    "raise_ac0": partial(raise_, vector=17, error=0),
    "raise_gp0": partial(raise_, vector=13, error=0),
    **{f"slow_load{w}": partial(slow_load, width=w) for w in WIDTHS},
    **{f"slow_store{w}": partial(slow_store, width=w) for w in WIDTHS},
    **{f"slow_modify{w}": partial(slow_modify, width=w) for w in WIDTHS},
}
