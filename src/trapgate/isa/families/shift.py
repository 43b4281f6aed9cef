"""Shifts and rotates. Counts are masked to 5 bits (6 for 64-bit operands); a count of 0 changes no flag.

Source: SDM vol. 2, SAL/SAR/SHL/SHR, RCL/RCR/ROL/ROR, SHLD, SHRD.

Undefined and left so: OF for counts other than 1, AF, and CF of SHL/SHR for counts above the width.
"""

from collections.abc import Callable, Iterator
from functools import partial

from trapgate.isa import flags
from trapgate.isa.forms import Form, with_and_without_flags
from trapgate.isa.operands import fetch, store
from trapgate.isa.vocabulary import Trace, Value

WIDTHS = (8, 16, 32, 64)
COUNTS = ("I", "C")  # immediate, CL


def _count(m: Trace, kind: str, width: int) -> Value:
    """The masked count, 64 bits wide."""
    raw = m.hole("Uimm") if kind == "I" else m.get("rcx", 8).zext(64)
    return raw & (63 if width == 64 else 31)


def shl(m: Trace, a: Value, count: Value) -> Value:
    """SHL, SAL."""
    width = a.width
    if width == 64:
        result = a << count
        last = (a >> ((m.const(64, 64) - count) & 63)).trunc(1)
    else:
        shifted = a.zext(64) << count
        result, last = shifted.trunc(width), shifted.bit(width)
    flags.after_result(m, result, last, result.sign ^ last)
    return result


def shr(m: Trace, a: Value, count: Value) -> Value:
    """SHR. OF = the sign before."""
    wide = a.zext(64)
    result = (wide >> count).trunc(a.width)
    last = (wide >> ((count - 1) & 63)).trunc(1)
    flags.after_result(m, result, last, a.sign)
    return result


def sar(m: Trace, a: Value, count: Value) -> Value:
    """SAR. OF = 0."""
    wide = a.sext(64)
    result = wide.sar(count).trunc(a.width)
    last = wide.sar((count - 1) & 63).trunc(1)
    flags.after_result(m, result, last, m.const(0, 1))
    return result


SHIFTS: dict[str, Callable[[Trace, Value, Value], Value]] = {"shl": shl, "shr": shr, "sar": sar}


def shift(m: Trace, operation: Callable[[Trace, Value, Value], Value], kind: str, count_kind: str, width: int) -> None:
    """destination = shifted destination; flags stay for a count of 0."""
    a, count = fetch(m, kind, 0, width), _count(m, count_kind, width)
    if count_kind == "C":
        flags.remember(m)
    result = operation(m, a, count)
    if count_kind == "C":
        flags.keep_unless(m, count != 0)
    store(m, kind, 0, result)
    m.jump("NEXT")


def rotate(m: Trace, left: bool, kind: str, count_kind: str, width: int) -> None:
    """ROL and ROR: CF = the bit that went round last, OF = the two top bits differ (ROR) or sign ^ CF (ROL)."""
    a, count = fetch(m, kind, 0, width), _count(m, count_kind, width)
    amount = count.trunc(width)
    result = a.rotl(amount) if left else a.rotr(amount)
    if not flags.dead(m):
        top, second, low = result.sign, result.bit(width - 2), result.trunc(1)
        carry = low if left else top
        overflow = (top ^ low) if left else (top ^ second)
        old = m.get("flag_aux", 64)
        aux = (old & ~m.const(3, 64)) | (carry.zext(64) << 1) | (carry ^ overflow).zext(64)
        m.put("flag_aux", (count != 0).select(aux, old))
    store(m, kind, 0, result)
    m.jump("NEXT")


