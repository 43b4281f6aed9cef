"""Takes x87, MXCSR and XMM to memory and back: FXSAVE, XSAVE and their kin (SDM vol. 1, 10.5 and chapter 13).

IA32_XSS knows nothing, so XSAVES saves what XSAVEC saves. AVX is in use (XINUSE) while an upper half is not 0; x87 and SSE always
count as in use: the manual leaves it to the processor to notice initial configurations (SDM vol. 1, 13.6). An area is reached as
far as the components go that are asked for. The pointers of the last x87 instruction are always saved and restored, as on AMD's
CPUs with CPUID XSAVEERPTR.

Stencils reach memory through HOST: the caller has checked its alignment. EAX and EDX hold the requested components.
"""

from collections.abc import Iterator, Sequence
from functools import partial, reduce
from itertools import islice
from operator import or_

from trapgate.arch import xstate
from trapgate.arch.control import CR0_TS, CR4_OSXSAVE, EFER_FFXSR
from trapgate.isa.families import mxcsr as control
from trapgate.isa.families.memory import aligned, reference_kind, segment_check
from trapgate.isa.families.system import enter_native
from trapgate.isa.families.x87 import revive, save_live
from trapgate.isa.forms import Form
from trapgate.isa.state import LAYOUT
from trapgate.isa.vocabulary import Trace, Value

X87, SSE, AVX = (one.bit for one in xstate.COMPONENTS)
FXSAVE_BYTES, XSAVE_BYTES = xstate.LEGACY_BYTES, xstate.standard_size(xstate.LEGACY)
MXCSR, BITS = xstate.MXCSR.offset, xstate.XSTATE_BV
assert xstate.compacted_offsets(AVX) == {xstate.AVX.number: xstate.AVX.offset}, "in both formats at the same place"
Moves = Sequence[tuple[int, int]]
"""Offsets in the area and in the CPU state of 16 bytes each."""


def _fields(component: xstate.Component, registers: int) -> Moves:
    """Of the first so many registers of a component."""
    return [(place.offset, LAYOUT[place.field].offset) for place in islice(component.registers.values(), registers)]


def _image(start: int, end: int) -> Moves:
    """Of a part of the x87 image."""
    return [(at, LAYOUT[xstate.IMAGE].offset + at) for at in range(start, end, 16)]


def _save(m: Trace, host: Value, moves: Moves) -> None:
    """Copy registers to the area."""
    lines = [line for there, here in moves for line in (f"movups {here}($1), %xmm0", f"movups %xmm0, {there}($0)")]
    m.asm("; ".join(lines), "r,r,~{xmm0},~{memory}", 0, host, m.address_of("rip"))


def _load(m: Trace, host: Value, moves: Moves) -> None:
    """Copy registers from the area."""
    lines = [line for there, here in moves for line in (f"movups {there}($1), %xmm0", f"movups %xmm0, {here}($0)")]
    m.asm("; ".join(lines), "r,r,~{xmm0},~{memory}", 0, m.address_of("rip"), host)


def _clear(m: Trace, moves: Moves) -> None:
    """Registers become 0."""
    stores = "; ".join(f"movups %xmm0, {here}($0)" for _, here in moves)
    m.asm(f"xorps %xmm0, %xmm0; {stores}", "r,~{xmm0},~{memory}", 0, m.address_of("rip"))


def _head(wide: bool) -> Iterator[tuple[int, int]]:
    """Offsets and masks of the words before MXCSR. The narrow format has selectors above FIP and FDP; they are 0."""
    pointer = (1 << 64) - 1 if wide else 0xFFFFFFFF
    yield from ((xstate.FCW.offset, (1 << 64) - 1), (xstate.FIP.offset, pointer), (xstate.FDP.offset, pointer))


def _save_x87(m: Trace, host: Value, wide: bool) -> None:
    """Bytes 0-23 and 32-159 of the area: control, status, tags, pointers, ST0-ST7."""
    image = m.address_of(xstate.IMAGE)
    with m.when(m.get("x87_live", 32) != 0):
        save_live(m, image)
    for at, mask in _head(wide):
        m.store(host + at, m.load(image + at, 64) & mask)
    _save(m, host, _image(xstate.ST0, xstate.XMM0))


