"""FXSAVE and FXRSTOR, XSAVE and XRSTOR with their kin: x87, MXCSR and XMM to memory and back (SDM vol. 1, 10.5 and chapter 13).

XCR0 knows x87 and SSE, IA32_XSS nothing, so XSAVES saves what XSAVEC saves. A component always counts as in use (XINUSE): the
manual leaves it to the processor to notice initial configurations, and XSAVEOPT and XSAVEC may then write what XSAVE writes. What
unmasks an exception, or finds one unmasked, is Python's (`exact.fpstate`). The pointers of the last x87 instruction are always
saved and restored, as on AMD's CPUs with CPUID XSAVEERPTR.

Stencils reach memory through HOST: the caller has checked its alignment. EAX and EDX hold the requested components.
"""

from collections.abc import Iterator
from functools import partial

from trapgate.arch.control import CR0_TS, CR4_OSXSAVE, EFER_FFXSR
from trapgate.isa.families.memory import aligned, reference
from trapgate.isa.families.sse import MASKS, RESERVED
from trapgate.isa.families.x87 import restore_live, save_live
from trapgate.isa.forms import Form
from trapgate.isa.vocabulary import Trace, Value

X87, SSE = 1, 2
SUPPORTED = X87 | SSE
FXSAVE_BYTES, XSAVE_BYTES = 512, 576
MXCSR, ST0, XMM, BITS, COMPACTED = 24, 32, 160, 512, 520  # offsets (SDM vol. 1, table 10-2 and 13.4.2)
COMPACT = 1 << 63
INITIAL_MXCSR, MXCSR_MASK = 0x1F80, 0xFFFF


def _move(m: Trace, target: Value, source: Value, length: int) -> None:
    """Copy a multiple of 16 bytes."""
    lines = []
    for at in range(0, length, 16):
        lines += [f"movups {at}($1), %xmm0", f"movups %xmm0, {at}($0)"]
    m.asm("; ".join(lines), "r,r,~{xmm0},~{memory}", 0, target, source)


def _save_x87(m: Trace, host: Value, wide: bool) -> None:
    """Bytes 0-23 and 32-159 of the area: control, status, tags, pointers, ST0-ST7."""
    image = m.address_of("fxsave")
    with m.when(m.get("x87_live", 32) != 0):
        save_live(m, image)
    m.store(host, m.load(image, 64))
    mask = (1 << 64) - 1 if wide else 0xFFFFFFFF  # the narrow format has selectors there, which are 0
    m.store(host + 8, m.load(image + 8, 64) & mask)
    m.store(host + 16, m.load(image + 16, 64) & mask)
    _move(m, host + ST0, image + ST0, 128)


def _save_mxcsr(m: Trace, host: Value) -> None:
    m.asm("stmxcsr ($0)", "r,~{memory}", 0, m.address_of("guest_mxcsr"))
    m.store(host + MXCSR, m.get("guest_mxcsr", 32) & ~m.get("mxcsr_unmasked", 32))
    m.store(host + MXCSR + 4, m.const(MXCSR_MASK, 32))


def _load_x87(m: Trace, source: Value | None, wide: bool = True) -> None:
    """x87 from an area, or its initial configuration. It becomes live at once where it is live already."""
    image = m.address_of("fxsave")
    if source is None:
        zeros = "; ".join(f"movups %xmm0, {at}($0)" for at in (0, *range(32, 160, 16)))
        m.asm(f"xorps %xmm0, %xmm0; {zeros}; movq $$0, 16($0); movw $$0x37f, ($0)", "r,~{xmm0},~{memory}", 0, image)
    else:
        mask = (1 << 64) - 1 if wide else 0xFFFFFFFF
        m.store(image, m.load(source, 64))
        m.store(image + 8, m.load(source + 8, 64) & mask)
        m.store(image + 16, m.load(source + 16, 64) & mask)
        _move(m, image + ST0, source + ST0, 128)
    with m.when(m.get("x87_live", 32) != 0):
        restore_live(m, image)


def _load_mxcsr(m: Trace, value: Value) -> None:
    m.put("guest_mxcsr", value)
    m.asm("ldmxcsr ($0)", "r,~{memory}", 0, m.address_of("guest_mxcsr"))


def _python(m: Trace) -> None:
    m.put("exit_detail", m.hole("Uop", 32))
    m.put("next_rip", m.hole("Qnext"))
    m.cold("leave_instruction")


def _masked(m: Trace, fcw: Value, mxcsr: Value) -> Value:
    """1-bit: these new values unmask nothing, and MXCSR did not before."""
    return (m.get("mxcsr_unmasked", 32) == 0) & ((fcw & 0x3F) == 0x3F) & ((mxcsr & MASKS) == MASKS)


def _fast(m: Trace, registers: int) -> Value:
    """1-bit: EFER.FFXSR leaves XMM registers out at CPL 0 in 64-bit mode (APM vol. 2, 3.1.7)."""
    if registers < 16:
        return m.const(0, 1)
    return ((m.get("efer", 64) & EFER_FFXSR) != 0) & ((m.get("cs_selector", 64) & 3) == 0)


def fxsave(m: Trace, registers: int, wide: bool) -> None:
    """FXSAVE; `registers`: how many XMM registers the mode has, `wide`: FXSAVE64."""
    host = m["HOST"]
    _save_x87(m, host, wide)
    _save_mxcsr(m, host)
    with m.when(~_fast(m, registers), likely=True):
        _move(m, host + XMM, m.address_of("xmm0"), 16 * registers)
    m.jump("NEXT")


