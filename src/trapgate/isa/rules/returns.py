"""Returns from an event, in every mode: IRET; and goes back to a code segment of the same or an outer level, as RETF does too.

Sources: SDM vol. 2, IRET and RET; SDM vol. 3, 5.8.6, 6.14.3, 20.2.1; APM vol. 2, 8.9.3. IRET with NT set (a task return)
raises #GP(0): hardware task switching is not offered, and in long mode the manual wants just that.
"""

from trapgate.arch import vectors
from trapgate.arch.control import CR0_PE, CR4_VME, EFER_LMA
from trapgate.arch.flags import AC, DF, FIXED, ID, IF, IOPL, IOPL_SHIFT, NT, RF, STATUS, TF, VIF, VIP, VM
from trapgate.arch.segments import ATTR_L, SELECTOR_RPL
from trapgate.isa import flags, modes
from trapgate.isa.native.mode import has
from trapgate.isa.native.segments import Descriptor, is_canonical, level
from trapgate.isa.request import leave_soon
from trapgate.isa.rules.loading import (
    DATA_SEGMENTS,
    is_long,
    is_null,
    leave_behind,
    mark_accessed,
    put_found,
    put_null,
    put_paragraph,
    put_virtual,
    return_target,
    stack_target,
)  # fmt: skip
from trapgate.isa.rules.reading import HARD, Reading, Stack, move_pointer, running_stack, width_of
from trapgate.isa.vocabulary import Operand, Trace, Value

ALWAYS = STATUS | TF | DF | NT | RF | AC | ID  # flags that IRET changes at every level
SIZES = (2, 4, 8)


def interrupt_return(r: Reading, size: int) -> None:
    """IRET of this operand size: `next_rip` is where it goes on. NMIs are open again, even when it faults (SDM vol. 3, 7.7.1)."""
    m = r.m
    leave_soon(m, m.get("nmi_blocked", 32))  # another may have waited
    m.put("nmi_blocked", m.const(0, 32))
    if size < 8:
        with m.when(~has(m.get("cr0", 64), CR0_PE)):
            _return_real(r, size)
        with m.when(has(m.get("rflags", 64), VM)):
            _return_8086(r, size)
    with m.when(has(m.get("rflags", 64), NT), likely=False):
        r.gp()
    with m.when(has(m.get("mode", 32), modes.CODE64)):
        _return_protected(r, size, long=True)
    if size < 8:
        _return_protected(r, size, long=False)
    else:
        m.result(HARD)  # no other mode has it


def _put_flags(m: Trace, old: Value, popped: Value, mask: Operand, size: int) -> None:
    """RFLAGS after a pop of `size` bytes that may change the bits of `mask`, all status flags among them."""
    changed = m.lift(mask, 64) & (0xFFFF if size == 2 else -1)
    m.put("rflags", (((old & ~changed) | (popped & changed)) & ~m.const(STATUS, 64)) | FIXED)
    flags.write(m, popped)


def _old_flags(m: Trace) -> Value:
    return m.get("rflags", 64) & ~m.const(RF, 64)


def _return_real(r: Reading, size: int) -> None:
    m = r.m
    stack = running_stack(r, long=False)
    offset, selector, popped = r.pop(stack, 3, size)
    with m.when(offset.ugt(m.get("cs_limit", 32).zext(64)), likely=False):
        r.gp()
    _to_paragraph(r, stack, selector & 0xFFFF, offset)
    _put_flags(m, _old_flags(m), popped, ALWAYS | IF | IOPL, size)
    m.call("follow_mode", 0)
    r.done()


def _to_paragraph(r: Reading, stack: Stack, selector: Value, offset: Value) -> None:
    r.commit(stack)
    put_paragraph(r.m, selector)
    r.m.put("next_rip", offset)


def _return_8086(r: Reading, size: int) -> None:
    m, old = r.m, _old_flags(r.m)
    virtual = (old & IOPL) != IOPL
    with m.when(virtual & (~has(m.get("cr4", 64), CR4_VME) | m.const(size != 2, 1)), likely=False):
        r.gp()
    stack = running_stack(r, long=False)
    offset, selector, popped = r.pop(stack, 3, size)
    shown = has(popped, IF)  # SDM vol. 3, 20.3.3: IF of the frame is VIF
    refused = virtual & (has(popped, TF) | (shown & has(old, VIP)))
    with m.when(offset.ugt(0xFFFF) | refused, likely=False):
        r.gp()
    held = (old & ~m.const(VIF, 64)) | shown.select(m.const(VIF, 64), m.const(0, 64))
    _to_paragraph(r, stack, selector & 0xFFFF, offset)
    mask = virtual.select(m.const(ALWAYS, 64), m.const(ALWAYS | IF, 64))
    _put_flags(m, virtual.select(held, old), popped, mask, size)
    m.call("follow_mode", 0)
    r.done()