def _save_mxcsr(m: Trace, host: Value) -> None:
    m.store(host + MXCSR, control.get(m))
    m.store(host + MXCSR + 4, m.const(xstate.MXCSR_MASK, 32))


def _load_x87(m: Trace, source: Value | None, wide: bool = True) -> None:
    """x87 from an area, or its initial configuration. It becomes live at once where it is live already."""
    image = m.address_of(xstate.IMAGE)
    if source is None:
        _clear(m, _image(0, 16))
        m.store(image + xstate.FDP.offset, m.const(0, 64))
        m.store(image + xstate.FCW.offset, m.const(xstate.INITIAL_FCW, 16))
        _clear(m, _image(xstate.ST0, xstate.XMM0))
    else:
        for at, mask in _head(wide):
            m.store(image + at, m.load(source + at, 64) & mask)
        _load(m, source, _image(xstate.ST0, xstate.XMM0))
    with m.when(m.get("x87_live", 32) != 0):
        revive(m, image)


def _end(m: Trace, follows: Value) -> None:
    """`follows`: the mode does."""
    with m.when(follows, likely=False):
        enter_native(m, "floating_changed")
    m.jump("NEXT")


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
        _save(m, host, _fields(xstate.SSE, registers))
    m.jump("NEXT")


def fxrstor(m: Trace, registers: int, wide: bool) -> None:
    """FXRSTOR; #GP(0) for reserved bits of MXCSR."""
    host = m["HOST"]
    mxcsr = m.load(host + MXCSR, 32)
    with m.when((mxcsr & control.RESERVED) != 0, likely=False):
        m.cold("raise_gp0")
    follows = control.put(m, mxcsr)
    _load_x87(m, host, wide)
    with m.when(~_fast(m, registers), likely=True):
        _load(m, host, _fields(xstate.SSE, registers))
    _end(m, follows)


def xsave_check(m: Trace) -> None:
    """#UD without CR4.OSXSAVE, #NM while CR0.TS (SDM vol. 2, XSAVE)."""
    with m.when((m.get("cr4", 64) & CR4_OSXSAVE) == 0, likely=False):
        m.cold("raise_ud")
    with m.when((m.get("cr0", 64) & CR0_TS) != 0, likely=False):
        m.cold("raise_nm")
    m.jump("NEXT")


def _requested(m: Trace) -> Value:
    return m.get("rax", 32).zext(64) & m.get("xcr0", 64)


def _requested_bytes(m: Trace) -> Value:
    """How much of an area is reached."""
    more = (_requested(m) & AVX) != 0
    return more.select(m.const(xstate.standard_size(AVX), 64), m.const(XSAVE_BYTES, 64))


def area_segment(m: Trace, write: bool) -> None:
    """The check of an area against its segment, as `memory.segment_check` has it for operands of one size."""
    segment_check(m, write, _requested_bytes(m) - 1)


def area_reference(m: Trace, write: bool) -> None:
    """HOST = host address of an area at EA."""
    m["X"] = _requested_bytes(m) | reference_kind(write, read=True)
    m.cold("slow_reference")


def _upper_in_use(m: Trace) -> Value:
    """1-bit: an upper half of a YMM register is not 0, whatever the mode has of them."""
    words = (m.get_at(name, m.const(at, 64), 64) for name in xstate.AVX.registers for at in (0, 8))
    return reduce(or_, words) != 0


def xsave(m: Trace, registers: int, wide: bool, kind: str) -> None:
    """XSAVE, XSAVEOPT, XSAVEC; the last two leave out what is not in use."""
    host, wanted = m["HOST"], _requested(m)
    with m.when((wanted & X87) != 0, likely=True):
        _save_x87(m, host, wide)
    with m.when((wanted & (SSE if kind == "xsavec" else SSE | AVX)) != 0, likely=True):
        _save_mxcsr(m, host)
    with m.when((wanted & SSE) != 0, likely=True):
        _save(m, host, _fields(xstate.SSE, registers))
    used = m.variable(64, wanted)
    with m.when((wanted & AVX) != 0):
        in_use = _upper_in_use(m)
        used.set(in_use.select(wanted, wanted & ~m.const(AVX, 64)))
        with m.when(in_use if kind != "xsave" else m.const(1, 1)):
            _save(m, host, _fields(xstate.AVX, registers))
    if kind == "xsavec":
        m.store(host + BITS, used.value)
        m.store(host + xstate.XCOMP_BV, wanted | xstate.COMPACTED)
    else:
        m.store(host + BITS, (m.load(host + BITS, 64) & ~wanted) | used.value)
    m.jump("NEXT")


