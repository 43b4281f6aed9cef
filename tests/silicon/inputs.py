"""States for a form: registers, flags and memory such that its operands are interesting and its addresses lie in the scratch
area."""

import random

from iced_x86 import Instruction, OpKind, Register, RegisterExt

from . import operands
from .draft import MASK64, Draft, aim, pick_address
from .forms import Form, access_bytes
from .state import CODE, CODE_PAGE, DF, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP, SCRATCH, SCRATCH_SIZE, STATUS_FLAGS, State
from .undefined import full_register

_STRING = frozenset(name + size for name in ("movs", "stos", "lods", "scas", "cmps") for size in "bwdq")
_SHIFTS = frozenset(("rol", "ror", "rcl", "rcr", "shl", "sal", "shr", "sar", "shld", "shrd"))
_ADDRESS_ONLY = frozenset(("lea", "nop", "prefetchw", "prefetchnta", "prefetcht0", "prefetcht1", "prefetcht2"))


def _memory_operand(form: Form) -> bool:
    instruction = form.instruction
    return any(instruction.op_kind(n) == OpKind.MEMORY for n in range(instruction.op_count))


def make_state(form: Form, rng: random.Random) -> State:
    """A state in which to execute a form."""
    draft = Draft(form, rng)
    mnemonic, size = form.mnemonic, access_bytes(form.instruction)
    if mnemonic in _ADDRESS_ONLY or RegisterExt.is_vector_register(form.instruction.memory_index):
        return draft.finish()
    if _memory_operand(form):
        draft.address = aim(draft, pick_address(draft, size))
        inside = draft.address >= SCRATCH and draft.address + size <= SCRATCH + SCRATCH_SIZE
        if size and inside:
            if size <= 16:
                width = 8 * size
                draft.store(draft.address, size, operands.vector(rng) if size == 16 else operands.integer(rng, width))
        else:  # it will fault: nothing to prepare
            return draft.finish()
    prepare = _PREPARE.get(mnemonic)
    if prepare is not None and (
        mnemonic not in _STRING or form.instruction.is_string_instruction
    ):  # MOVSD, CMPSD: SSE2 has them too
        prepare(draft)
    return draft.finish()


def _count(draft: Draft) -> None:
    width = draft.width
    near = (0, 1, 2, width - 1, width, width + 1, 2 * width, 31, 32, 33, 63, 64, 65, 9, 17, 255, 128, draft.rng.getrandbits(8))
    if draft.form.instruction.op_kind(draft.form.instruction.op_count - 1) == OpKind.REGISTER and not _uses(draft, RCX):
        draft.put(Register.CL, draft.rng.choice(near))


def _uses(draft: Draft, number: int) -> bool:
    """Whether the memory operand's address depends on a general register."""
    instruction = draft.form.instruction
    return draft.address is not None and number in {
        full_register(r) for r in (instruction.memory_base, instruction.memory_index) if r
    }


_PAIRS = {16: (Register.AX, Register.DX), 32: (Register.EAX, Register.EDX), 64: (Register.RAX, Register.RDX)}


def _divide(draft: Draft) -> None:
    """A quotient that fits, just fits or just does not; the remainder any. Sometimes nothing is arranged, sometimes it divides by
    0."""
    rng, width = draft.rng, draft.width
    choice = rng.random()
    if choice < 0.15 or _uses(draft, RDX) or _uses(draft, RAX):
        return
    if choice < 0.2:
        draft.set_operand(0, 0)
    instruction = draft.form.instruction
    is_register = instruction.op_kind(0) == OpKind.REGISTER
    if is_register and full_register(instruction.op_register(0)) in (RAX, RDX):
        if rng.random() < 0.5:  # dividing by a part of the dividend: make the high half small
            draft.gpr[RDX] = rng.choice((0, 0, MASK64))
        return
    signed = draft.form.mnemonic == "idiv"
    divisor, quotient = draft.operand(0), operands.integer(rng, width)
    if signed:
        divisor, quotient = _signed(divisor, width), _signed(quotient, width)
    dividend = divisor * quotient + (rng.randrange(abs(divisor)) if divisor and rng.random() < 0.8 else 0)
    if width == 8:
        draft.put(Register.AX, dividend)
    else:
        low, high = _PAIRS[width]
        draft.put(low, dividend & (1 << width) - 1)
        draft.put(high, dividend >> width & (1 << width) - 1)


def _signed(value: int, width: int) -> int:
    return value - (1 << width) if value >> width - 1 else value


def _bit_offset(draft: Draft) -> None:
    """BT with memory and a register: the offset is signed and reaches beyond the operand, here up to 1 KiB either way."""
    instruction = draft.form.instruction
    if draft.address is None or instruction.op_kind(1) != OpKind.REGISTER:
        return
    register, rng = instruction.op_register(1), draft.rng
    offset = rng.choice((0, 1, draft.width - 1, draft.width, -1, -draft.width, rng.randrange(-8 * 0x400, 8 * 0x400)))
    full = full_register(register)
    assert full is not None
    if _uses(draft, full):
        draft.address = None  # the register is part of the address: let it go where it goes
        return
    if instruction.has_lock_prefix:
        offset %= draft.width
    draft.put(register, offset)


def _exchange(draft: Draft) -> None:
    """CMPXCHG: the accumulator equals the destination half of the time."""
    if draft.rng.random() < 0.5 and not _uses(draft, RAX):
        accumulator = {8: Register.AL, 16: Register.AX, 32: Register.EAX, 64: Register.RAX}[draft.width]
        draft.put(accumulator, draft.operand(0))


