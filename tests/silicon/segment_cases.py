"""Cases with memory operands in FS and GS, whose bases the code sets itself; and what reads and sets the bases."""

import random
from collections.abc import Iterator

from iced_x86 import OpKind, Register

from . import operands
from .compare import Case
from .decoded import form_of
from .draft import MASK64
from .families import FAMILIES, Family
from .forms import Form
from .inputs import narrow
from .state import FX_INIT, RAX, RDX, SCRATCH, SCRATCH_SIZE, State
from .undefined import full_register

SLOT = SCRATCH + 0x40  # where the code finds the base
PREFIXES = {"fs": b"\x64", "gs": b"\x65"}
_READ, _WRITE = {"fs": 0xC0, "gs": 0xC8}, {"fs": 0xD0, "gs": 0xD8}  # ModRM of RDFSBASE and its like with (R)AX
EXCHANGE = b"\x48\x87\x04\x25" + SLOT.to_bytes(4, "little")  # xchg [SLOT], rax: no flag changes
BASES = (0, 0x40, -0x40 & MASK64, 0x7C0, 1 << 40, -(1 << 32) & MASK64, 1 << 32, (1 << 47) - 0x40, -(1 << 47) & MASK64)  # canonical
BEYOND = (1 << 47, (1 << 63) - 1, 1 << 63, (-(1 << 47) - 1) & MASK64)
NAMED = tuple(family for family in FAMILIES if family.name != "branches")
# Their flags depend on operands, where the union of what a run leaves undefined is too narrow; or they go elsewhere.
_LEFT_OUT = frozenset("rol ror rcl rcr shl sal shr sar shld shrd bsf bsr jmp call ldmxcsr".split())


def access(segment: str, modrm: int, wide: bool = True) -> bytes:
    """RDFSBASE, RDGSBASE, WRFSBASE or WRGSBASE with a ModRM byte; the prefix is part of the opcode."""
    assert segment in PREFIXES
    return b"\xf3" + b"\x48" * wide + b"\x0f\xae" + bytes((modrm,))


def setting(segment: str) -> bytes:
    """Code that sets the base from SLOT and changes nothing else."""
    return EXCHANGE + access(segment, _WRITE[segment]) + EXCHANGE


def _uses_memory(form: Form) -> bool:
    """Whether an override counts: a memory operand by ModRM, or the source of a string instruction."""
    instruction = form.instruction
    kinds = {instruction.op_kind(n) for n in range(instruction.op_count)}
    return OpKind.MEMORY in kinds or (OpKind.MEMORY_SEG_RSI in kinds and not narrow(instruction))


def moved(case: Case, segment: str, base: int) -> Case:
    """The case with its memory operand in a segment with this base, at the same linear address where its registers allow that."""
    form, state = case
    gpr, memory = list(state.gpr), bytearray(state.memory)
    number = full_register(form.instruction.memory_base) if form.instruction.memory_base else None
    if number is not None and form.instruction.memory_base != Register.RSP:
        gpr[number] = (gpr[number] - base) & MASK64
    memory[SLOT - SCRATCH : SLOT - SCRATCH + 8] = base.to_bytes(8, "little")
    code = setting(segment) + PREFIXES[segment] + form.code
    return Case(form_of("segments", code), state._replace(gpr=tuple(gpr), memory=bytes(memory)))


def chosen(family: Family, each: int) -> Iterator[Case]:
    """Some cases of each instruction with a memory operand, by a fixed seed."""
    for mnemonic in family.mnemonics:
        forms = [form for form in family.forms(mnemonic) if _uses_memory(form) and len(form.code) < 15]
        if forms and mnemonic not in _LEFT_OUT:
            rng = random.Random(f"segments {mnemonic}")
            for n in range(each):
                form = rng.choice(forms)
                base = rng.choice(BASES) if n else 0x40
                yield moved(Case(form, family.make(form, rng)), rng.choice(tuple(PREFIXES)), base)


def bases() -> Iterator[Case]:
    """Setting a base with 64 and 32 bits, reading it back so, after loading a selector as well; what is not canonical is #GP(0)."""
    rng = random.Random("bases")
    values = (*BASES, *BEYOND, *(operands.integer(rng, 64) for _ in range(20)))
    for segment in PREFIXES:
        load = bytes.fromhex("8ee2" if segment == "fs" else "8eea")  # mov fs, edx or gs, edx
        for value in values:
            for wide_write, wide_read, between in ((True, True, b""), (False, True, b""), (True, False, b""), (True, True, load)):
                code = access(segment, _WRITE[segment], wide_write) + between + access(segment, _READ[segment] + 3, wide_read)
                gpr = [value if n == RAX else 0x2B if n == RDX else SCRATCH + 0x1000 for n in range(16)]
                yield Case(form_of("segments", code), State(tuple(gpr), 0x202, FX_INIT, bytes(SCRATCH_SIZE)))
