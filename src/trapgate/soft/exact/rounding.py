"""Tells whether an SSE result would be exact if exponents had no bounds: then PE stays clear beside an unmasked overflow.

A masked overflow or underflow is always reported as inexact, so the flags of a masked run cannot tell (SDM vol. 1, 4.9.1.5: the
unmasked response scales the exponent and rounds the significand only).
"""

from collections.abc import Callable, Sequence
from fractions import Fraction

MANTISSA, BIAS = {2: 10, 4: 23, 8: 52}, {2: 15, 4: 127, 8: 1023}
_TWO: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
}


def exact(name: str, destination: bytes, source: bytes, flush: bool) -> bool | None:
    """Whether every element of an operation (`addps`, `mulsd`, `cvtsd2ss`...) on two operands of 16 or 32 bytes is exact.

    None where that is not known here. `flush`: denormal operands count as 0 (MXCSR.DAZ).
    """
    if name in ("cvtsd2ss", "cvtpd2ps"):
        values = [_value(source, at, 8, flush) for at in range(0, 8 if name == "cvtsd2ss" else len(source), 8)]
        return all(v is None or _fits(v, MANTISSA[4] + 1) for v in values)
    operation, kind = name[:-2], name[-2:]
    if kind not in ("ps", "pd", "ss", "sd"):
        return None
    size = 4 if kind[1] == "s" else 8
    places = range(0, len(source) if kind[0] == "p" else size, size)
    steps: list[tuple[str, bytes, int, bytes, int]]  # operation, where its operands lie
    if operation in _TWO:
        steps = [(operation, destination, at, source, at) for at in places]
    elif operation == "addsub":
        steps = [(("sub", "add")[at // size & 1], destination, at, source, at) for at in places]
    elif operation in ("hadd", "hsub"):
        steps = [(operation[1:], both, at, both, at + size) for both in (destination, source) for at in places[::2]]
    else:
        return None
    results = (_result(name, _value(one, at, size, flush), _value(two, to, size, flush)) for name, one, at, two, to in steps)
    return all(value is None or _fits(value, MANTISSA[size] + 1) for value in results)


def exact_vex(name: str, operands: Sequence[bytes], flush: bool) -> bool | None:
    """The same of an instruction with a destination beside its sources (its name without the V); FMA's count all three."""
    if name.startswith(("fm", "fnm")):
        return _exact_fused(name, operands, flush)
    if name == "cvtps2ph":
        values = [_value(operands[1], at, 4, flush) for at in range(0, len(operands[1]), 4)]
        return all(v is None or _fits(v, MANTISSA[2] + 1) for v in values)
    return exact(name, operands[-2], operands[-1], flush)


def _exact_fused(name: str, operands: Sequence[bytes], flush: bool) -> bool:
    """FMA: `vfmadd132ps` multiplies operands 1 and 3 and adds 2, and so on; whether it adds or subtracts makes no difference here
    but for the sign of the sum, which is that of one of the two."""
    order, kind = name[-5:-2], name[-2:]
    first, second, addend = (operands[int(digit) - 1] for digit in order)
    size = 4 if kind[1] == "s" else 8
    for at in range(0, len(first) if kind[0] == "p" else size, size):
        a, b, c = (_value(one, at, size, flush) for one in (first, second, addend))
        subtracts = "sub" in name if "addsub" not in name and "subadd" not in name else (at // size & 1) == ("subadd" in name)
        if a is not None and b is not None and c is not None:
            product = -a * b if name.startswith("fn") else a * b
            if not _fits(product - c if subtracts else product + c, MANTISSA[size] + 1):
                return False
    return True


def any_denormal(data: bytes, size: int, length: int) -> bool:
    """Whether one of the numbers of `size` bytes in the first `length` bytes is denormal and not 0."""
    digits = MANTISSA[size]
    values = (int.from_bytes(data[at : at + size], "little") & (1 << 8 * size - 1) - 1 for at in range(0, length, size))
    return any(value and not value >> digits for value in values)


def _result(operation: str, a: Fraction | None, b: Fraction | None) -> Fraction | None:
    """None where an operand is none, or the divisor 0."""
    if a is None or b is None or (operation == "div" and b == 0):
        return None
    return _TWO[operation](a, b)


def _value(data: bytes, at: int, size: int, flush: bool) -> Fraction | None:
    """A finite number; None for infinities and NaNs."""
    bits = int.from_bytes(data[at : at + size], "little")
    digits = MANTISSA[size]
    exponent, fraction = bits >> digits & 2 * BIAS[size] + 1, bits & (1 << digits) - 1
    if exponent == 2 * BIAS[size] + 1:
        return None
    if exponent == 0:
        exponent, fraction = 1, 0 if flush else fraction
    else:
        fraction |= 1 << digits
    scale = exponent - BIAS[size] - digits
    value = Fraction(fraction << scale) if scale >= 0 else Fraction(fraction, 1 << -scale)
    return -value if bits >> 8 * size - 1 else value


def _fits(value: Fraction, digits: int) -> bool:
    """Whether a number has a significand of so many bits."""
    top, bottom = abs(value.numerator), value.denominator
    if bottom & bottom - 1:
        return False
    return top == 0 or (top // (top & -top)).bit_length() <= digits