def rotate_carry(m: Trace, left: bool, kind: str, count_kind: str, width: int) -> None:
    """RCL and RCR: a rotation of width + 1 bits through CF."""
    a, count = fetch(m, kind, 0, width), _count(m, count_kind, width)
    carry = flags.carry(m).zext(128)
    ring = a.zext(128) | (carry << width)
    amount = m.emit("urem", 64, count, m.const(width + 1, 64)) if width < 32 else count
    amount = amount.zext(128)
    back = m.const(width + 1, 128) - amount
    turned = ((ring << amount) | (ring >> back)) if left else ((ring >> amount) | (ring << back))
    result, out = turned.trunc(width), turned.bit(width)
    overflow = (result.sign ^ out) if left else (result.sign ^ result.bit(width - 2))
    old = m.get("flag_aux", 64)
    aux = (old & ~m.const(3, 64)) | (out.zext(64) << 1) | (out ^ overflow).zext(64)
    m.put("flag_aux", (count != 0).select(aux, old))
    store(m, kind, 0, result)
    m.jump("NEXT")


def double_shift(m: Trace, left: bool, kind: str, count_kind: str, width: int) -> None:
    """SHLD and SHRD. With 16 bits and a count above 16 the result is undefined; ours continues with the destination's bits."""
    a, filler, count = fetch(m, kind, 0, width), m.get("R1", width), _count(m, count_kind, width)
    flags.remember(m)
    if width == 16:
        ring = a.zext(64) | (filler.zext(64) << 16) | (a.zext(64) << 32)
        if left:
            # bits enter from the top of the filler: arrange a : filler : a, take the high word of the shifted ring
            ring = (a.zext(64) << 32) | (filler.zext(64) << 16) | a.zext(64)
            shifted = ring << count
            result, last = (shifted >> 32).trunc(16), shifted.bit(48)
        else:
            result = (ring >> count).trunc(16)
            last = (ring >> ((count - 1) & 63)).trunc(1)
    else:
        amount = count.trunc(width)
        result = m.emit("fshl" if left else "fshr", width, *((a, filler) if left else (filler, a)), amount)
        last_at = ((m.const(width, 64) - count) if left else (count - 1)) & 63
        last = (a.zext(64) >> last_at).trunc(1)
    flags.after_result(m, result, last, result.sign ^ a.sign)
    flags.keep_unless(m, count != 0)
    store(m, kind, 0, result)
    m.jump("NEXT")


def plain_shift(m: Trace, name: str, kind: str, width: int) -> None:
    """SHLX, SHRX, SARX and RORX (BMI2): no flags; count in register R2, or immediate for RORX."""
    a = fetch(m, kind, 1, width)
    if name == "rorx":
        result = a.rotr(m.hole("Uimm").trunc(width))
    else:
        count = m.get("R2", width) & (width - 1)
        result = {"shlx": lambda: a << count, "shrx": lambda: a >> count, "sarx": lambda: a.sar(count)}[name]()
    store(m, "R", 0, result)
    m.jump("NEXT")


def forms() -> Iterator[Form]:
    """Every stencil of this family."""
    for width in WIDTHS:
        for kind in "RT":
            for count in COUNTS:
                end = f"{kind}{count}.{width}"
                for name, operation in SHIFTS.items():
                    body = partial(shift, operation=operation, kind=kind, count_kind=count, width=width)
                    yield from with_and_without_flags(f"{name}.{end}", body)
                for left in (True, False):
                    side = "l" if left else "r"
                    body = partial(rotate, left=left, kind=kind, count_kind=count, width=width)
                    yield from with_and_without_flags(f"ro{side}.{end}", body)
                    yield Form(f"rc{side}.{end}", partial(rotate_carry, left=left, kind=kind, count_kind=count, width=width))
                    if width > 8:
                        yield Form(f"sh{side}d.{end}", partial(double_shift, left=left, kind=kind, count_kind=count, width=width))
            if width >= 32:
                for name in ("shlx", "shrx", "sarx", "rorx"):
                    yield Form(f"{name}.{kind}.{width}", partial(plain_shift, name=name, kind=kind, width=width))