def _exchange_pair(draft: Draft) -> None:
    half = draft.width // 2
    if draft.address is not None and draft.width == 128 and draft.rng.random() < 0.9:  # else #GP: not aligned
        draft.address = aim(draft, draft.address & ~15)
    if draft.address is not None and draft.rng.random() < 0.6 and not _uses(draft, RAX) and not _uses(draft, RDX):
        value = draft.load(draft.address, draft.width // 8)
        low, high = (Register.EAX, Register.EDX) if half == 32 else (Register.RAX, Register.RDX)
        draft.put(low, value & (1 << half) - 1)
        draft.put(high, value >> half)


def _string(draft: Draft) -> None:
    """Pointers into the scratch area, both directions, a count of 0 to 40 elements, and runs of equal bytes for SCAS and CMPS."""
    rng, instruction = draft.rng, draft.form.instruction
    step = {"b": 1, "w": 2, "d": 4, "q": 8}[draft.form.mnemonic[4]]
    if rng.random() < 0.5:
        draft.rflags ^= DF
    source = SCRATCH + 0x1000 + rng.randrange(-0x300, 0x300)
    target = source + rng.randrange(-48, 48) if rng.random() < 0.4 else SCRATCH + 0x1000 + rng.randrange(-0x300, 0x300)
    if rng.random() < 0.05:
        target = SCRATCH + SCRATCH_SIZE - rng.randrange(1, 64)  # runs into the guard page, or not
    draft.gpr[RSI], draft.gpr[RDI] = source, target
    if instruction.has_rep_prefix or instruction.has_repne_prefix:
        draft.gpr[RCX] = rng.choice((0, 1, 2, 3, 7, 8, 9, rng.randrange(40)))
    if narrow(instruction):
        for number in (RSI, RDI, RCX):
            draft.gpr[number] |= rng.getrandbits(32) << 32
    fill = rng.choice((0, 0xFF, 0x5A))
    if rng.random() < 0.7:
        draft.memory[0xC00:0x1400] = bytes((fill,)) * 0x800
        for _ in range(rng.randrange(6)):
            draft.memory[(target - SCRATCH + step * rng.randrange(-20, 20)) % SCRATCH_SIZE] ^= 1 << rng.randrange(8)
        if rng.random() < 0.7:
            draft.gpr[RAX] = (
                rng.getrandbits(64) if step == 8 and rng.random() < 0.3 else int.from_bytes(bytes((fill,)) * 8, "little")
            )


def narrow(instruction: Instruction) -> bool:
    """Whether a string instruction uses ESI, EDI and ECX."""
    kinds = (OpKind.MEMORY_SEG_ESI, OpKind.MEMORY_ESEDI, OpKind.MEMORY_SEG_EDI)
    return any(instruction.op_kind(n) in kinds for n in range(instruction.op_count))


def _xlat(draft: Draft) -> None:
    low = draft.gpr[RAX] & 0xFF
    address = SCRATCH + 0x1000 + draft.rng.randrange(-0x100, 0x100)
    upper = draft.rng.getrandbits(32) << 32 if draft.form.instruction.memory_base == Register.EBX else 0
    draft.gpr[RBX] = address - low + upper


def _leave(draft: Draft) -> None:
    draft.gpr[RBP] = SCRATCH + 0x1000 + 8 * draft.rng.randrange(-0x40, 0x40)


def _pop_flags(draft: Draft) -> None:
    """Status flags and DF at random, and bits that user mode cannot change; not TF (it would trap), AC or NT (they would
    linger)."""
    rng = draft.rng
    size = 2 if draft.form.mnemonic == "popf" else 8
    ignored = rng.choice((0, 0x2, 0x200, 0x3000, 0x8000 if size == 8 else 0, 0x28))
    draft.store(draft.gpr[RSP], size, rng.getrandbits(12) & (STATUS_FLAGS | DF) | ignored)


def _target(draft: Draft) -> int:
    return CODE_PAGE + draft.rng.choice((0x900, 0x7F0, 0x0, 0xFF0, CODE + 0x20 - CODE_PAGE))


def _branch(draft: Draft) -> None:
    """Indirect jumps and calls go to some INT3 of the code page, rarely nowhere."""
    kind = draft.form.instruction.op_kind(0)
    if kind in (OpKind.REGISTER, OpKind.MEMORY) and draft.rng.random() < 0.95:
        draft.set_operand(0, _target(draft))


def _return(draft: Draft) -> None:
    draft.store(draft.gpr[RSP], 8, _target(draft))


def _loop(draft: Draft) -> None:
    narrow = draft.form.mnemonic == "jecxz" or draft.form.code[0] == 0x67
    value = draft.rng.choice((0, 1, 2, 1 << 32, (1 << 32) - 1, MASK64, draft.gpr[RCX]))
    draft.gpr[RCX] = value ^ draft.rng.getrandbits(32) << 32 if narrow else value


_PREPARE = {
    **dict.fromkeys(_SHIFTS, _count),
    **dict.fromkeys(_STRING, _string),
    **dict.fromkeys(("bt", "bts", "btr", "btc"), _bit_offset),
    **dict.fromkeys(("div", "idiv"), _divide),
    **dict.fromkeys(("jmp", "call"), _branch),
    **dict.fromkeys(("enter", "leave"), _leave),
    **dict.fromkeys(("popf", "popfq"), _pop_flags),
    **dict.fromkeys(("loop", "loope", "loopne", "jecxz", "jrcxz"), _loop),
    "cmpxchg": _exchange,
    "cmpxchg8b": _exchange_pair,
    "cmpxchg16b": _exchange_pair,
    "xlatb": _xlat,
    "ret": _return,
}
