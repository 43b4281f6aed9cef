"""x87 registers and MXCSR by name, out of the FXSAVE image that holds them while no translated code runs (SDM vol. 1, 10.5.1)."""

from trapgate.soft.exact import careful
from trapgate.soft.state.guest_cpu import GuestCpu

MXCSR_MASK = 0xFFFF
_WORDS = {"fctrl": (0, 2), "fstat": (2, 2), "fop": (6, 2), "fioff": (8, 4), "fiseg": (12, 2), "fooff": (16, 4), "foseg": (20, 2)}
_TAG = 4
_ST0 = 32


def get(cpu: GuestCpu, register: str) -> int:
    """mxcsr, st0-st7 (80 bits), fctrl, fstat, ftag (full tag word), fiseg, fioff, foseg, fooff, fop; KeyError for anything else."""
    if register == "mxcsr":
        return careful.get_mxcsr(cpu)
    image = bytes(cpu.state.fxsave)
    if register in _WORDS:
        at, size = _WORDS[register]
        return int.from_bytes(image[at : at + size], "little")
    if register == "ftag":
        return _full_tags(image)
    return int.from_bytes(image[(at := _stack(register)) : at + 10], "little")


def set_(cpu: GuestCpu, register: str, value: int) -> None:
    """Change one of them."""
    image = cpu.state.fxsave
    if register in _WORDS:
        at, size = _WORDS[register]
        image[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
    elif register == "ftag":
        image[_TAG] = sum((value >> 2 * n & 3 != 3) << n for n in range(8))
    else:
        at = _stack(register)
        image[at : at + 10] = (value & (1 << 80) - 1).to_bytes(10, "little")


def set_mxcsr(cpu: GuestCpu, value: int) -> None:
    """Change MXCSR; ValueError for reserved bits."""
    if value & ~MXCSR_MASK:
        raise ValueError(f"MXCSR {value:#x} has reserved bits")
    careful.set_mxcsr(cpu, value)


def _stack(register: str) -> int:
    if not (register.startswith("st") and register[2:].isdigit() and int(register[2:]) < 8):
        raise KeyError(f"no register is called {register!r}")
    return _ST0 + 16 * int(register[2:])


def _full_tags(image: bytes) -> int:
    """The tag word of FSTENV from the abridged one: 0 valid, 1 zero, 2 special, 3 empty, by physical register."""
    top = image[3] >> 3 & 7
    word = 0
    for physical in range(8):
        if not image[_TAG] >> physical & 1:
            tag = 3
        else:
            at = _ST0 + 16 * (physical - top & 7)
            mantissa, exponent = (
                int.from_bytes(image[at : at + 8], "little"),
                int.from_bytes(image[at + 8 : at + 10], "little") & 0x7FFF,
            )
            tag = 1 if not mantissa and not exponent else 2 if exponent in (0, 0x7FFF) or not mantissa >> 63 else 0
        word |= tag << 2 * physical
    return word
