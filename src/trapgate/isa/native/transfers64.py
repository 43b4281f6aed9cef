"""IRETQ, SYSCALL and SYSRET of 64-bit code, plainly (SDM vol. 3, 7.14.3 and 6.8.8); what is not plain is Python's to do."""

from collections.abc import Callable
from functools import partial

from trapgate.arch.control import EFER_SCE
from trapgate.arch.flags import AC, DF, FIXED, ID, IF, IOPL, NT, RF, SYSRET, TF, VM
from trapgate.arch.segments import ATTR_DPL, SELECTOR_INDEX, SELECTOR_LDT, SELECTOR_RPL
from trapgate.isa import flags
from trapgate.isa import state as s
from trapgate.isa.native.delivery import FRAME_BYTES, system_frame
from trapgate.isa.native.flows import go_on, leave, notice_flags
from trapgate.isa.native.segments64 import (
    CODE64,
    DATA,
    GiveUp,
    code_descriptor,
    cpl_of,
    is_canonical,
    put_code,
    put_mode,
    put_null_stack,
    put_stack,
    stack_descriptor,
)  # fmt: skip
from trapgate.isa.request import leave_soon
from trapgate.isa.vocabulary import Trace, Value

IRET_FLAGS = TF | IF | DF | IOPL | NT | RF | AC | ID  # what IRET from ring 0 changes besides the status flags
DATA_SEGMENTS = ("es", "ds", "fs", "gs")


def _otherwise(m: Trace, number: int) -> GiveUp:
    """Python executes the instruction: the one of this number in `exact.debugging.NATIVE_FALLBACKS`."""

    def give_up() -> None:
        m.put("exit_detail", m.const(s.NATIVE_FALLBACK + number, 32))
        leave(m, s.EXIT_INSTRUCTION)

    return give_up


def iret64(m: Trace) -> None:
    """IRETQ to 64-bit code at the same CPL 0 or to CPL 3."""
    other = _otherwise(m, 0)
    with m.when((cpl_of(m) != 0) | ((m.get("rflags", 64) & NT) != 0) | (m.get("stepping", 32) != 0), likely=False):
        other()
    missing, place = system_frame(m, m.get("rsp", 64), m.const(FRAME_BYTES, 64), 0)
    with m.when(missing, likely=False):
        other()
    rip, cs, popped, rsp, ss = (m.load(place(m.const(8 * n, 64)), 64) for n in range(5))
    cs, ss = cs & 0xFFFF, ss & 0xFFFF
    cpl = cs & SELECTOR_RPL
    odd = ((cpl != 0) & (cpl != 3)) | ~is_canonical(rip) | ((popped & VM) != 0)
    with m.when(odd, likely=False):
        other()
    code = code_descriptor(m, cs, cpl, other)
    stack = _returned_stack(m, ss, cpl, other)
    outer = cpl == 3
    with m.when(outer):
        for name in DATA_SEGMENTS:  # segments that ring 3 may not keep: Python clears them
            held = m.get(f"{name}_attributes", 32)
            with m.when(((held & s.UNUSABLE) == 0) & ((held & ATTR_DPL) != ATTR_DPL)):
                other()
    flags.write(m, popped)
    put_code(m, cs, code)
    with m.when(stack == s.UNUSABLE):
        put_null_stack(m, ss)
    with m.otherwise():
        put_stack(m, ss, stack)
    m.put("rsp", rsp)
    new = (popped & IRET_FLAGS) | FIXED
    with m.when(outer):
        put_mode(m, new, 3)
        for name in DATA_SEGMENTS:  # a null selector loses its RPL
            null = (m.get(f"{name}_attributes", 32) & s.UNUSABLE) != 0
            m.put(f"{name}_selector", null.select(m.const(0, 64), m.get(f"{name}_selector", 64)))
    with m.otherwise():
        put_mode(m, new, 0)
    leave_soon(m, m.get("nmi_blocked", 32))  # another NMI may have waited
    m.put("nmi_blocked", m.const(0, 32))
    notice_flags(m, new, rip)
    go_on(m, rip)


def _returned_stack(m: Trace, selector: Value, cpl: Value, other: GiveUp) -> Value:
    """The attributes of SS behind IRET; ring 0 may have a null selector."""
    attributes = m.variable(64, s.UNUSABLE)
    with m.when((selector & SELECTOR_RPL) != cpl, likely=False):
        other()
    with m.when((selector & SELECTOR_INDEX) == 0):
        with m.when((cpl == 3) | ((selector & SELECTOR_LDT) != 0)):
            other()
    with m.otherwise():
        attributes.set(stack_descriptor(m, selector, cpl, other))
    return attributes.value


def syscall(m: Trace) -> None:
    """SYSCALL from 64-bit code."""
    with m.when(((m.get("efer", 64) & EFER_SCE) == 0) | (m.get("stepping", 32) != 0), likely=False):
        _otherwise(m, 1)()
    old = m.get("rflags", 64) | flags.read(m) | FIXED
    m.put("rcx", m.get("next_rip", 64))
    m.put("r11", old & ~m.const(RF, 64))
    new = old & ~m.get("sfmask", 64) & ~m.const(RF, 64)
    flags.write(m, new)
    new = (new & ~m.const(flags.STATUS, 64)) | FIXED
    cs = (m.get("star", 64) >> 32) & 0xFFFC
    put_code(m, cs, CODE64)
    put_stack(m, cs + 8, DATA)
    put_mode(m, new, 0)
    notice_flags(m, new, m.get("lstar", 64))
    go_on(m, m.get("lstar", 64))


def sysret(m: Trace, amd: bool) -> None:
    """SYSRET (REX.W) to 64-bit code at CPL 3. On AMD's CPUs (`amd`) SS gets a selector and nothing else, see `exact.transfers`."""
    target, saved = m.get("rcx", 64), m.get("r11", 64)
    odd = ((m.get("efer", 64) & EFER_SCE) == 0) | (m.get("stepping", 32) != 0) | ~is_canonical(target)
    odd = odd | ((saved & TF) != 0)  # it traps at once
    with m.when(odd | (cpl_of(m) != 0), likely=False):
        _otherwise(m, 2)()
    flags.write(m, saved)
    new = (saved & (SYSRET & ~flags.STATUS)) | FIXED
    base = (m.get("star", 64) >> 48) & 0xFFFF
    put_code(m, (base + 16) | 3, CODE64 | ATTR_DPL)
    if amd:
        m.put("ss_selector", (base + 8) & 0xFFFF)
    else:
        put_stack(m, (base + 8) | 3, DATA | ATTR_DPL)
    put_mode(m, new, 3)
    notice_flags(m, new, target)
    go_on(m, target)


FLOWS: dict[str, Callable[[Trace], None]] = {
    "iret64": iret64,
    "syscall": syscall,
    "sysret": partial(sysret, amd=False),
    "sysret_amd": partial(sysret, amd=True),
}
