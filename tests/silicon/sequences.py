"""Straight runs of instructions with forward branches and a loop around them: what single instructions cannot show.

A translator leaves out flags that nobody reads, joins a compare with the branch behind it and chains blocks; so the host judges
runs in which instructions depend on each other's flags, fault in the middle, and come round again. Undefined flags are followed
through the run: no instruction reads one, and the comparison masks those left at the end.
"""

import random
from functools import cache
from typing import NamedTuple

from iced_x86 import Instruction, InstructionInfoFactory, OpAccess, OpKind, Register, RflagsBits

from . import catalog
from .compare import Case
from .draft import Draft
from .forms import Form
from .state import AF, CF, OF, PF, RSP, SCRATCH, SF, ZF, State
from .undefined import NO_REGISTER, full_register, operand_width

# What is defined for every operand but for flags (of which iced-x86 tells).
MNEMONICS = (
    "add adc sub sbb cmp and or xor test neg not inc dec mov movzx movsx movsxd lea xchg xadd cmpxchg shl shr sar rol ror rcl rcr "
    "bt bts btr btc imul tzcnt lzcnt popcnt andn blsi blsr adcx adox cwde cdqe cqo clc stc cmc push pop "
    "div idiv xlatb lodsb stosd nop"
).split() + [f"{kind}{condition}" for kind in ("cmov", "set") for condition in catalog.CONDITIONS]
BRANCH = 0x70  # Jcc rel8
LIMIT = 110  # bytes of a run, below the 128 of a case
ROUNDS = 3
COUNTER = 15  # R15, of the loop: no instruction of the run touches it
_FLAGS = {
    RflagsBits.CF: CF, RflagsBits.PF: PF, RflagsBits.AF: AF, RflagsBits.ZF: ZF, RflagsBits.SF: SF, RflagsBits.OF: OF,
}  # fmt: skip
_SHIFTS = ("shl", "shr", "sar", "rol", "ror", "rcl", "rcr")
_CONDITION_READS = (OF, OF, CF, CF, ZF, ZF, CF | ZF, CF | ZF, SF, SF, PF, PF, SF | OF, SF | OF, SF | OF | ZF, SF | OF | ZF)


class Step(NamedTuple):
    """A form and what it does to the status flags: reads, leaves undefined, settles."""

    form: Form
    reads: int
    undefined: int
    settles: int


def _bits(flags: int) -> int:
    return sum(bit for theirs, bit in _FLAGS.items() if flags & theirs)


def undefined_by_table(instruction: Instruction) -> int:
    """Status flags that an instruction leaves undefined, as far as the opcode table knows."""
    return _bits(instruction.rflags_undefined)


def _step(form: Form) -> Step:
    instruction = form.instruction
    reads, undefined = _bits(instruction.rflags_read), _bits(instruction.rflags_undefined)
    modified = _bits(instruction.rflags_modified)
    if form.mnemonic in _SHIFTS:
        if instruction.op1_kind == OpKind.REGISTER:  # whether any flag changes depends on the count
            return Step(form, reads, modified, 0)
        if instruction.immediate8 & 0x3F >= operand_width(form):
            undefined |= modified & CF
    return Step(form, reads, undefined, modified & ~undefined)


def _fits(form: Form, info: InstructionInfoFactory) -> bool:
    """Whether a form may stand anywhere: it leaves the counter alone, moves RSP only as a stack instruction, and its memory
    operand, if any, lies in the scratch area, at RDI (which mostly points there) or at RBX (XLAT)."""
    instruction = form.instruction
    if instruction.has_lock_prefix or instruction.has_rep_prefix:
        return False
    for used in info.info(instruction).used_registers():
        number = full_register(used.register)
        if number == COUNTER:
            return False
        if number == RSP and used.access not in (OpAccess.READ, OpAccess.COND_READ) and not instruction.is_stack_instruction:
            return False
    if any(instruction.op_kind(n) == OpKind.MEMORY for n in range(instruction.op_count)) and form.mnemonic != "lea":
        if form.mnemonic == "xchg":  # a lock, which must not be split
            return False
        absolute = instruction.memory_base in (NO_REGISTER, Register.RDI) and instruction.memory_index == NO_REGISTER
        if not (instruction.is_ip_rel_memory_operand or absolute or form.mnemonic == "xlatb"):
            return False
        if form.mnemonic in ("bt", "bts", "btr", "btc") and instruction.op1_kind == OpKind.REGISTER:
            return False
    return not (form.mnemonic in ("push", "pop") and full_register(instruction.op0_register) == RSP)


