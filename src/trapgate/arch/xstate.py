"""Holds THE table of the XSAVE area: its components, and where each register lies in them and in the CPU state, in bytes.

Whoever saves, restores, sizes or shows x87, MXCSR and vector registers reads it: native bodies, their exact ones, CPUID leaf 0Dh,
KVM's area, a debugger's names. Sources: SDM vol. 1, 10.5.1 (table 10-2) and 13.1-13.6; APM vol. 2, 11.5.

The x87 registers of the CPU state are an image of the legacy region (`IMAGE`), at the same offsets; a vector register is a field of
its own. A register that is longer than 16 bytes is in parts: YMM0 is `xmm0` and, above it, `ymm0h`.
"""

from collections.abc import Callable, Mapping, MutableSequence, Sized
from typing import NamedTuple

from trapgate.values import dataclass

LEGACY_BYTES = 512  # what FXSAVE stores
XSTATE_BV = 512  # the header: which components the area has
XCOMP_BV = 520  # and, in the compacted format, which it has room for
RESERVED = 528  # 0 up to the end of the header
HEADER_END = 576
COMPACTED = 1 << 63  # in XCOMP_BV
ALIGNMENT = 64  # of the area, and of components in the compacted format that ask for it
COMPACTED_RESERVED = range(RESERVED + 8, HEADER_END, 8)  # only XRSTOR of the compacted format looks at these

INITIAL_FCW, INITIAL_MXCSR = 0x37F, 0x1F80  # of the initial configuration (SDM vol. 1, 13.6)
MXCSR_MASK = 0xFFFF  # the bits that MXCSR has

IMAGE = "fxsave"  # the field of the CPU state with the x87 registers


class Place(NamedTuple):
    """Where a register lies: in the standard format of the area, and in a field of the CPU state."""

    offset: int
    size: int
    field: str
    within: int = 0


@dataclass(frozen=True, slots=True)
class Component:
    """What XSAVE saves under one bit of XCR0 (or of IA32_XSS: `supervisor`), on CPUs with `feature`.

    `offset` is that of the standard format. In the compacted one a component lies behind the one before it, and `aligned` says
    whether from the next 64-byte boundary on. x87 and SSE share the legacy region, in both formats.
    """

    number: int
    name: str
    feature: str
    offset: int
    size: int
    registers: Mapping[str, Place]
    aligned: bool = False
    supervisor: bool = False

    @property
    def bit(self) -> int:
        """Its bit in XCR0, IA32_XSS, XSTATE_BV and XCOMP_BV."""
        return 1 << self.number

    @property
    def extended(self) -> bool:
        """Whether it lies behind the header."""
        return self.offset >= HEADER_END


def _image(offset: int, size: int) -> Place:
    return Place(offset, size, IMAGE, offset)


def _x87() -> dict[str, Place]:
    words = {"fctrl": (0, 2), "fstat": (2, 2), "fop": (6, 2), "fioff": (8, 4), "fiseg": (12, 2), "fooff": (16, 4), "foseg": (20, 2)}
    stack = {f"st{n}": (32 + 16 * n, 10) for n in range(8)}
    return {name: _image(*place) for name, place in (words | stack).items()}


def _vectors(name: str, offset: int) -> dict[str, Place]:
    """Sixteen registers, or parts, of 16 bytes."""
    return {name.format(n): Place(offset + 16 * n, 16, name.format(n)) for n in range(16)}


X87 = Component(0, "x87", "fpu", 0, 160, _x87())
SSE = Component(1, "SSE", "sse", 160, 256, _vectors("xmm{}", 160))
AVX = Component(2, "AVX", "avx", HEADER_END, 256, _vectors("ymm{}h", HEADER_END))
COMPONENTS = (X87, SSE, AVX)
LEGACY = X87.bit | SSE.bit

MXCSR = Place(24, 4, "guest_mxcsr")  # of SSE and AVX alike; behind it the mask of the bits that it has
FCW, FSW, FOP = (X87.registers[name] for name in ("fctrl", "fstat", "fop"))
FTW = _image(4, 1)  # the abridged tag word
FIP, FDP = _image(8, 8), _image(16, 8)  # as XSAVE64 has them; else they have 32 bits, with a selector behind them
ST0, XMM0 = X87.registers["st0"].offset, SSE.offset
VECTORS = dict(SSE.registers) | dict(AVX.registers)
PLACES: dict[str, Place] = {"mxcsr": MXCSR} | {name: place for one in COMPONENTS for name, place in one.registers.items()}

Has = Callable[[str], bool]


def user_mask(has: Has) -> int:
    """The bits that XCR0 may have on a CPU with these features."""
    return sum(one.bit for one in COMPONENTS if has(one.feature) and not one.supervisor)


ALL = user_mask(lambda feature: True)


def standard_size(components: int) -> int:
    """Bytes of an area in the standard format that holds these components."""
    return max([HEADER_END, *(one.offset + one.size for one in COMPONENTS if one.bit & components)])


def compacted_offsets(components: int) -> dict[int, int]:
    """Where the components of a compacted area lie behind its header, by number; `components` is XCOMP_BV (SDM vol. 1, 13.4.3)."""
    offsets, end = dict[int, int](), HEADER_END
    for one in COMPONENTS:
        if one.extended and one.bit & components:
            offsets[one.number] = start = -(-end // ALIGNMENT) * ALIGNMENT if one.aligned else end
            end = start + one.size
    return offsets


def compacted_size(components: int) -> int:
    """Bytes of a compacted area with room for these components."""
    return max([HEADER_END, *(at + COMPONENTS[number].size for number, at in compacted_offsets(components).items())])


def components_of(register: str) -> int:
    """The components that must be in use for a register to have a value of its own; x87 and SSE, which share a region, always."""
    return LEGACY | sum(one.bit for one in COMPONENTS if register in one.registers)


def read(area: bytes | bytearray, register: str) -> int:
    """A register out of an area in the standard format, or out of the x87 image; KeyError for what is not in it."""
    if register == "ftag":
        return _full_tags(area)
    place = _place(area, register)
    return int.from_bytes(area[place.offset : place.offset + place.size], "little")


def write(area: MutableSequence[int], register: str, value: int) -> None:
    """Put a register there, cut to its width; KeyError for what is not in it."""
    if register == "ftag":
        area[FTW.offset] = sum((value >> 2 * n & 3 != 3) << n for n in range(8))
        return
    at, size, *_ = _place(area, register)
    area[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")


def check_mxcsr(value: int) -> int:
    """A value for MXCSR; ValueError where it has bits that MXCSR has not."""
    if value & ~MXCSR_MASK:
        raise ValueError(f"MXCSR {value:#x} has reserved bits")
    return value


def _place(area: Sized, register: str) -> Place:
    place = PLACES.get(register)
    if place is None or place.offset + place.size > len(area):
        raise KeyError(f"no register is called {register!r}")
    return place


def _full_tags(image: bytes | bytearray) -> int:
    """The tag word of FSTENV from the abridged one: 0 valid, 1 zero, 2 special, 3 empty, by physical register."""
    top = image[FSW.offset + 1] >> 3 & 7
    word = 0
    for physical in range(8):
        register = read(image, f"st{physical - top & 7}")
        mantissa, exponent = register & (1 << 64) - 1, register >> 64 & 0x7FFF
        if not image[FTW.offset] >> physical & 1:
            tag = 3
        elif not mantissa and not exponent:
            tag = 1
        else:
            tag = 2 if exponent in (0, 0x7FFF) or not mantissa >> 63 else 0
        word |= tag << 2 * physical
    return word