def xrstor(m: Trace, registers: int, wide: bool, supervisor: bool) -> None:
    """XRSTOR of the standard and of the compacted format, XRSTORS (`supervisor`) of the latter alone.

    #GP(0): header bits that must be 0, reserved bits of MXCSR (SDM vol. 1, 13.8, 13.12).
    """
    host, wanted = m["HOST"], _requested(m)
    present, compacted = m.load(host + BITS, 64), m.load(host + xstate.XCOMP_BV, 64)
    compact = (compacted & xstate.COMPACTED) != 0
    allowed = compact.select(compacted & m.get("xcr0", 64), m.get("xcr0", 64))
    foreign = compact.select(compacted & ~m.get("xcr0", 64) & ~m.const(xstate.COMPACTED, 64), compacted)
    first, *others = (m.load(host + at, 64) for at in xstate.COMPACTED_RESERVED)
    rest = compact.select(reduce(or_, others, first), m.const(0, 64)) | m.load(host + xstate.RESERVED, 64)
    owner = compact.select(m.const(SSE, 64), m.const(SSE | AVX, 64))  # whose being asked for brings MXCSR along
    loads_mxcsr = ((wanted & owner) != 0) & (~compact | ((present & SSE) != 0))
    mxcsr = m.load(host + MXCSR, 32)
    mxcsr = (compact & ((wanted & SSE) != 0) & ((present & SSE) == 0)).select(m.const(xstate.INITIAL_MXCSR, 32), mxcsr)
    bad = ((present & ~allowed) != 0) | (foreign != 0) | (rest != 0) | (loads_mxcsr & ((mxcsr & control.RESERVED) != 0))
    if supervisor:
        bad = bad | ~compact
    with m.when(bad, likely=False):
        m.cold("raise_gp0")
    follows = m.variable(1, 0)
    with m.when((wanted & owner) != 0):
        follows.set(control.put(m, mxcsr))
    with m.when((wanted & X87) != 0):
        with m.when((present & X87) != 0):
            _load_x87(m, host, wide)
        with m.otherwise():
            _load_x87(m, None)
    with m.when((wanted & SSE) != 0):
        with m.when((present & SSE) != 0):
            _load(m, host, _fields(xstate.SSE, registers))
        with m.otherwise():
            _clear(m, _fields(xstate.SSE, registers))
    with m.when((wanted & AVX) != 0):
        with m.when((present & AVX) != 0):
            _load(m, host, _fields(xstate.AVX, registers))
        with m.otherwise():
            _clear(m, _fields(xstate.AVX, registers))
    _end(m, follows.value)


def forms() -> Iterator[Form]:
    """Every stencil of this family."""
    for registers, wide in ((8, False), (16, False), (16, True)):
        end = f"{registers}.{'wide' if wide else 'narrow'}"
        yield Form(f"fxsave.{end}", partial(fxsave, registers=registers, wide=wide))
        yield Form(f"fxrstor.{end}", partial(fxrstor, registers=registers, wide=wide))
        for supervisor in (False, True):
            name = "xrstors" if supervisor else "xrstor"
            yield Form(f"{name}.{end}", partial(xrstor, registers=registers, wide=wide, supervisor=supervisor))
        for kind in ("xsave", "xsaveopt", "xsavec"):
            yield Form(f"{kind}.{end}", partial(xsave, registers=registers, wide=wide, kind=kind))
    yield Form("xsave.check", xsave_check)
    yield Form("aligned.64", partial(aligned, size=xstate.ALIGNMENT))
    for write in (False, True):
        end = "rw" if write else "r"
        yield Form(f"area.{end}", partial(area_reference, write=write))
        yield Form(f"area.segment.{end}", partial(area_segment, write=write))
