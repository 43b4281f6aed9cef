"""A state under construction: registers by part, operands by number, memory by address, and where a memory operand shall lie."""

import random
from functools import cache

from iced_x86 import OpKind, Register, Register_, RegisterExt

from . import operands
from .forms import Form, access_bytes
from .state import DF, FX_INIT, RSP, SCRATCH, SCRATCH_SIZE, STATUS_FLAGS, State
from .undefined import NO_REGISTER, full_register, operand_width

MASK64 = (1 << 64) - 1


@cache
def backgrounds() -> tuple[bytes, ...]:
    """What scratch memory holds where nothing was put: noise, always the same."""
    noise = random.Random(1)
    return tuple(noise.randbytes(SCRATCH_SIZE) for _ in range(8))


class Draft:
    """A state under construction."""

    def __init__(self, form: Form, rng: random.Random) -> None:
        self.form, self.rng = form, rng
        self.width = operand_width(form) if form.instruction.op_count else 64
        width = self.width if self.width in (8, 16, 32) else 64
        self.gpr = [self._register(width) for _ in range(16)]
        self.gpr[RSP] = SCRATCH + 0x1000 + 8 * rng.randrange(-0x80, 0x80) + (rng.randrange(8) if rng.random() < 0.1 else 0)
        self.rflags = 0x202 | (rng.getrandbits(12) & STATUS_FLAGS) | (DF if rng.random() < 0.1 else 0)
        self.memory = bytearray(rng.choice(backgrounds()))
        self.fx = FX_INIT
        self.address: int | None = None  # of the memory operand

    def _register(self, width: int) -> int:
        """An interesting value of `width` bits below random bits; for bytes, the second byte (AH) is interesting too."""
        rng = self.rng
        value = operands.integer(rng, width)
        if width == 8:
            value |= operands.integer(rng, 8) << 8
            width = 16
        return value | rng.getrandbits(64 - width) << width if width < 64 else value

    def store(self, address: int, size: int, value: int) -> None:
        """Put a value into the scratch memory."""
        at = address - SCRATCH
        self.memory[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")

    def load(self, address: int, size: int) -> int:
        """A value of the scratch memory."""
        return int.from_bytes(self.memory[address - SCRATCH : address - SCRATCH + size], "little")

    def get(self, register: Register_) -> int:
        """A general register or a part of it, by its iced-x86 number."""
        size = 8 * RegisterExt.info(register).size
        high = Register.AH <= register <= Register.BH
        full = full_register(register)
        assert full is not None
        return (self.gpr[full] >> (8 if high else 0)) & ((1 << size) - 1)

    def put(self, register: Register_, value: int) -> None:
        """Set a part of a general register; the rest stays."""
        size = 8 * RegisterExt.info(register).size
        shift = 8 if Register.AH <= register <= Register.BH else 0
        mask = ((1 << size) - 1) << shift
        full = full_register(register)
        assert full is not None
        self.gpr[full] = self.gpr[full] & ~mask | value << shift & mask

    def operand(self, n: int) -> int:
        """The value of an explicit operand."""
        instruction = self.form.instruction
        if instruction.op_kind(n) == OpKind.REGISTER:
            return self.get(instruction.op_register(n))
        assert self.address is not None
        return self.load(self.address, access_bytes(instruction))

    def set_operand(self, n: int, value: int) -> None:
        """Give an explicit operand a value."""
        instruction = self.form.instruction
        if instruction.op_kind(n) == OpKind.REGISTER:
            self.put(instruction.op_register(n), value)
        else:
            assert self.address is not None
            self.store(self.address, access_bytes(instruction), value)

    def finish(self) -> State:
        """The state."""
        return State(tuple(self.gpr), self.rflags, self.fx, bytes(self.memory))


def pick_address(draft: Draft, size: int) -> int:
    """Where a memory operand shall lie: mostly aligned, sometimes not or across the page boundary, rarely reaching into a guard
    page. A locked operand stays inside a cache line: a split lock would stall the whole host."""
    rng = draft.rng
    size = max(size, 1)
    aligned = SCRATCH + 0x1000 + size * rng.randrange(-0x400 // size, 0x400 // size)
    choice = rng.random()
    if draft.form.instruction.has_lock_prefix or draft.form.mnemonic == "xchg":
        near = SCRATCH + 64 * rng.randrange(0x20, 0x60)
        return aligned if choice < 0.6 and 64 % size == 0 else near + rng.randrange(65 - size)
    if choice < (0.9 if size == 16 else 0.6):  # most 16-byte operands must be aligned
        return aligned
    if choice < 0.85:
        return aligned + rng.randrange(size)
    if choice < 0.97 or size == 1:
        return SCRATCH + 0x1000 - rng.randrange(1, size + 1)
    return rng.choice((SCRATCH + SCRATCH_SIZE - rng.randrange(1, size), SCRATCH - rng.randrange(1, size), SCRATCH + SCRATCH_SIZE))


def aim(draft: Draft, address: int) -> int:
    """Set base and index registers so that the memory operand lies at `address`; the address it really got (RIP-relative and
    absolute operands stay where they are)."""
    instruction, rng = draft.form.instruction, draft.rng
    base, index = instruction.memory_base, instruction.memory_index
    if instruction.is_ip_rel_memory_operand:
        return int(instruction.ip_rel_memory_address)
    displacement = instruction.memory_displacement
    if base == index == NO_REGISTER:
        return displacement
    bits = 8 * RegisterExt.info(base if base != NO_REGISTER else index).size
    mask = (1 << bits) - 1
    if index != NO_REGISTER and base != NO_REGISTER:
        scaled = rng.choice((0, 1, -1, rng.randrange(-0x8000, 0x8000), rng.getrandbits(bits))) & mask
        draft.put(index, scaled)
        draft.put(base, address - displacement - scaled * instruction.memory_index_scale)
    elif base != NO_REGISTER:
        draft.put(base, address - displacement)
    else:
        scale = instruction.memory_index_scale
        draft.put(index, (address - displacement & mask) // scale)
        address = ((address - displacement & mask) // scale * scale + displacement) & MASK64
    return address
