"""Recognises instructions that lock: with a LOCK prefix, or XCHG with memory, which needs none (SDM vol. 3, 10.1.2.2)."""

from collections.abc import Iterator

from iced_x86 import Decoder, Formatter, FormatterSyntax, Instruction, MemorySizeExt, Mnemonic, OpKind, Register

LONGEST = 15  # bytes of an instruction
_REGISTERS = {value: name.lower() for name, value in vars(Register).items() if isinstance(value, int)}


def locks(instruction: Instruction) -> bool:
    """Whether an instruction accesses memory as a locked one."""
    memory = any(instruction.op_kind(n) == OpKind.MEMORY for n in range(instruction.op_count))
    return memory and (instruction.has_lock_prefix or instruction.mnemonic == Mnemonic.XCHG)


def at(code: bytes, address: int, bits: int) -> Instruction | None:
    """The locked instruction that code at an address begins with; None when it is another."""
    instruction = Decoder(bits, code[:LONGEST], ip=address).decode()
    return instruction if not instruction.is_invalid and locks(instruction) else None


def ending(code: bytes, start: int, end: int, bits: int) -> Instruction | None:
    """The locked instruction that ends at `end`, of code from a function's beginning at `start` on; None when it is another."""
    decoder = Decoder(bits, code[: end - start], ip=start)
    last = None
    while decoder.can_decode:
        last = decoder.decode()
    return last if last is not None and last.next_ip == end and not last.is_invalid and locks(last) else None


def guesses(code: bytes, end: int, bits: int) -> Iterator[Instruction]:
    """Every locked instruction that the last bytes of `code`, which ends at `end`, may be: where no function begins in sight."""
    for length in range(min(LONGEST, len(code)), 1, -1):
        instruction = at(code[-length:], end - length, bits)
        if instruction is not None and instruction.len == length:
            yield instruction


def words(instruction: Instruction) -> str:
    """An instruction as in Intel's manuals."""
    formatter = Formatter(FormatterSyntax.INTEL)
    formatter.rip_relative_addresses = True
    return formatter.format(instruction)


def operand_size(instruction: Instruction) -> int:
    """Bytes of the operand in memory."""
    return MemorySizeExt.size(instruction.memory_size)


def operand_address(instruction: Instruction) -> int | None:
    """Where the operand is, if the instruction alone says so."""
    if instruction.is_ip_rel_memory_operand:
        return instruction.ip_rel_memory_address
    return None if operand_registers(instruction) else instruction.memory_displacement


def operand_registers(instruction: Instruction) -> list[str]:
    """The registers that say where the operand is."""
    used: list[int] = [instruction.memory_base, instruction.memory_index, instruction.segment_prefix]
    return [_REGISTERS[one] for one in used if one]
