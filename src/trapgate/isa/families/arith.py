"""Adds, subtracts, compares, multiplies, divides, and operates on bits; compare-and-branch in one (SDM vol. 2)."""

from collections.abc import Callable, Iterator
from functools import partial

from trapgate.isa import flags
from trapgate.isa.forms import Form, with_and_without_flags
from trapgate.isa.operands import fetch, store
from trapgate.isa.vocabulary import Trace, Value

WIDTHS = (8, 16, 32, 64)
PAIRS = ("RR", "RI", "RT", "TR", "TI")  # destination and source


def add(m: Trace, a: Value, b: Value) -> Value:
    """ADD, XADD."""
    result = a + b
    flags.after_add(m, a, b, result)
    return result


def adc(m: Trace, a: Value, b: Value) -> Value:
    """ADC."""
    result = a + b + flags.carry(m).zext(a.width)
    flags.after_add(m, a, b, result)
    return result


def sub(m: Trace, a: Value, b: Value) -> Value:
    """SUB, CMP, NEG (0 - a)."""
    result = a - b
    flags.after_sub(m, a, b, result)
    return result


def sbb(m: Trace, a: Value, b: Value) -> Value:
    """SBB."""
    result = a - b - flags.carry(m).zext(a.width)
    flags.after_sub(m, a, b, result, borrow=True)
    return result


def _logic(m: Trace, result: Value) -> Value:
    flags.after_logic(m, result)
    return result


def and_(m: Trace, a: Value, b: Value) -> Value:
    """AND, TEST."""
    return _logic(m, a & b)


def or_(m: Trace, a: Value, b: Value) -> Value:
    """OR."""
    return _logic(m, a | b)


def xor(m: Trace, a: Value, b: Value) -> Value:
    """XOR."""
    return _logic(m, a ^ b)


BINARY: dict[str, Callable[[Trace, Value, Value], Value]] = {
    "add": add, "adc": adc, "sub": sub, "sbb": sbb, "and": and_, "or": or_, "xor": xor,
}  # fmt: skip
COMPARING = {"cmp": sub, "test": and_}
FUSED = {"cmp": sub, "test": and_, "sub": sub, "add": add, "and": and_}  # with the Jcc behind them


def inc(m: Trace, a: Value) -> Value:
    """INC."""
    result = a + 1
    flags.after_step(m, a, result, down=False)
    return result


def dec(m: Trace, a: Value) -> Value:
    """DEC."""
    result = a - 1
    flags.after_step(m, a, result, down=True)
    return result


def neg(m: Trace, a: Value) -> Value:
    """NEG."""
    return sub(m, m.const(0, a.width), a)


def not_(m: Trace, a: Value) -> Value:
    """NOT: no flags."""
    return ~a


UNARY: dict[str, Callable[[Trace, Value], Value]] = {"inc": inc, "dec": dec, "neg": neg, "not": not_}


def binary(m: Trace, operation: Callable[[Trace, Value, Value], Value], kinds: str, width: int, writes: bool) -> None:
    """destination = operation(destination, source)."""
    a, b = fetch(m, kinds[0], 0, width), fetch(m, kinds[1], 1, width)
    result = operation(m, a, b)
    if writes:
        store(m, kinds[0], 0, result)
    m.jump("NEXT")


def unary(m: Trace, operation: Callable[[Trace, Value], Value], kind: str, width: int) -> None:
    """destination = operation(destination)."""
    store(m, kind, 0, operation(m, fetch(m, kind, 0, width)))
    m.jump("NEXT")


def fused(m: Trace, operation: Callable[[Trace, Value, Value], Value], kinds: str, width: int, code: int, writes: bool) -> None:
    """An operation and the conditional branch behind it."""
    a, b = fetch(m, kinds[0], 0, width), fetch(m, kinds[1], 1, width)
    result = operation(m, a, b)
    if writes:
        store(m, kinds[0], 0, result)
    with m.when(flags.condition(m, code)):
        m.jump("TAKEN")
    m.jump("NEXT")


def xadd(m: Trace, kind: str, width: int) -> None:
    """XADD: the old destination goes to the source register; with memory by `register_from_t1`, when the sum is stored."""
    a, b = fetch(m, kind, 0, width), m.get("R1", width)
    result = add(m, a, b)
    m["T1"] = a.zext(64)
    if kind == "T":
        store(m, kind, 0, result)
    if kind == "R":
        m.put("R1", a.zext(64) if width == 32 else a)
        store(m, kind, 0, result)
    m.jump("NEXT")


def register_from_t1(m: Trace, width: int) -> None:
    """R0 = T1: the register half of XADD and XCHG with memory."""
    value = m["T1"].trunc(width)
    m.put("R0", value.zext(64) if width == 32 else value)
    m.jump("NEXT")


