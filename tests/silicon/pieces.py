"""What runs of instructions are made of: forms that may stand anywhere, and short sequences for those that need something first.

A run keeps some registers as pointers into the scratch memory, RSP as its stack and R15 as the counter of its loop, so that it
gets to its end mostly. What needs values in certain registers (strings, divisions, calls) comes as a *sequence* that provides them.
"""

import random
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from iced_x86 import Instruction, InstructionInfoFactory, OpAccess, OpKind, Register, RflagsBits

from . import catalog, catalog_sse, catalog_x87
from .forms import Form, access_bytes
from .state import AF, CF, DF, FX_INIT, OF, PF, RSP, SCRATCH, SCRATCH_SIZE, SF, STATUS_FLAGS, ZF, State
from .undefined import NO_REGISTER, full_register, operand_width, undefined_flags

RBX, RDI, R12, R13, R14, COUNTER = 3, 7, 12, 13, 14, 15
POINTERS = 1 << RDI | 1 << R12 | 1 << R13 | 1 << R14
RESERVED = POINTERS | 1 << RSP | 1 << COUNTER
# Bytes beyond R13 that its one addressing form adds: [r13 + r15*4 + 1234h].
R13_BIAS = 0x1234
_FLAGS = {
    RflagsBits.CF: CF, RflagsBits.PF: PF, RflagsBits.AF: AF, RflagsBits.ZF: ZF, RflagsBits.SF: SF, RflagsBits.OF: OF,
}  # fmt: skip
_SHIFTS = ("shl", "sal", "shr", "sar", "rol", "ror", "rcl", "rcr", "shld", "shrd")
_FLOW = ("jmp", "call", "ret", "enter", "leave", "pushf", "pushfq", "popf", "popfq", "div", "idiv", "xlatb")
_LEFT_OUT = frozenset((*catalog.BRANCHES, *_FLOW, *catalog.STRINGS, *(f"j{c}" for c in catalog.CONDITIONS)))
_PREPARED = frozenset(("ldmxcsr", "fldcw", "maskmovq", "maskmovdqu"))
_UNALIGNED = ("movups", "movupd", "movdqu", "lddqu", "pcmpestri", "pcmpestrm", "pcmpistri", "pcmpistrm")


class Step(NamedTuple):
    """A form, what it does to the status flags (reads, leaves undefined, settles), and the general registers that it needs as
    pointers and that it writes, as bits."""

    form: Form
    reads: int
    undefined: int
    settles: int
    pointers: int
    writes: int


def status_bits(flags: int) -> int:
    """iced-x86's flags as bits of RFLAGS."""
    return sum(bit for theirs, bit in _FLAGS.items() if flags & theirs)


def undefined_by_table(instruction: Instruction) -> int:
    """Status flags that an instruction leaves undefined, as far as the opcode table knows."""
    return status_bits(instruction.rflags_undefined)


class Effect(NamedTuple):
    """What an instruction does to the status flags once it is executed: those it writes, unless RCX (masked) is 0; those it leaves
    undefined, None where that depends on RCX."""

    writes: int
    repeats: int | None
    undefined: int | None


def effect(form: Form) -> Effect:
    """The effect of an instruction."""
    instruction = form.instruction
    writes = status_bits(instruction.rflags_modified)
    if instruction.has_rep_prefix or instruction.has_repne_prefix:
        return Effect(writes, -1, 0)
    if form.mnemonic in _SHIFTS and instruction.op_kind(instruction.op_count - 1) == OpKind.REGISTER:
        return Effect(writes, 0x3F if operand_width(form) == 64 else 0x1F, None)
    return Effect(writes, None, undefined_flags(form, State((0,) * 16, 0, FX_INIT, b"")))


def flags_behind(form: Form, found: Effect, gpr: tuple[int, ...], undefined: int) -> int:
    """Status flags that nothing defines behind an instruction, by those before it and the registers before it."""
    if found.repeats is not None and not gpr[1] & found.repeats:
        return undefined
    fresh = undefined_flags(form, State(gpr, 0, FX_INIT, b"")) if found.undefined is None else found.undefined
    return undefined & ~found.writes | fresh


