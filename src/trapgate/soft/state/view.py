"""Shows Python the CPU state: a ctypes view of the struct that translated code works on (`isa.state` says what lies where)."""

import ctypes
from typing import TYPE_CHECKING, Any

from trapgate.arch.flags import AF, CF, OF, PF, SF, ZF
from trapgate.isa.state import LAYOUT, STATE_BYTES

STATUS = CF | PF | AF | ZF | SF | OF
_INTEGERS = {1: ctypes.c_uint8, 2: ctypes.c_uint16, 4: ctypes.c_uint32, 8: ctypes.c_uint64}


def _fields() -> list[tuple[str, Any]]:
    fields: list[tuple[str, Any]] = []
    at = 0
    for field in LAYOUT.values():
        if field.offset > at:
            fields.append((f"_pad{at}", ctypes.c_uint8 * (field.offset - at)))
        fields.append((field.name, _INTEGERS.get(field.size, ctypes.c_uint8 * field.size)))
        at = field.offset + field.size
    return fields


class _State(ctypes.Structure):
    _fields_ = _fields()

    if TYPE_CHECKING:  # every field of isa.state: ints, or byte arrays for those above 8 bytes

        def __getattr__(self, name: str) -> Any: ...


class CpuState(_State):
    """All fields by name, and RFLAGS put together from its parts."""

    def get_rflags(self) -> int:
        """RFLAGS with the six status flags worked out (`isa.flags.read` on ints)."""
        result, aux = self.flag_result, self.flag_aux
        bits = (aux >> 1) & 1
        bits |= (1 - ((result ^ (aux >> 8)) & 0xFF).bit_count() % 2) << 2
        bits |= (aux & 8) << 1
        bits |= (result == 0) << 6
        bits |= ((result >> 63) ^ (aux >> 2) & 1) << 7
        bits |= ((aux ^ (aux >> 1)) & 1) << 11
        return int(self.rflags & ~STATUS) | bits | 2

    def set_rflags(self, value: int) -> None:
        """All of RFLAGS at once; the caller sees to the mode and to waiting interrupts (`SoftCore.update_mode`)."""
        self.rflags = value & ~STATUS | 2
        zero, parity, sign = value >> 6 & 1, value >> 2 & 1, value >> 7 & 1
        carry, overflow, adjust = value & 1, value >> 11 & 1, value >> 4 & 1
        self.flag_result = zero ^ 1
        self.flag_aux = (carry ^ overflow) | carry << 1 | sign << 2 | adjust << 3 | (zero ^ parity) << 8

    @property
    def cpl(self) -> int:
        """The current privilege level."""
        return int(self.mode >> 3 & 3)


assert ctypes.sizeof(CpuState) >= STATE_BYTES
