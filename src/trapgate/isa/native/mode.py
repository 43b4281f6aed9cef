"""Works out the mode word: from all that it follows from, or, in 64-bit code, from what an event changes of it."""

from trapgate.arch import control, debugregs, flags, segments, xstate
from trapgate.isa import modes
from trapgate.isa import state as s
from trapgate.isa.request import leave_soon
from trapgate.isa.vocabulary import Trace, Value

_AVX_STATE = xstate.SSE.bit | xstate.AVX.bit
FLAT_SEGMENTS = ("cs", "ss", "ds", "es")


def bits(m: Trace, condition: Value, mask: int) -> Value:
    """`mask` where the condition holds, else 0."""
    return condition.select(m.const(mask, 32), m.const(0, 32))


def has(value: Value, mask: int) -> Value:
    """1-bit: whether any bit of `mask` is set."""
    return (value & mask) != 0


def privilege(m: Trace, rflags: Value, cpl: Value) -> Value:
    """PRIVILEGE: what follows from CPL (32 bits wide) and RFLAGS."""
    user = cpl == 3
    counts = user.select(has(m.get("cr0", 64), control.CR0_AM), has(m.get("cr4", 64), control.CR4_SMAP))
    ac = bits(m, has(rflags, flags.AC) & counts, modes.AC)
    iopl = cpl.ule(((rflags & flags.IOPL) >> flags.IOPL_SHIFT).trunc(32))
    return (cpl << modes.CPL_SHIFT) | ac | bits(m, iopl, modes.IOPL)


def with_flags(m: Trace, rflags: Value) -> Value:
    """The running mode after a change of RFLAGS."""
    mode = m.get("mode", 32)
    return (mode & ~m.const(modes.PRIVILEGE, 32)) | privilege(m, rflags, (mode & modes.CPL) >> modes.CPL_SHIFT)


def _floating(m: Trace, unprotected: Value) -> Value:
    cr0, cr4 = m.get("cr0", 64), m.get("cr4", 64)
    no_sse = has(cr0, control.CR0_EM) | ~has(cr4, control.CR4_OSFXSR)
    avx = ~unprotected & has(cr4, control.CR4_OSXSAVE) & ((m.get("xcr0", 64) & _AVX_STATE) == _AVX_STATE)
    unmasked = bits(m, m.get("mxcsr_difference", 32) != 0, modes.SSE_UNMASKED)
    no_x87 = bits(m, has(cr0, control.CR0_EM | control.CR0_TS), modes.NO_X87)
    return no_x87 | bits(m, no_sse, modes.NO_SSE) | unmasked | bits(m, avx, modes.AVX)


def _is_flat(m: Trace, name: str) -> Value:
    """1-bit: a segment of base 0 and limit 4 GiB that may be used for what its register is for."""
    needed = s.READABLE if name == "cs" else s.READABLE | s.WRITABLE
    usable = (m.get(f"{name}_attributes", 32) & (needed | s.UNUSABLE)) == needed
    return (m.get(f"{name}_base", 64) == 0) & (m.get(f"{name}_limit", 32) == 0xFFFFFFFF) & usable


def update_mode(m: Trace) -> None:
    """update_mode(): `follow_mode`, and what waits for a change of RFLAGS is seen soon."""
    m.call("follow_mode", 0)
    rflags = m.get("rflags", 64)
    waiting = bits(m, has(rflags, flags.IF), 0xFFFFFFFF) & m.get("irq_waiting", 32)
    leave_soon(m, waiting | bits(m, has(rflags, flags.TF | flags.RF), 1))
    m.result()


def follow_mode(m: Trace) -> None:
    """follow_mode(): `mode`, and what hangs on CPL, after CR0, CR4, EFER, RFLAGS, CS, SS or another segment changed."""
    rflags, code = m.get("rflags", 64), m.get("cs_attributes", 32)
    real = ~has(m.get("cr0", 64), control.CR0_PE)
    v86 = has(rflags, flags.VM) & ~real
    unprotected = real | v86
    selected = unprotected.select(m.const(0, 32), m.get("cs_selector", 32) & 3)
    cpl = v86.select(m.const(3, 32), selected)
    long_code = has(m.get("efer", 64), control.EFER_LMA) & has(code, segments.ATTR_L)
    code32 = bits(m, has(code, segments.ATTR_DB) & ~v86, modes.CODE32)
    stack32 = bits(m, has(m.get("ss_attributes", 32), segments.ATTR_DB) & ~v86, modes.STACK32)
    flat = ~unprotected
    for name in FLAT_SEGMENTS:
        flat = flat & _is_flat(m, name)
    legacy = code32 | stack32 | bits(m, unprotected, modes.REAL) | bits(m, flat, modes.FLAT)
    m.put("mode", long_code.select(m.const(modes.CODE64, 32), legacy) | privilege(m, rflags, cpl) | _floating(m, unprotected))
    m.put("bus_lock_trap", (has(m.get("debugctl", 64), debugregs.DEBUGCTL_BUS_LOCK) & (cpl != 0)).zext(32))
    m.result()


FUNCTIONS = {"update_mode": (update_mode, 0, 0), "follow_mode": (follow_mode, 0, 0)}
