"""What an instruction's explicit operands are in a given state: addresses and values, for masks and for messages."""

from iced_x86 import OpKind, Register, Register_, RegisterExt

from .forms import Form, access_bytes
from .state import SCRATCH, SCRATCH_SIZE, State
from .undefined import NO_REGISTER, full_register


def register_value(register: Register_, state: State) -> int | None:
    """The value of a general register or a part of it; None for other registers."""
    full = full_register(register)
    if full is None:
        return None
    shift = 8 if Register.AH <= register <= Register.BH else 0
    return state.gpr[full] >> shift & (1 << 8 * RegisterExt.info(register).size) - 1


def address_of(form: Form, state: State) -> int:
    """The linear address of the memory operand (flat segments)."""
    instruction = form.instruction
    base, index = instruction.memory_base, instruction.memory_index
    if instruction.is_ip_rel_memory_operand:
        return int(instruction.ip_rel_memory_address)
    address = instruction.memory_displacement
    bits = 64
    if base != NO_REGISTER:
        bits = 8 * RegisterExt.info(base).size
        address += register_value(base, state) or 0
    if index != NO_REGISTER:
        bits = max(8 * RegisterExt.info(index).size, 32) if base == NO_REGISTER else bits
        address += (register_value(index, state) or 0) * instruction.memory_index_scale
    return address & (1 << bits) - 1


def operand_value(form: Form, state: State, n: int) -> int | None:
    """The value of explicit operand n; None when it lies outside the scratch area or is not an integer."""
    instruction = form.instruction
    kind = instruction.op_kind(n)
    if kind == OpKind.REGISTER:
        return register_value(instruction.op_register(n), state)
    if kind == OpKind.MEMORY:
        at, size = address_of(form, state) - SCRATCH, access_bytes(form.instruction)
        return int.from_bytes(state.memory[at : at + size], "little") if at >= 0 and at + size <= SCRATCH_SIZE else None
    return None


def describe_inputs(form: Form, state: State) -> str:
    """The inputs in one line: registers that the instruction names, flags, the memory operand, and rcx, rsp when implied."""
    instruction = form.instruction
    parts, seen = [], set()
    for n in range(instruction.op_count):
        if instruction.op_kind(n) == OpKind.REGISTER:
            seen.add(instruction.op_register(n))
        elif instruction.op_kind(n) == OpKind.MEMORY:
            value = operand_value(form, state, n)
            parts.append(f"[{address_of(form, state):#x}]=" + (f"{value:#x}" if value is not None else "outside"))
            seen |= {instruction.memory_base, instruction.memory_index}
    for register in sorted(seen):
        full = full_register(register) if register else None
        if full is not None:
            parts.append(f"{_GPR[full]}={state.gpr[full]:#x}")
        elif Register.XMM0 <= register <= Register.XMM15 or Register.YMM0 <= register <= Register.YMM15:
            number = register - (Register.XMM0 if register < Register.YMM0 else Register.YMM0)
            low, high = state.fx[160 + 16 * number : 176 + 16 * number], state.upper[16 * number : 16 * number + 16]
            parts.append(f"ymm{number}={int.from_bytes(low + high, 'little'):#066x}")
    named = {full_register(r) for r in seen if r}
    parts += [f"{_GPR[n]}={state.gpr[n]:#x}" for n in (0, 1, 2, 4, 6, 7) if n not in named]
    return " ".join([*parts, f"rflags={state.rflags:#x}"])


_GPR = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