def cmpxchg(m: Trace, kind: str, width: int) -> None:
    """CMPXCHG: RAX equal to the destination: destination = R1, else RAX = destination. The destination is always written."""
    a, accumulator, source = fetch(m, kind, 0, width), m.get("rax", width), m.get("R1", width)
    sub(m, accumulator, a)
    equal = accumulator == a
    # an upper half of EAX or of the destination register is cleared only in the register that is written
    if kind == "R":
        if width == 32:
            m.put("rax", equal.select(m.get("rax", 64), a.zext(64)))
            m.put("R0", equal.select(source.zext(64), m.get("R0", 64)))
        else:
            m.put("rax", equal.select(accumulator, a))
            m.put("R0", equal.select(source, m.get("R0", width)))
    else:
        if width == 32:
            m.put("rax", equal.select(m.get("rax", 64), a.zext(64)))
        else:
            m.put("rax", equal.select(accumulator, a))
        m["T0"] = equal.select(source, a).zext(64)
    m.jump("NEXT")


def cmpxchg8b(m: Trace) -> None:
    """CMPXCHG8B: EDX:EAX equal to T0: T0 = ECX:EBX, else EDX:EAX = T0. ZF alone changes; the destination is always written."""
    old = m["T0"]
    equal = old == (m.get("rdx", 32).zext(64) << 32) | m.get("rax", 32).zext(64)
    m["T0"] = equal.select((m.get("rcx", 32).zext(64) << 32) | m.get("rbx", 32).zext(64), old)
    m.put("rax", equal.select(m.get("rax", 64), old & 0xFFFFFFFF))
    m.put("rdx", equal.select(m.get("rdx", 64), old >> 32))
    flags.set_zero(m, equal)
    m.jump("NEXT")


def cmpxchg16b(m: Trace) -> None:
    """CMPXCHG16B at HOST: as CMPXCHG8B with 64-bit halves."""
    low, high = m["HOST"], m["HOST"] + 8
    old_low, old_high, rax, rdx = m.load(low, 64), m.load(high, 64), m.get("rax", 64), m.get("rdx", 64)
    equal = (old_low == rax) & (old_high == rdx)
    m.store(low, equal.select(m.get("rbx", 64), old_low))
    m.store(high, equal.select(m.get("rcx", 64), old_high))
    m.put("rax", old_low)
    m.put("rdx", old_high)
    flags.set_zero(m, equal)
    m.jump("NEXT")


def mul_imm(m: Trace, a: Value, b: Value) -> Value:
    """IMUL with two and three operands: CF = OF = the product does not fit."""
    width = a.width
    wide = a.sext(2 * width) * b.sext(2 * width)
    result = wide.trunc(width)
    lost = wide != result.sext(2 * width)
    flags.after_result(m, result, lost, lost)
    return result


def imul2(m: Trace, kinds: str, width: int) -> None:
    """IMUL r, r/m."""
    store(m, "R", 0, mul_imm(m, m.get("R0", width), fetch(m, kinds[1], 1, width)))
    m.jump("NEXT")


def imul3(m: Trace, kind: str, width: int) -> None:
    """IMUL r, r/m, imm."""
    source = m.get("R1", width) if kind == "R" else m["T0"].trunc(width)
    store(m, "R", 0, mul_imm(m, source, fetch(m, "I", 0, width)))
    m.jump("NEXT")


def mul1(m: Trace, kind: str, width: int, signed: bool) -> None:
    """MUL and IMUL with one operand: (R)DX:(R)AX = (R)AX * source (AX for bytes)."""
    source, accumulator = fetch(m, kind, 1, width), m.get("rax", width)

    def widen(value: Value) -> Value:
        return value.sext(2 * width) if signed else value.zext(2 * width)

    wide = widen(accumulator) * widen(source)
    low, high = wide.trunc(width), (wide >> width).trunc(width)
    lost = wide != widen(low)
    flags.after_result(m, low, lost, lost)
    if width == 8:
        m.put("rax", wide)
    else:
        m.put("rax", low.zext(64) if width == 32 else low)
        m.put("rdx", high.zext(64) if width == 32 else high)
    m.jump("NEXT")