def _step(form: Form, info: InstructionInfoFactory) -> Step | None:
    """The form as a step; None when it may not stand anywhere."""
    instruction = form.instruction
    if (form.mnemonic in _LEFT_OUT and form.mnemonic not in ("movsd", "cmpsd")) or form.mnemonic in _PREPARED:
        return None
    if instruction.is_string_instruction or not defined(form):
        return None
    writes = 0
    for used in info.info(instruction).used_registers():
        number = full_register(used.register)
        if number is not None and used.access not in (OpAccess.READ, OpAccess.COND_READ):
            writes |= 1 << number
    stack = instruction.is_stack_instruction
    if writes & 1 << COUNTER or (writes & 1 << RSP and not stack):
        return None
    if stack and form.mnemonic == "pop" and full_register(instruction.op0_register) == RSP:
        return None
    pointers = _pointers(form)
    if pointers is None:
        return None
    reads, undefined = status_bits(instruction.rflags_read), undefined_by_table(instruction)
    modified = status_bits(instruction.rflags_modified)
    if form.mnemonic in _SHIFTS and instruction.op_kind(instruction.op_count - 1) == OpKind.REGISTER:
        return Step(form, reads, modified, 0, pointers, writes)  # whether any flag changes depends on the count
    undefined |= undefined_flags(form, State((0,) * 16, 0, FX_INIT, bytes(SCRATCH_SIZE)))
    return Step(form, reads, undefined, modified & ~undefined, pointers, writes)


def defined(form: Form) -> bool:
    """Whether its result is defined whatever the operands."""
    width = operand_width(form) if form.instruction.op_count and form.mnemonic in ("bswap", "shld", "shrd", "bsf", "bsr") else 0
    if form.mnemonic in ("shld", "shrd"):
        return width != 16
    return not (form.mnemonic == "bswap" and width == 16) and not (form.mnemonic in ("bsf", "bsr") and width == 32)


def _pointers(form: Form) -> int | None:
    """The pointers that its memory operand needs, as bits; None when it may lie outside the scratch area, or not aligned."""
    instruction = form.instruction
    memory = any(instruction.op_kind(n) == OpKind.MEMORY for n in range(instruction.op_count))
    if not memory or form.mnemonic in ("lea", "nop"):
        return 0
    locks = instruction.has_lock_prefix or form.mnemonic == "xchg"
    if form.mnemonic in ("bt", "bts", "btr", "btc") and instruction.op1_kind == OpKind.REGISTER:
        return None
    base, size = full_register(instruction.memory_base), access_bytes(instruction)
    if instruction.is_ip_rel_memory_operand:
        loose, needed = 1, 0  # it moves with the code
    elif instruction.memory_base == NO_REGISTER and instruction.memory_index == NO_REGISTER:
        loose, needed = instruction.memory_displacement & 15, 0
    elif base == RSP:
        loose, needed = 1, 0
    elif base in (RDI, R12, R14) and instruction.memory_index == NO_REGISTER and instruction.memory_base >= Register.RAX:
        loose, needed = 0, 1 << base
    elif instruction.memory_base == Register.EDI and instruction.memory_index == NO_REGISTER:
        loose, needed = instruction.memory_displacement & 15, 1 << RDI
    elif base == R13 and full_register(instruction.memory_index) == COUNTER:
        loose, needed = 1, 1 << base
    else:
        return None
    if loose and (locks or (size == 16 and form.mnemonic not in _UNALIGNED)):
        return None
    return needed


def _table(mnemonics: Iterable[str], forms: object) -> tuple[tuple[Step, ...], ...]:
    info = InstructionInfoFactory()
    found = (tuple(filter(None, (_step(form, info) for form in forms(name)))) for name in mnemonics)  # type: ignore[operator]
    return tuple(steps for steps in found if steps)


@cache
def steps() -> tuple[tuple[tuple[Step, ...], ...], ...]:
    """The forms that may stand anywhere, by mnemonic, of the three families: integer, SSE, x87."""
    return (
        _table(catalog.INTEGER, catalog.forms),
        _table(catalog_sse.MNEMONICS, catalog_sse.forms),
        _table(catalog_x87.MNEMONICS, catalog_x87.forms),
    )


class Sequence(NamedTuple):
    """Bytes with `length` instructions in them, what they do to the status flags, and the general registers they write."""

    code: bytes
    text: str
    length: int
    undefined: int
    settles: int
    writes: int


def _move(register: int, value: int) -> bytes:
    """MOV r32, imm32 of one of the lower eight registers."""
    return bytes((0xB8 + register,)) + value.to_bytes(4, "little")


