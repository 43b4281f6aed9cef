"""Finds the constants of an instruction that its code only carries along: instructions that differ in nothing else share a pattern.

A kernel is full of them: displacements, distances of branches, immediates; and one that is loaded elsewhere at each boot (KASLR)
differs from itself in the addresses that its instructions hold, and in nothing else.
"""

from typing import NamedTuple

from iced_x86 import ConstantOffsets, Instruction, Mnemonic, Register

_FLIPPED = {1: 0x15, 4: 0x00155540, 8: 0x00155540}  # bits that the other value of a constant has flipped, by its size: not the sign
_ALL = (1 << 64) - 1
_CARRIED = frozenset(
    getattr(Mnemonic, name) for name in "ADC ADD AND CMP IMUL MOV OR PUSH SBB SUB TEST XOR".split()
)  # whatever their immediate is


class Constant(NamedTuple):
    """Where a constant lies in the bytes of an instruction."""

    at: int
    size: int  # bytes: 1, 4 or 8; signed
    keeps_sign: bool  # members of a pattern have the same sign
    may_be_parameter: bool  # it is no distance from RIP: where it looks like an address, a block serves every value

    def value(self, raw: bytes) -> int:
        """What it is."""
        return int.from_bytes(raw[self.at : self.at + self.size], "little", signed=True)

    def other(self, raw: bytes) -> tuple[bytes, int]:
        """An instruction that differs in this constant alone, and by how much its constant is greater."""
        changed = raw[: self.at] + ((self.value(raw) ^ _FLIPPED[self.size]) & (1 << 8 * self.size) - 1).to_bytes(
            self.size, "little"
        )
        changed += raw[self.at + self.size :]
        return changed, self.value(changed) - self.value(raw)

    def behind(self, length: int) -> "Constant":
        """The same, counted from `length` bytes further ahead."""
        return self._replace(at=self.at + length)


def constants(i: Instruction, places: ConstantOffsets, raw: bytes) -> tuple[Constant, ...]:
    """Those of a 64-bit instruction."""
    found = []
    at, size = places.displacement_offset, places.displacement_size
    if places.has_displacement and size in _FLIPPED and int(i.memory_base) != Register.EIP:  # that one is cut to 32 bits
        found.append(Constant(at, size, size == 4, size == 4 and not _moves_along(i)))
    at, size = places.immediate_offset, places.immediate_size
    if places.has_immediate and i.near_branch_target and size in _FLIPPED:
        found.append(Constant(at, size, False, False))
    elif places.has_immediate and i.mnemonic in _CARRIED:
        if size in (1, 4):
            found.append(Constant(at, size, True, size == 4))
        elif raw[at + 4 :] == b"\xff" * 4:
            found.append(Constant(at, 4, True, True))
    return tuple(found)


def mask(length: int, free: tuple[Constant, ...]) -> bytes:
    """Ones where instructions of a pattern have the same bits."""
    same = bytearray(b"\xff" * length)
    for constant in free:
        end = constant.at + constant.size
        same[constant.at : end] = bytes(constant.size)
        if constant.keeps_sign:
            same[end - 1] = 0x80
    return bytes(same)


def _moves_along(i: Instruction) -> bool:
    """The displacement is relative to RIP and names a place that moves with the code."""
    return i.is_ip_rel_memory_operand and i.memory_segment not in (Register.FS, Register.GS)