@cache
def steps() -> dict[str, tuple[Step, ...]]:
    """The forms that runs are made of, by mnemonic."""
    info = InstructionInfoFactory()
    found = {name: tuple(_step(form) for form in catalog.forms(name) if _fits(form, info)) for name in MNEMONICS}
    return {name: forms for name, forms in found.items() if forms}


class Run(NamedTuple):
    """A run as a case. `at_end`, `anywhere`: status flags that nothing defines at its end, at some place where it may fault."""

    case: Case
    at_end: int
    anywhere: int


def _branch(rng: random.Random, poison: int) -> int | None:
    """A condition none of whose flags is undefined."""
    choices = [code for code, reads in enumerate(_CONDITION_READS) if not reads & poison]
    return rng.choice(choices) if choices else None


def make_run(seed: str) -> Run:
    """A run of 3 to 12 instructions, half of them `ROUNDS` times around."""
    rng = random.Random(seed)
    table = steps()
    loops, branches = rng.random() < 0.5, rng.choice((0, 0.3, 0.6))
    code, texts = bytearray(b"\x41\xbf" + ROUNDS.to_bytes(4, "little") if loops else b""), list[str]()
    start = len(code)
    poison = everywhere = 0
    joins: list[tuple[int, int, int]] = []  # (offset of the displacement, instructions left to jump over, undefined flags)
    for _ in range(rng.randrange(3, 13)):
        step = rng.choice(table[rng.choice(list(table))])
        if step.reads & poison or len(code) > LIMIT - 15:
            continue
        code += step.form.code
        texts.append(step.form.text)
        poison = poison & ~step.settles | step.undefined
        everywhere |= poison
        joins = [(at, left - 1, flags) for at, left, flags in joins]
        for at, _, flags in (join for join in joins if join[1] == 0):
            code[at] = len(code) - at - 1
            poison |= flags
        joins = [join for join in joins if join[1]]
        if rng.random() < branches and (condition := _branch(rng, poison)) is not None:
            code += bytes((BRANCH | condition, 0))
            texts.append(f"j{catalog.CONDITIONS[condition]}")
            joins.append((len(code) - 1, rng.randrange(1, 4), poison))
    for at, _, flags in joins:
        code[at] = len(code) - at - 1
        poison |= flags
    if loops:  # sub r15d, 1; jnz start
        code += b"\x41\x83\xef\x01\x75"
        code.append(start - len(code) - 1 & 0xFF)
        poison = 0
    shown = catalog.forms("nop")[0]
    form = Form(bytes(code), shown.instruction, "nop", "; ".join(texts) + (" (loop)" if loops else ""))
    return Run(Case(form, _state(rng)), poison, everywhere)


def _state(rng: random.Random) -> State:
    draft = Draft(catalog.forms("add")[rng.randrange(8)], rng)
    for number in (0, 2):  # divisors and dividends that often work, XLAT and string addresses that do
        if rng.random() < 0.5:
            draft.gpr[number] &= 0xFF
    draft.gpr[3] = SCRATCH + 0x800 if rng.random() < 0.6 else draft.gpr[3]
    for number in (6, 7):
        if rng.random() < 0.8:
            draft.gpr[number] = SCRATCH + 0x1000 + rng.randrange(0x800)
    return draft.finish()