def divide(m: Trace, kind: str, width: int, signed: bool) -> None:
    """DIV and IDIV; #DE when the divisor is 0 or the quotient does not fit. Flags (undefined) stay."""
    source = fetch(m, kind, 1, width)
    if width == 8:
        high, low = (m.get("rax", 16) >> 8).trunc(8), m.get("rax", 8)
    else:
        high, low = m.get("rdx", width), m.get("rax", width)
    negative_dividend, negative_divisor = high.sign, source.sign
    if signed:
        divisor = negative_divisor.select(-source, source)
        negated_low = -low
        borrow = (low != 0).zext(width)
        high_size = negative_dividend.select(-high - borrow, high)
        low_size = negative_dividend.select(negated_low, low)
    else:
        divisor, high_size, low_size = source, high, low
    with m.when(divisor.ule(high_size), likely=False):  # the quotient has more than `width` bits, or the divisor is 0
        m.cold("raise_de")
    if width == 64:
        quotient = m.asm("divq $4", "={ax},={dx},0,1,r,~{flags}", 64, low_size, high_size, divisor)
        remainder = low_size - quotient * divisor
    else:
        wide = (high_size.zext(64) << width) | low_size.zext(64)
        full = m.emit("udiv", 64, wide, divisor.zext(64))
        quotient = full.trunc(width)
        remainder = (wide - full * divisor.zext(64)).trunc(width)
    if signed:
        negative = negative_dividend ^ negative_divisor
        limit = m.const(1 << (width - 1), width)
        with m.when(negative.select(quotient.ugt(limit), quotient.uge(limit)), likely=False):
            m.cold("raise_de")
        quotient = negative.select(-quotient, quotient)
        remainder = negative_dividend.select(-remainder, remainder)
    if width == 8:
        m.put("rax", quotient.zext(16) | (remainder.zext(16) << 8))
    else:
        m.put("rax", quotient.zext(64) if width == 32 else quotient)
        m.put("rdx", remainder.zext(64) if width == 32 else remainder)
    m.jump("NEXT")


def add_carry_chain(m: Trace, kind: str, width: int, overflow: bool) -> None:
    """ADCX and ADOX: an addition whose carry in and out is CF (or OF) alone."""
    a, b = m.get("R0", width), fetch(m, kind, 1, width)
    bits = m.get("flag_aux", 64)
    carry_in = (bits ^ (bits >> 1)).trunc(1) if overflow else bits.bit(1)
    wide = a.zext(2 * width) + b.zext(2 * width) + carry_in.zext(2 * width)
    carry_out = wide.bit(width)
    if overflow:
        flags.set_overflow(m, carry_out)
    else:
        flags.set_carry(m, carry_out)
    store(m, "R", 0, wide.trunc(width))
    m.jump("NEXT")


def forms() -> Iterator[Form]:
    """Every stencil of this family."""
    for width in WIDTHS:
        for kinds in PAIRS:
            for name, operation in BINARY.items():
                body = partial(binary, operation=operation, kinds=kinds, width=width, writes=True)
                yield from with_and_without_flags(f"{name}.{kinds}.{width}", body)
            for name, operation in COMPARING.items():
                yield Form(f"{name}.{kinds}.{width}", partial(binary, operation=operation, kinds=kinds, width=width, writes=False))
            for name, operation in FUSED.items():
                writes = name not in COMPARING
                if writes and (width < 32 or kinds[0] == "T" or kinds == "RT"):
                    continue
                for code, condition in enumerate(flags.CONDITIONS):
                    body = partial(fused, operation=operation, kinds=kinds, width=width, code=code, writes=writes)
                    yield Form(f"{name}.{kinds}.{width}.j{condition}", body)
        for kind in "RT":
            for name, single in UNARY.items():
                body = partial(unary, operation=single, kind=kind, width=width)
                yield from with_and_without_flags(f"{name}.{kind}.{width}", body)
            yield Form(f"xadd.{kind}.{width}", partial(xadd, kind=kind, width=width))
            yield Form(f"cmpxchg.{kind}.{width}", partial(cmpxchg, kind=kind, width=width))
            for signed in (False, True):
                sign = "i" if signed else ""
                body = partial(mul1, kind=kind, width=width, signed=signed)
                yield from with_and_without_flags(f"{sign}mul1.{kind}.{width}", body)
                yield Form(f"{sign}div.{kind}.{width}", partial(divide, kind=kind, width=width, signed=signed))
            if width > 8:
                yield from with_and_without_flags(f"imul3.{kind}.{width}", partial(imul3, kind=kind, width=width))
                yield from with_and_without_flags(f"imul2.R{kind}.{width}", partial(imul2, kinds="R" + kind, width=width))
            if width >= 32:
                yield Form(f"adcx.{kind}.{width}", partial(add_carry_chain, kind=kind, width=width, overflow=False))
                yield Form(f"adox.{kind}.{width}", partial(add_carry_chain, kind=kind, width=width, overflow=True))
        yield Form(f"from_t1.{width}", partial(register_from_t1, width=width))
    yield Form("cmpxchg8b", cmpxchg8b)
    yield Form("cmpxchg16b", cmpxchg16b)
