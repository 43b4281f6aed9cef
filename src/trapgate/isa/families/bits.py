"""Tests and scans bits, swaps bytes, extracts bit fields (BMI1, BMI2), converts between widths."""

from collections.abc import Iterator
from functools import partial

from trapgate.isa import flags
from trapgate.isa.forms import Form, with_and_without_flags
from trapgate.isa.operands import fetch, store
from trapgate.isa.vocabulary import Trace, Value

WIDE = (16, 32, 64)


def bit_test(m: Trace, name: str, kind: str, index_kind: str, width: int) -> None:
    """BT, BTS, BTR, BTC: CF = the bit; the other flags stay (ZF by the manual, the rest undefined)."""
    a = fetch(m, kind, 0, width)
    index = (m.hole("Uimm").trunc(width) if index_kind == "I" else m.get("R1", width)) & (width - 1)
    flags.set_carry(m, (a >> index).trunc(1))
    mask = m.const(1, width) << index
    if name != "bt":
        store(m, kind, 0, {"bts": a | mask, "btr": a & ~mask, "btc": a ^ mask}[name])
    m.jump("NEXT")


def bit_address(m: Trace, width: int, address_width: int, segment: bool) -> None:
    """BT and its like with a register index reach memory beyond the operand: EA moves by whole operands (SDM vol. 2, BT), is cut to
    the address size and only then gets its segment base."""
    index = m.get("R1", width).sext(64)
    address = m["EA"] + (index.sar(width.bit_length() - 1) << (width // 8).bit_length() - 1)
    address = address.trunc(address_width).zext(64)
    m["EA"] = address + m.get("Rseg", 64) if segment else address
    m.jump("NEXT")


def scan(m: Trace, name: str, kind: str, width: int) -> None:
    """BSF, BSR (destination unchanged for 0), TZCNT, LZCNT, POPCNT."""
    a, zero = fetch(m, kind, 1, width), None
    zero = a == 0
    match name:
        case "bsf":
            flags.set_zero_carry(m, zero, m.const(0, 1))
            found = a.trailing_zeros()
        case "bsr":
            flags.set_zero_carry(m, zero, m.const(0, 1))
            found = m.const(width - 1, width) - a.leading_zeros()
        case "tzcnt" | "lzcnt":
            found = a.trailing_zeros() if name == "tzcnt" else a.leading_zeros()
            flags.set_zero_carry(m, found == 0, zero)
        case _:
            found = a.popcount()
            flags.set_zero_carry(m, zero, m.const(0, 1))
    if name in ("bsf", "bsr"):
        if width == 32:
            m.put("R0", zero.select(m.get("R0", 64), found.zext(64)))
        else:
            m.put("R0", zero.select(m.get("R0", width), found))
    else:
        store(m, "R", 0, found)
    m.jump("NEXT")


def bswap(m: Trace, width: int) -> None:
    """BSWAP; 16 bits (undefined) gives 0, as silicon does."""
    store(m, "R", 0, m.const(0, 16) if width == 16 else m.get("R0", width).bswap())
    m.jump("NEXT")


def movbe(m: Trace, width: int, to_register: bool) -> None:
    """MOVBE: the bytes of T0 (or of R0) reversed."""
    if to_register:
        store(m, "R", 0, m["T0"].trunc(width).bswap())
    else:
        m["T0"] = m.get("R0", width).bswap().zext(64)
    m.jump("NEXT")


def field(m: Trace, name: str, kind: str, width: int) -> None:
    """BMI1 and BMI2 with one result: ANDN, BEXTR, BLSI, BLSMSK, BLSR, BZHI, PDEP, PEXT."""
    if name == "andn":
        result = ~m.get("R1", width) & fetch(m, kind, 2, width)
        flags.after_logic(m, result)
    elif name in ("blsi", "blsmsk", "blsr"):
        a = fetch(m, kind, 1, width)
        result = {"blsi": a & -a, "blsmsk": a ^ (a - 1), "blsr": a & (a - 1)}[name]
        carry = (a != 0) if name == "blsi" else (a == 0)
        flags.after_result(m, result, carry, m.const(0, 1))
    elif name == "bextr":
        a, control = fetch(m, kind, 1, width), m.get("R2", 16)
        start, length = (control & 0xFF).zext(width), (control >> 8).zext(width)
        shifted = start.uge(width).select(m.const(0, width), a >> (start & (width - 1)))
        mask = (m.const(1, width) << (length & (width - 1))) - 1
        result = length.uge(width).select(shifted, shifted & mask)
        flags.after_logic(m, result)
    elif name == "bzhi":
        a, index = fetch(m, kind, 1, width), m.get("R2", 8).zext(width)
        beyond = index.uge(width)
        mask = (m.const(1, width) << (index & (width - 1))) - 1
        result = beyond.select(a, a & mask)
        flags.after_result(m, result, beyond, m.const(0, 1))
    else:
        result = _scatter(m, name, m.get("R1", width), fetch(m, kind, 2, width))
    store(m, "R", 0, result)
    m.jump("NEXT")


def _scatter(m: Trace, name: str, source: Value, mask: Value) -> Value:
    """PDEP and PEXT, a bit of the mask a turn."""
    width = source.width
    result, left, taken = m.variable(width, 0), m.variable(width, mask), m.variable(width, 0)
    with m.loop():
        with m.when(left.value == 0):
            m.leave()
        lowest = left.value & -left.value
        if name == "pdep":
            bit = (source >> taken.value) & 1
            result.set(result.value | (bit != 0).select(lowest, m.const(0, width)))
        else:
            bit = ((source & lowest) != 0).zext(width)
            result.set(result.value | (bit << taken.value))
        taken.set(taken.value + 1)
        left.set(left.value & (left.value - 1))
    return result.value


def mulx(m: Trace, kind: str, width: int) -> None:
    """MULX: R0 = high half, R1 = low half of RDX * source; no flags."""
    wide = m.get("rdx", width).zext(2 * width) * fetch(m, kind, 2, width).zext(2 * width)
    low, high = wide.trunc(width), (wide >> width).trunc(width)
    m.put("R1", low.zext(64))
    m.put("R0", high.zext(64))
    m.jump("NEXT")


def crc32(m: Trace, kind: str, width: int) -> None:
    """CRC32 (polynomial 11EDC6F41h): the host's instruction."""
    suffix = {8: "b", 16: "w", 32: "l", 64: "q"}[width]
    total = "q" if width == 64 else ""
    modifier = {8: ":b", 16: ":w", 32: ":k", 64: ":q"}[width]
    a = m.get("R0", 64 if width == 64 else 32)
    source = fetch(m, kind, 1, width)
    result = m.asm(f"crc32{suffix} ${{2{modifier}}}, ${{0:{'q' if total else 'k'}}}", "=r,0,r", a.width, a, source)
    m.put("R0", result.zext(64))
    m.jump("NEXT")


def forms() -> Iterator[Form]:
    """Every stencil of this family."""
    for width in WIDE:
        for kind in "RT":
            for index in "RI":
                for name in ("bt", "bts", "btr", "btc"):
                    body = partial(bit_test, name=name, kind=kind, index_kind=index, width=width)
                    yield from with_and_without_flags(f"{name}.{kind}{index}.{width}", body)
            for name in ("bsf", "bsr", "tzcnt", "lzcnt", "popcnt"):
                yield from with_and_without_flags(f"{name}.{kind}.{width}", partial(scan, name=name, kind=kind, width=width))
            if width >= 32:
                for name in ("andn", "blsi", "blsmsk", "blsr", "bextr", "bzhi", "pdep", "pext"):
                    yield from with_and_without_flags(f"{name}.{kind}.{width}", partial(field, name=name, kind=kind, width=width))
                yield Form(f"mulx.{kind}.{width}", partial(mulx, kind=kind, width=width))
        for address_width in (16, 32, 64):
            for segment in (False, True):
                body = partial(bit_address, width=width, address_width=address_width, segment=segment)
                yield Form(f"bit_address{'.seg' * segment}.{width}.{address_width}", body)
        yield Form(f"bswap.{width}", partial(bswap, width=width))
        for to_register in (False, True):
            yield Form(f"movbe.{'load' if to_register else 'store'}.{width}", partial(movbe, width=width, to_register=to_register))
    for kind in "RT":
        for width in (8, 16, 32, 64):
            yield Form(f"crc32.{kind}.{width}", partial(crc32, kind=kind, width=width))
