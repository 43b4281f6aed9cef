"""Two outcomes of one case, compared bit by bit where the manuals define the bits; differences come as sentences."""

from itertools import permutations
from typing import NamedTuple

from iced_x86 import OpKind

from .effective import address_of, describe_inputs, operand_value
from .forms import Form
from .state import AF, CF, DF, GPR_NAMES, IF, OF, PF, PF_FAULT, SCRATCH, SCRATCH_SIZE, SF, ZF, Outcome, State
from .undefined import (
    full_register,
    read_in_any_order,
    undefined_destination_if_zero,
    undefined_flags,
    undefined_fsw,
    undefined_result,
)

FLAG_NAMES = {CF: "CF", PF: "PF", AF: "AF", ZF: "ZF", SF: "SF", IF: "IF", DF: "DF", OF: "OF"}
# Fields of the FXSAVE image (SDM vol. 1, table 10-2): name, offset, size. The last x87 opcode and pointers (6-23) are left out: AMD
# saves them only while an exception is pending; MXCSR_MASK (28) is a fact about the processor.
Fields = tuple[tuple[str, int, int], ...]
FX_FIELDS: Fields = (
    ("FCW", 0, 2),
    ("FSW", 2, 2),
    ("FTW", 4, 1),
    ("MXCSR", 24, 4),
    *((f"st{n}", 32 + 16 * n, 10) for n in range(8)),
    *((f"xmm{n}", 160 + 16 * n, 16) for n in range(16)),
)
TASK_SIZE = 0x7FFF_FFFF_F000  # of a process under Linux with four levels of page tables
UPPER_FIELDS = tuple((f"ymm{n}h", 16 * n, 16) for n in range(16))
_FX_COMPARED = (slice(32, 416), slice(0, 5), slice(24, 28))  # all of them, to see quickly that nothing differs


class Case(NamedTuple):
    """One instruction and the state to execute it in."""

    form: Form
    state: State


def compare(case: Case, expected: Outcome, got: Outcome) -> list[str]:
    """What differs between the outcome `expected` (the judge's) and `got`, one sentence each; empty when nothing defined does."""
    differences: list[str] = []
    if not _same_fault(case.form, expected, got):
        differences.append(f"ended with {got.fault or 'no fault'}, expected {expected.fault or 'no fault'}")
    if expected.rip != got.rip:
        differences.append(f"rip is code{got.rip:+#x}, expected code{expected.rip:+#x}")
    _flags(case, expected, got, differences)
    masks = _result_masks(case)
    if expected.gpr != got.gpr:
        for number, (want, have) in enumerate(zip(expected.gpr, got.gpr, strict=True)):
            if (want ^ have) & ~masks.get(number, 0):
                differences.append(f"{GPR_NAMES[number]} is {have:#x}, expected {want:#x} (was {case.state.gpr[number]:#x})")
    if any(expected.fx[part] != got.fx[part] for part in _FX_COMPARED):
        _fx(case, expected, got, differences)
    if expected.upper != got.upper:
        _told(UPPER_FIELDS, case.form, (expected.upper, got.upper, case.state.upper), differences)
    if expected.memory != got.memory:
        _memory(case, expected, got, differences)
    return differences


def explain(case: Case, differences: list[str]) -> str:
    """A failure message: the instruction, its inputs, the differences."""
    return "\n  ".join([str(case.form), "with " + describe_inputs(*case), *differences])


def _same_fault(form: Form, expected: Outcome, got: Outcome) -> bool:
    """Whether two endings are the same.

    Either operand's #PF is right where their order is not defined, unless the operand is there. Linux hides from a process what
    is mapped from the last page of the lower half on: #PF there always says P = 1.
    """
    one, two = expected.fault, got.fault
    if one is None or two is None or not one.vector == two.vector == PF_FAULT:
        return one == two
    if one.address != two.address and not SCRATCH <= two.address < SCRATCH + SCRATCH_SIZE:
        places = read_in_any_order(form, got.gpr)
        if any(one.address in first and two.address in second for first, second in permutations(places, 2)):
            one = one._replace(address=two.address)
    if one.address >= TASK_SIZE:
        return (one.error | 1, one.address) == (two.error | 1, two.address)
    return one == two


def _flags(case: Case, expected: Outcome, got: Outcome, differences: list[str]) -> None:
    wrong = (expected.rflags ^ got.rflags) & ~undefined_flags(case.form, case.state)
    for bit, name in FLAG_NAMES.items():
        if wrong & bit:
            was = int(bool(case.state.rflags & bit))
            differences.append(f"{name} is {int(bool(got.rflags & bit))}, expected {int(bool(expected.rflags & bit))} (was {was})")


def _result_masks(case: Case) -> dict[int, int]:
    """Undefined bits by general register."""
    form, state = case
    instruction = form.instruction
    mask = undefined_result(form, state)
    if (unchanged := undefined_destination_if_zero(form)) and operand_value(form, state, 1) == 0:
        mask |= unchanged
    if not mask or instruction.op_kind(0) != OpKind.REGISTER:
        return {}
    number = full_register(instruction.op_register(0))
    return {} if number is None else {number: mask}


def _fx(case: Case, expected: Outcome, got: Outcome, differences: list[str]) -> None:
    _told(FX_FIELDS, case.form, (expected.fx, got.fx, case.state.fx), differences)


def _told(fields: Fields, form: Form, images: tuple[bytes, bytes, bytes], differences: list[str]) -> None:
    for name, offset, size in fields:
        want, have, was = (int.from_bytes(image[offset : offset + size], "little") for image in images)
        undefined = undefined_fsw(form) if name == "FSW" else 0
        if (want ^ have) & ~undefined:
            digits = 2 + 2 * size
            differences.append(f"{name} is {have:#0{digits}x}, expected {want:#0{digits}x} (was {was:#0{digits}x})")


def _memory(case: Case, expected: Outcome, got: Outcome, differences: list[str]) -> None:
    """Runs of differing bytes, at most four of them told."""
    form, state = case
    undefined: range = range(0)
    if undefined_result(form, state) and form.instruction.op_kind(0) == OpKind.MEMORY:
        at = address_of(form, state) - SCRATCH
        undefined = range(at, at + 2)
    wrong = [n for n, (a, b) in enumerate(zip(expected.memory, got.memory, strict=True)) if a != b and n not in undefined]
    runs: list[list[int]] = []
    for n in wrong:
        if runs and n == runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([n, n + 1])
    for low, high in runs[:4]:
        have, want, was = (memory[low:high][:16].hex(" ") for memory in (got.memory, expected.memory, state.memory))
        differences.append(f"memory at {SCRATCH + low:#x} ({high - low} bytes) is {have}, expected {want} (was {was})")
    if len(runs) > 4:
        differences.append(f"and {len(runs) - 4} more runs of wrong bytes")