def fxrstor(m: Trace, registers: int, wide: bool) -> None:
    """FXRSTOR; #GP(0) for reserved bits of MXCSR."""
    host = m["HOST"]
    mxcsr = m.load(host + MXCSR, 32)
    with m.when((mxcsr & RESERVED) != 0, likely=False):
        m.cold("raise_gp0")
    with m.when(~_masked(m, m.load(host, 16), mxcsr), likely=False):
        _python(m)
    _load_mxcsr(m, mxcsr)
    _load_x87(m, host, wide)
    with m.when(~_fast(m, registers), likely=True):
        _move(m, m.address_of("xmm0"), host + XMM, 16 * registers)
    m.jump("NEXT")


def xsave_check(m: Trace) -> None:
    """#UD without CR4.OSXSAVE, #NM while CR0.TS (SDM vol. 2, XSAVE)."""
    with m.when((m.get("cr4", 64) & CR4_OSXSAVE) == 0, likely=False):
        m.cold("raise_ud")
    with m.when((m.get("cr0", 64) & CR0_TS) != 0, likely=False):
        m.cold("raise_nm")
    m.jump("NEXT")


def _requested(m: Trace) -> Value:
    return m.get("rax", 32).zext(64) & m.get("xcr0", 64) & SUPPORTED


def xsave(m: Trace, registers: int, wide: bool, compact: bool) -> None:
    """XSAVE, XSAVEOPT; XSAVEC and XSAVES where `compact`."""
    host, wanted = m["HOST"], _requested(m)
    with m.when((wanted & X87) != 0, likely=True):
        _save_x87(m, host, wide)
    with m.when((wanted & SSE) != 0, likely=True):
        _save_mxcsr(m, host)
        _move(m, host + XMM, m.address_of("xmm0"), 16 * registers)
    if compact:
        m.store(host + BITS, wanted)
        m.store(host + COMPACTED, wanted | COMPACT)
    else:
        m.store(host + BITS, (m.load(host + BITS, 64) & ~wanted) | wanted)
    m.jump("NEXT")


def xrstor(m: Trace, registers: int, wide: bool, supervisor: bool) -> None:
    """XRSTOR of the standard and of the compacted format, XRSTORS (`supervisor`) of the latter alone.

    #GP(0): header bits that must be 0, reserved bits of MXCSR (SDM vol. 1, 13.8, 13.12).
    """
    host, wanted = m["HOST"], _requested(m)
    present, compacted = m.load(host + BITS, 64), m.load(host + COMPACTED, 64)
    compact = (compacted & COMPACT) != 0
    allowed = compact.select(compacted & m.get("xcr0", 64), m.get("xcr0", 64))
    foreign = compact.select(compacted & ~m.get("xcr0", 64) & ~m.const(COMPACT, 64), compacted)
    rest = m.load(host + 536, 64)
    for at in range(544, XSAVE_BYTES, 8):
        rest = rest | m.load(host + at, 64)
    rest = compact.select(rest, m.const(0, 64)) | m.load(host + 528, 64)
    loads_mxcsr = ((wanted & SSE) != 0) & (~compact | ((present & SSE) != 0))
    mxcsr = loads_mxcsr.select(m.load(host + MXCSR, 32), m.get("guest_mxcsr", 32) & ~m.get("mxcsr_unmasked", 32))
    mxcsr = (compact & ((wanted & SSE) != 0) & ((present & SSE) == 0)).select(m.const(INITIAL_MXCSR, 32), mxcsr)
    bad = ((present & ~allowed) != 0) | (foreign != 0) | (rest != 0) | (loads_mxcsr & ((mxcsr & RESERVED) != 0))
    if supervisor:
        bad = bad | ~compact
    with m.when(bad, likely=False):
        m.cold("raise_gp0")
    fcw = (((wanted & present) & X87) != 0).select(m.load(host, 16), m.const(0x37F, 16))
    with m.when(~_masked(m, fcw, mxcsr), likely=False):
        _python(m)
    with m.when((wanted & SSE) != 0):
        _load_mxcsr(m, mxcsr)
    with m.when((wanted & X87) != 0):
        with m.when((present & X87) != 0):
            _load_x87(m, host, wide)
        with m.otherwise():
            _load_x87(m, None)
    with m.when((wanted & SSE) != 0):
        with m.when((present & SSE) != 0):
            _move(m, m.address_of("xmm0"), host + XMM, 16 * registers)
        with m.otherwise():
            stores = "; ".join(f"movups %xmm0, {16 * n}($0)" for n in range(registers))
            m.asm(f"xorps %xmm0, %xmm0; {stores}", "r,~{xmm0},~{memory}", 0, m.address_of("xmm0"))
    m.jump("NEXT")


def forms() -> Iterator[Form]:
    """Every stencil of this family."""
    for registers, wide in ((8, False), (16, False), (16, True)):
        end = f"{registers}.{'wide' if wide else 'narrow'}"
        yield Form(f"fxsave.{end}", partial(fxsave, registers=registers, wide=wide))
        yield Form(f"fxrstor.{end}", partial(fxrstor, registers=registers, wide=wide))
        for supervisor in (False, True):
            name = "xrstors" if supervisor else "xrstor"
            yield Form(f"{name}.{end}", partial(xrstor, registers=registers, wide=wide, supervisor=supervisor))
        for compact in (False, True):
            name = "xsavec" if compact else "xsave"
            yield Form(f"{name}.{end}", partial(xsave, registers=registers, wide=wide, compact=compact))
    yield Form("xsave.check", xsave_check)
    yield Form("aligned.64", partial(aligned, size=64))
    yield Form(f"ref.r.{XSAVE_BYTES}", partial(reference, size=XSAVE_BYTES, write=False, read=True))
    yield Form(f"ref.rw.{XSAVE_BYTES}", partial(reference, size=XSAVE_BYTES, write=True, read=True))