def string(rng: random.Random) -> Sequence:
    """A string instruction in either direction, repeated or not, with pointers for it."""
    form = rng.choice(catalog.forms(rng.choice(catalog.STRINGS)))
    code = bytes((rng.choice((0xFC, 0xFC, 0xFD)),)) if rng.random() < 0.5 else b""  # CLD, STD
    code += _move(6, SCRATCH + rng.randrange(0x200, 0x1E00)) + _move(RDI, SCRATCH + rng.randrange(0x200, 0x1E00))
    repeated = form.instruction.has_rep_prefix or form.instruction.has_repne_prefix
    code += _move(1, rng.choice((0, 1, 2, 5, 12))) if repeated else b""
    sets = form.mnemonic[:4] in ("scas", "cmps") and not repeated
    count = 3 + repeated + (code[0] in (0xFC, 0xFD))
    return Sequence(code + form.code, form.text, count, 0, STATUS_FLAGS if sets else 0, 1 << 1 | 1 << 6 | 1 << RDI | 1)


def divide(rng: random.Random) -> Sequence:
    """A division that works, but for the one quotient that is too large."""
    register = rng.choice((3, 5, 6, 8, 9, 10, 11))
    wide, signed = rng.random() < 0.5, rng.random() < 0.5
    rex = 0x40 | wide << 3 | register >> 3
    prefix, low = (bytes((rex,)) if rex != 0x40 else b""), register & 7
    sign = (b"\x48\x99" if wide else b"\x99") if signed else b"\x31\xd2"
    code = sign + prefix + bytes((0x83, 0xC8 | low, 1)) + prefix + bytes((0xF7, 0xF0 | signed << 3 | low))
    return Sequence(code, "idiv" if signed else "div", 3, STATUS_FLAGS, 0, 1 << 2 | 1 | 1 << register)


def translate(rng: random.Random) -> Sequence:
    """XLAT."""
    return Sequence(_move(RBX, SCRATCH + rng.randrange(0x1E00)) + b"\xd7", "xlatb", 2, 0, 0, 1 << RBX | 1)


def frame(rng: random.Random) -> Sequence:
    """ENTER of level 0 or 1, and LEAVE."""
    code = b"\xc8" + rng.randrange(0, 0x60, 8).to_bytes(2, "little") + bytes((rng.randrange(2), 0xC9))
    return Sequence(code, "enter; leave", 2, 0, 0, 1 << 5)


def flags(rng: random.Random) -> Sequence:
    """The flags pushed, changed in memory and popped: DF, too. All of them must be defined."""
    bits = rng.getrandbits(12) & (STATUS_FLAGS | DF)
    narrow = b"\x66" if rng.random() < 0.3 else b""
    code = narrow + b"\x9c\x66\x81\x34\x24" + bits.to_bytes(2, "little") + narrow + b"\x9d"
    return Sequence(code, f"pushf; xor word ptr [rsp],{bits:#x}; popf", 3, 0, STATUS_FLAGS, 0)


def jump(rng: random.Random) -> Sequence:
    """An indirect jump over an instruction that nobody executes."""
    register = rng.choice((0, 1, 2, 3, 6))
    target = (0xFF, 0xE0 | register)  # jmp register
    code = bytes((0x48, 0x8D, 0x05 | register << 3, 4, 0, 0, 0, *target, 0x0F, 0x0B))  # lea register, [rip + 4]; jmp; ud2
    return Sequence(code, "lea; jmp", 2, 0, 0, 1 << register)


def control(rng: random.Random) -> Sequence:
    """LDMXCSR or FLDCW: any rounding, precision, flushing; exceptions masked but for a few runs."""
    masks = 0x3F if rng.random() < 0.97 else rng.getrandbits(6)
    place = (SCRATCH + 4 * rng.randrange(0x400)).to_bytes(4, "little")
    if rng.random() < 0.5:
        value = masks << 7 | rng.getrandbits(2) << 13 | rng.choice((0, 0, 0x40, 0x8000, 0x8040))
        return Sequence(
            b"\xc7\x04\x25" + place + value.to_bytes(4, "little") + b"\x0f\xae\x14\x25" + place, f"ldmxcsr {value:#x}", 2, 0, 0, 0
        )
    value = 0x40 | masks | rng.getrandbits(4) << 8
    return Sequence(
        b"\x66\xc7\x04\x25" + place + value.to_bytes(2, "little") + b"\xd9\x2c\x25" + place, f"fldcw {value:#x}", 2, 0, 0, 0
    )


SEQUENCES = (string, string, string, divide, translate, frame, flags, jump, control)
