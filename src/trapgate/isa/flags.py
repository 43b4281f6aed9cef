"""Works out the six status flags: how operations leave them behind, and what conditions make of them.

CF, OF and AF follow from the *carry vector* of an addition or subtraction (bit n: carry or borrow out of bit n); ZF, SF and PF
from the result. Both are stored, nothing is computed until somebody asks: see `isa.state` for the format. A body whose flags
nobody reads (`trace.memo["dead_flags"]`) stores nothing. Where setter and condition meet in one trace, the condition looks at the
operands.
"""

from trapgate.arch.flags import AF, CF, OF, PF, SF, ZF
from trapgate.isa.vocabulary import Operand, Trace, Value

STATUS = CF | PF | AF | ZF | SF | OF
CONDITIONS = ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")


def dead(m: Trace) -> bool:
    """Whether this trace is the variant whose flags nobody reads."""
    return bool(m.memo.get("dead_flags"))


def _put(m: Trace, result: Value, aux: Value) -> None:
    m.put("flag_result", result.sext(64))
    m.put("flag_aux", aux)


def after_carries(m: Trace, result: Value, carries: Value) -> None:
    """Flags of a sum or difference with this carry vector."""
    width = result.width
    _put(m, result, (carries >> (width - 2)).zext(64) | (carries & 8).zext(64))


def after_add(m: Trace, a: Value, b: Value, result: Value) -> None:
    """Flags of result = a + b (+ carry)."""
    m.memo["flags"] = ("add", a, b, result)
    if not dead(m):
        after_carries(m, result, (a & b) | ((a | b) & ~result))


def after_sub(m: Trace, a: Value, b: Value, result: Value, borrow: bool = False) -> None:
    """Flags of result = a - b (- borrow)."""
    m.memo["flags"] = ("sbb" if borrow else "sub", a, b, result)
    if not dead(m):
        after_carries(m, result, (~a & b) | ((~a | b) & result))


def after_logic(m: Trace, result: Value) -> None:
    """Flags of a bitwise operation: CF = OF = 0; AF (undefined) = 0."""
    m.memo["flags"] = ("logic", result)
    if not dead(m):
        _put(m, result, m.const(0, 64))


def after_step(m: Trace, a: Value, result: Value, down: bool) -> None:
    """Flags of INC and DEC: as for adding or subtracting 1, but CF stays."""
    if dead(m):
        return
    carries = (~a & result) if down else (a & ~result)
    width = result.width
    old = m.get("flag_aux", 64) & 2
    overflow = ((carries >> (width - 1)) ^ (carries >> (width - 2))).zext(64) & 1
    _put(m, result, old | ((old >> 1) ^ overflow) | (carries & 8).zext(64))


def after_result(m: Trace, result: Value, carry: Value, overflow: Value) -> None:
    """ZF, SF and PF of the result, CF and OF as given (1-bit values), AF (undefined) = 0."""
    if not dead(m):
        _put(m, result, (carry.zext(64) << 1) | (carry ^ overflow).zext(64))


def keep_unless(m: Trace, changed: Value) -> None:
    """Undo: what was stored since `remember` holds only where `changed`."""
    if not dead(m):
        result, aux = m.memo["old_flags"]
        m.put("flag_result", changed.select(m.get("flag_result", 64), result))
        m.put("flag_aux", changed.select(m.get("flag_aux", 64), aux))


def remember(m: Trace) -> None:
    """Before an operation that may leave the flags alone (a shift by 0)."""
    if not dead(m):
        m.memo["old_flags"] = (m.get("flag_result", 64), m.get("flag_aux", 64))


def carry(m: Trace) -> Value:
    """CF as a 1-bit value."""
    return m.get("flag_aux", 64).bit(1)


def set_carry(m: Trace, value: Value) -> None:
    """CF alone changes; the other five stay."""
    if not dead(m):
        aux = m.get("flag_aux", 64)
        overflow = (aux ^ (aux >> 1)) & 1
        new = value.zext(64)
        m.put("flag_aux", (aux & ~m.const(3, 64)) | (new << 1) | (new ^ overflow))


