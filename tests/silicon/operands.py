"""Operand values worth trying: the edges of each integer width and of each float format, mixed with random ones."""

import random
import struct
from collections.abc import Sequence
from functools import cache


@cache
def integer_edges(width: int) -> tuple[int, ...]:
    """Edge values of a width in bits, as unsigned numbers: zero, signs, extremes, powers of two and their neighbours, patterns."""
    mask = (1 << width) - 1
    values = [
        0,
        1,
        2,
        3,
        mask,
        mask - 1,
        1 << width - 1,
        (1 << width - 1) - 1,
        (1 << width - 1) + 1,
        10,
        0x55 * (mask // 255),
        0xAA * (mask // 255),
        0x0F * (mask // 255),
        0x0123_4567_89AB_CDEF & mask,
    ]
    for power in (3, 4, 5, 7, 8, 15, 16, 31, 32, 63, 64, 127):
        if power < width:
            values += [(1 << power) - 1, 1 << power, (1 << power) + 1, -(1 << power) & mask, ~(1 << power) & mask]
    return tuple(dict.fromkeys(values))


def integer(rng: random.Random, width: int) -> int:
    """An unsigned value of `width` bits: an edge, a random one, or a random one with few bits set."""
    choice = rng.random()
    if choice < 0.55:
        return pick(rng, integer_edges(width))
    if choice < 0.9:
        return rng.getrandbits(width)
    return rng.getrandbits(width) & rng.getrandbits(width) & rng.getrandbits(width)


def pick(rng: random.Random, values: Sequence[int]) -> int:
    """One of some values: `Random.choice` at a third of its price, for millions of operands."""
    return values[int(rng.random() * len(values))]


def _single(sign: int, exponent: int, fraction: int) -> int:
    return sign << 31 | exponent << 23 | fraction


def _double(sign: int, exponent: int, fraction: int) -> int:
    return sign << 63 | exponent << 52 | fraction


def _extended(sign: int, exponent: int, significand: int) -> int:
    return sign << 79 | exponent << 64 | significand


@cache
def float_edges(width: int) -> tuple[int, ...]:
    """Bit patterns of singles (32), doubles (64) or x87 extended reals (80): zeros, denormals, ones, extremes, infinities, NaNs
    quiet and signalling, rounding neighbours, and limits of the integer conversions; for 80 also pseudo-denormals and unnormals."""
    values: list[int] = []
    for sign in (0, 1):
        if width == 32:
            values += [
                _single(sign, e, f)
                for e, f in (
                    (0, 0),
                    (0, 1),
                    (0, 0x7FFFFF),
                    (1, 0),
                    (127, 0),
                    (127, 1),
                    (126, 0x7FFFFF),
                    (128, 0x400000),
                    (150, 1),
                    (157, 0x7FFFFF),
                    (158, 0),
                    (190, 0),
                    (254, 0x7FFFFF),
                    (255, 0),
                    (255, 0x400000),
                    (255, 0x400001),
                    (255, 1),
                    (255, 0x3FFFFF),
                    (126, 0),
                )
            ]
        elif width == 64:
            values += [
                _double(sign, e, f)
                for e, f in (
                    (0, 0),
                    (0, 1),
                    (0, (1 << 52) - 1),
                    (1, 0),
                    (1023, 0),
                    (1023, 1),
                    (1022, (1 << 52) - 1),
                    (1024, 1 << 51),
                    (897, 0),
                    (896, 1 << 28),
                    (1053, 0xFFFFFFFC00000),
                    (1054, 0),
                    (1086, 0),
                    (1085, (1 << 52) - 1),
                    (1150, (1 << 52) - 1),
                    (1151, 0),
                    (2046, (1 << 52) - 1),
                    (2047, 0),
                    (2047, 1 << 51),
                    (2047, (1 << 51) + 1),
                    (2047, 1),
                    (1022, 0),
                )
            ]
        else:
            one = 1 << 63
            values += [
                _extended(sign, e, f)
                for e, f in (
                    (0, 0),
                    (0, 1),
                    (0, one - 1),
                    (0, one),
                    (1, one),
                    (1, 1),
                    (16383, one),
                    (16383, one | 1),
                    (16382, 2 * one - 1),
                    (16384, 0xC90FDAA22168C235),
                    (16446, one),
                    (16445, 2 * one - 1),
                    (32766, 2 * one - 1),
                    (32767, one),
                    (32767, one | one >> 1),
                    (32767, one | 1),
                    (32767, 0),
                    (32767, 1),
                    (16400, 1),
                    (16382, one),
                )
            ]
    return tuple(values)


_SIZES = (4, 100_000, 10**30)  # of numbers, at most


def floating(rng: random.Random, width: int) -> int:
    """A bit pattern of `width` (32, 64, 80) bits: an edge, a number of moderate size, or random bits."""
    choice = rng.random()
    if choice < 0.45:
        return pick(rng, float_edges(width))
    if choice < 0.85:
        number = pick(rng, _SIZES) * (2 * rng.random() - 1)
        if choice < 0.55:
            number = float(int(number))
        if width == 80:
            return extended(number)
        return int.from_bytes(struct.pack("<f" if width == 32 else "<d", number), "little")
    return rng.getrandbits(width)


def extended(number: float) -> int:
    """A finite double as an 80-bit extended real (SDM vol. 1, 4.2.2); doubles that are denormal become zero."""
    bits = int.from_bytes(struct.pack("<d", number), "little")
    exponent = bits >> 52 & 0x7FF
    if exponent == 0:
        return _extended(bits >> 63, 0, 0)
    return _extended(bits >> 63, exponent - 1023 + 16383, 1 << 63 | (bits & (1 << 52) - 1) << 11)


def vector(rng: random.Random) -> int:
    """128 bits: four singles, two doubles, integers of one width, or noise."""
    kind = rng.getrandbits(2)
    if kind == 0:
        return sum(floating(rng, 32) << 32 * n for n in range(4))
    if kind == 1:
        return sum(floating(rng, 64) << 64 * n for n in range(2))
    if kind == 2:
        width = 8 << rng.getrandbits(2)
        return sum(integer(rng, width) << width * n for n in range(128 // width))
    return rng.getrandbits(128)
