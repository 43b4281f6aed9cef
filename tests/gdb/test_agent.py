"""Agent expressions: every operation against plain arithmetic, and expressions that must be refused."""

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapgate.gdb.agent import AgentError, evaluate

MASK = (1 << 64) - 1
WORDS = st.one_of(st.integers(0, MASK), st.sampled_from([0, 1, 2, 63, 64, MASK, 1 << 63]))


def run(code: bytes) -> int:
    """An expression over registers of value 100h + number, and memory that counts up from 0 to FFh, mapped below 1000h."""
    return evaluate(code, lambda index: 0x100 + index, lambda at, size: bytes(x & 0xFF for x in range(at, min(at + size, 0x1000))))


def const(value: int) -> bytes:
    return b"\x25" + value.to_bytes(8, "big")


def signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


BINARY: dict[int, Callable[[int, int], int]] = {
    0x02: lambda a, b: a + b,
    0x03: lambda a, b: a - b,
    0x04: lambda a, b: a * b,
    0x09: lambda a, b: a << b if b < 64 else 0,
    0x0A: lambda a, b: signed(a) >> b if b < 64 else -(a >> 63),
    0x0B: lambda a, b: a >> b if b < 64 else 0,
    0x0F: lambda a, b: a & b,
    0x10: lambda a, b: a | b,
    0x11: lambda a, b: a ^ b,
    0x13: lambda a, b: a == b,
    0x14: lambda a, b: signed(a) < signed(b),
    0x15: lambda a, b: a < b,
}


@given(st.sampled_from(sorted(BINARY)), WORDS, WORDS)
def test_binary(opcode: int, a: int, b: int) -> None:
    assert run(const(a) + const(b) + bytes((opcode, 0x27))) == int(BINARY[opcode](a, b)) & MASK


@pytest.mark.parametrize(("a", "b", "quotient", "rest"), [(7, 2, 3, 1), (-7, 2, -3, -1), (7, -2, -3, 1), (-7, -2, 3, -1)])
def test_signed_division_rounds_to_zero(a: int, b: int, quotient: int, rest: int) -> None:
    operands = const(a & MASK) + const(b & MASK)
    assert run(operands + b"\x05\x27") == quotient & MASK
    assert run(operands + b"\x07\x27") == rest & MASK


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("2205 27", 5),
        ("231234 27", 0x1234),
        ("2412345678 27", 0x12345678),
        ("260007 27", 0x107),
        ("2210 17 27", 0x10),
        ("2210 18 27", 0x1110),
        ("2210 19 27", 0x13121110),
        ("2210 1a 27", 0x1716151413121110),
        ("2280 1608 27", MASK - 0x7F),
        ("23ffff 2a08 27", 0xFF),
        ("2200 0e 27", 1),
        ("2205 0e 27", 0),
        ("2200 12 27", MASK),
        ("2207 2202 06 27", 3),
        ("2207 2202 08 27", 1),
        ("2203 28 04 27", 9),
        ("2203 2204 29 27", 3),
        ("2203 2204 2b 03 27", 1),
        ("2203 2204 3201 27", 3),
        ("2201 2202 2203 33 27", 2),
        ("2200 200008 2202 27 2203 27", 2),
        ("2201 200008 2202 27 2203 27", 3),
        ("210005 2201 2209 27", 9),
    ],
)
def test_operations(code: str, value: int) -> None:
    assert run(bytes.fromhex(code)) == value


REFUSED = """
-; 22; 27; 2201; 02 27; 2201 02 27; 00; ff; 2201 2200 05 27; 2201 2200 08 27; 210000; 2201 28 210002; 23fffe 1a 27; 26;
2201 3205 27; 2201 1600 27; 2201 2b 27; 2101ff; 0c; 1b
"""


@pytest.mark.parametrize("code", [code.strip(" -\n") for code in REFUSED.split(";")])
def test_refused(code: str) -> None:
    with pytest.raises(AgentError):
        run(bytes.fromhex(code))


@given(st.binary(max_size=60))
def test_anything_ends(code: bytes) -> None:
    with contextlib.suppress(AgentError):
        assert 0 <= run(code) <= MASK