def set_overflow(m: Trace, value: Value) -> None:
    """OF alone changes."""
    if not dead(m):
        aux = m.get("flag_aux", 64)
        m.put("flag_aux", (aux & ~m.const(1, 64)) | (((aux >> 1) & 1) ^ value.zext(64)))


def set_zero(m: Trace, value: Value) -> None:
    """ZF alone changes (CMPXCHG8B and its like)."""
    bits = read(m)
    write(m, (bits & ~m.const(ZF, 64)) | (value.zext(64) << 6))


def set_zero_carry(m: Trace, zero: Value, carry_out: Value) -> None:
    """ZF and CF as given, all others (undefined) 0, PF included: BSF, LZCNT, PTEST and their like."""
    if not dead(m):
        write(m, (zero.zext(64) << 6) | carry_out.zext(64))


def read(m: Trace) -> Value:
    """The six flags in their RFLAGS places, 64 bits."""
    result, aux = m.get("flag_result", 64), m.get("flag_aux", 64)
    parity = ((result ^ (aux >> 8)) & 0xFF).popcount() & 1
    bits = (aux >> 1) & 1
    bits = bits | ((parity ^ 1) << 2) | ((aux & 8) << 1) | ((result == 0).zext(64) << 6)
    bits = bits | (((result >> 63) ^ ((aux >> 2) & 1)) << 7)
    return bits | (((aux ^ (aux >> 1)) & 1) << 11)


def write(m: Trace, bits: Value) -> None:
    """Set all six from their RFLAGS places."""
    zero, parity, sign = (bits >> 6) & 1, (bits >> 2) & 1, (bits >> 7) & 1
    carry_, overflow, adjust = bits & 1, (bits >> 11) & 1, (bits >> 4) & 1
    m.put("flag_result", zero ^ 1)
    m.put("flag_aux", (carry_ ^ overflow) | (carry_ << 1) | (sign << 2) | (adjust << 3) | ((zero ^ parity) << 8))


def condition(m: Trace, code: int) -> Value:
    """Condition `code` (0-15, as in Jcc's opcode; SDM vol. 1, appendix B) as a 1-bit value."""
    positive = _positive(m, code & ~1)
    return ~positive if code & 1 else positive


def _positive(m: Trace, code: int) -> Value:
    known = m.memo.get("flags")
    if known is not None:
        found = _from_operands(m, code, known)
        if found is not None:
            return found
    result, aux = m.get("flag_result", 64), m.get("flag_aux", 64)

    def sign() -> Value:
        return ((result >> 63) ^ (aux >> 2)).trunc(1)

    def overflow() -> Value:
        return (aux ^ (aux >> 1)).trunc(1)

    match code:
        case 0:
            return overflow()
        case 2:
            return aux.bit(1)
        case 4:
            return result == 0
        case 6:
            return aux.bit(1) | (result == 0)
        case 8:
            return sign()
        case 10:
            return ((result ^ (aux >> 8)) & 0xFF).popcount().trunc(1) ^ 1
        case 12:
            return sign() ^ overflow()
        case _:
            return (sign() ^ overflow()) | (result == 0)


def _from_operands(m: Trace, code: int, known: tuple[str | Value, ...]) -> Value | None:
    """The condition straight from the operands of the setter in the same trace, or None where that is no shorter."""
    kind, result = known[0], known[-1]
    assert isinstance(result, Value)
    if code == 4:
        return result == 0
    if code == 8:
        return result.sign
    if kind == "logic":
        zero: Operand = m.const(0, 1)
        assert isinstance(zero, Value)
        return {0: zero, 2: zero, 6: result == 0, 12: result.sign, 14: result.sle(0)}.get(code)
    a, b = known[1], known[2]
    assert isinstance(a, Value) and isinstance(b, Value)
    if kind == "sub":
        return {2: a.ult(b), 6: a.ule(b), 12: a.slt(b), 14: a.sle(b)}.get(code)
    return None