def _return_protected(r: Reading, size: int, long: bool) -> None:
    m = r.m
    stack = running_stack(r, long)
    offset, selector, popped = r.pop(stack, 3, size)
    cpl = level(m)
    if size == 4 and not long:
        with m.when(has(popped, VM) & (cpl == 0) & ~has(m.get("efer", 64), EFER_LMA)):
            _to_8086(r, stack, offset, selector & 0xFFFF, popped)
    old = _old_flags(m)
    mask = m.const(ALWAYS, 64) | cpl.ule((old & IOPL) >> IOPL_SHIFT).select(m.const(IF, 64), m.const(0, 64))
    mask = mask | (cpl == 0).select(m.const(IOPL | VIF | VIP, 64), m.const(0, 64))
    go_back(r, stack, selector & 0xFFFF, offset, size, always_stack=long)
    _put_flags(m, old, popped, mask, size)
    m.call("follow_mode", 0)
    r.done()


def _to_8086(r: Reading, stack: Stack, offset: Value, selector: Value, popped: Value) -> None:
    """IRETD at CPL 0 to virtual-8086 mode: nine doublewords."""
    m = r.m
    pointer, *selectors = r.pop(stack, 6, 4)
    with m.when(offset.ugt(0xFFFF), likely=False):
        r.gp()
    m.put("rsp", pointer)
    m.put("next_rip", offset)
    _put_flags(m, m.const(0, 64), popped, ALWAYS | IF | IOPL | VM | VIF | VIP, 4)
    for name, value in zip(("cs", "ss", "es", "ds", "fs", "gs"), (selector, *selectors), strict=True):
        put_virtual(m, name, value & 0xFFFF)
    m.call("follow_mode", 0)
    r.done()


def go_back(
    r: Reading, stack: Stack, selector: Value, offset: Value, size: int, always_stack: bool, extra: Operand = 0,
) -> None:  # fmt: skip
    """Return to selector:offset at the same or an outer level: CS, SS:rSP, `next_rip`; the mode is the caller's to follow.

    `stack` stands behind what was popped; `extra` bytes of parameters are released on both stacks (RETF imm16); `always_stack`:
    SS:RSP is in the frame whatever the level (IRET in 64-bit code).
    """
    m = r.m
    code, cpl, extra = return_target(r, selector), selector & SELECTOR_RPL, m.lift(extra, 64)
    long, outer = is_long(m, code), cpl.ugt(level(m))
    outside = long.select(~is_canonical(offset), offset.ugt(code.limit))
    r.skip(stack, extra)
    framed = m.const(1, 1) if always_stack else outer
    with m.when(framed):
        _with_stack(r, stack, code, selector, outside, size, extra)
    with m.when(~framed):
        with m.when(outside, likely=False):
            r.gp()
        mark_accessed(r, code)
        put_found(m, "cs", selector, code)
        r.commit(stack)
    m.put("next_rip", offset)
    with m.when(outer):
        for name in DATA_SEGMENTS:
            leave_behind(m, name, cpl)


def _with_stack(r: Reading, stack: Stack, code: Descriptor, selector: Value, outside: Value, size: int, extra: Value) -> None:
    m, cpl = r.m, selector & SELECTOR_RPL
    pointer, popped = r.pop(stack, 2, size)
    ss = popped & 0xFFFF
    null = is_null(ss)
    with m.when(null):
        with m.when(~is_long(m, code) | (cpl == 3) | ((ss & SELECTOR_RPL) != cpl), likely=False):
            r.gp()
    place, raw = m.variable(64, 0), m.variable(64, 0)
    with m.when(~null):
        segment = stack_target(r, ss, cpl, vectors.GP)
        place.set(segment.at)
        raw.set(segment.raw)
    with m.when(outside, likely=False):
        r.gp()
    new = Descriptor(place.value, raw.value)
    with m.when(~null):
        mark_accessed(r, new)
    mark_accessed(r, code)
    put_found(m, "cs", selector, code)
    with m.when(null):
        put_null(m, "ss", ss)
    with m.otherwise():
        put_found(m, "ss", ss, new)
    long = has(m.get("efer", 64), EFER_LMA) & has(m.get("cs_attributes", 32), ATTR_L)
    bits = long.select(m.const(64, 64), width_of(m.get("ss_attributes", 32).zext(64)))
    move_pointer(m, bits, pointer + extra)
