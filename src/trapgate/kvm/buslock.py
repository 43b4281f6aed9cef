"""Finds which instruction locked the bus, when KVM says only that one did; pure over bytes and registers.

KVM_EXIT_X86_BUS_LOCK leaves RIP on the instruction on AMD, behind it on Intel (Linux, Documentation/virt/kvm/api.rst, 7.26).
"""

from collections.abc import Callable

from iced_x86 import CodeSize, Decoder, Instruction, MemorySizeExt, Mnemonic, OpKind, Register, RegisterExt

from trapgate.kvm.stepping import MAX_INSTRUCTION, Read
from trapgate.values import dataclass


@dataclass(frozen=True, slots=True)
class Operand:
    """A locked memory operand: the locking instruction's RIP, linear address and size in bytes."""

    rip: int
    address: int
    size: int


def locks(instruction: Instruction) -> bool:
    """Whether an instruction is a locked access to memory: LOCK, or XCHG with memory."""
    memory = OpKind.MEMORY in (instruction.op_kind(n) for n in range(instruction.op_count))
    return memory and (instruction.has_lock_prefix or instruction.mnemonic == Mnemonic.XCHG)


def instruction_at(read: Read, linear: int, rip: int, bits: int) -> Instruction | None:
    """The locking instruction at an address, None when there is none."""
    found = Decoder(bits, read(linear, MAX_INSTRUCTION), ip=rip).decode()
    return found if found.code and locks(found) else None


def instruction_before(read: Read, linear: int, rip: int, bits: int) -> Instruction | None:
    """The locking instruction that ends at an address: the longest that decodes so."""
    for length in range(MAX_INSTRUCTION, 1, -1):
        found = instruction_at(read, linear - length, rip - length, bits)
        if found is not None and found.len == length:
            return found
    return None


def operand(instruction: Instruction, register: Callable[[str], int]) -> Operand:
    """Its memory operand, by the registers as they are; behind the instruction that is exact unless it changed its own base."""
    wide = instruction.code_size == CodeSize.CODE64
    mask = (1 << 64) - 1 if wide else 0xFFFF_FFFF
    address = instruction.memory_displacement
    if instruction.memory_base in _NAMES:  # RIP is not: the displacement of a RIP-relative operand is its address already
        address += _value(register, instruction.memory_base)
    if instruction.memory_index in _NAMES:
        address += _value(register, instruction.memory_index) * instruction.memory_index_scale
    segment = instruction.memory_segment
    if instruction.code_size != CodeSize.CODE64 or segment in (Register.FS, Register.GS):
        address += register(_NAMES[segment])
    return Operand(instruction.ip, address & mask, MemorySizeExt.size(instruction.memory_size))


def _value(register: Callable[[str], int], which: int) -> int:
    """A base or index register, as wide as it is named."""
    return register(_NAMES[which]) & (1 << 8 * RegisterExt.size(which)) - 1  # type: ignore[arg-type]


def _register_names() -> dict[int, str]:
    found: dict[int, str] = {}
    for name in ("RAX", "RBX", "RCX", "RDX", "RSI", "RDI", "RBP", "RSP", *(f"R{n}" for n in range(8, 16))):
        found[getattr(Register, name)] = name.lower()
    for short in ("AX", "BX", "CX", "DX", "SI", "DI", "BP", "SP"):
        found[getattr(Register, "E" + short)] = found[getattr(Register, short)] = "r" + short.lower()
    for n in range(8, 16):
        found[getattr(Register, f"R{n}D")] = found[getattr(Register, f"R{n}W")] = f"r{n}"
    for segment in ("CS", "SS", "DS", "ES", "FS", "GS"):
        found[getattr(Register, segment)] = segment.lower() + "_base"
    return found


_NAMES = _register_names()
