"""Records what this host's processor answers, for other hosts to be judged by (`make silicon-record`).

The choice is the same on every host but for instructions that it lacks: some cases of each opcode of the catalogs and of 32-bit
and 16-bit code, all of `vendor_kinds` and of `regressions`. Registers that a case does not use come from one of a few
backgrounds, and what a recording of the same vendor has already is counted, not written, so that the file stays small.
"""

import datetime
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click
from iced_x86 import InstructionInfoFactory, Register
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from . import alignment_cases, compat, draft, host_code, inputs_float, recording, segment_cases, vendor_kinds
from .compare import Case
from .decoded import form_of, instructions_of
from .families import FAMILIES, Family
from .forms import by_opcode
from .host import HostCpu, HostCpuError
from .processor import Processor, host_processor, lacking
from .recording import Answer, Recording, RecordingError
from .regressions import REGRESSIONS
from .state import FX_INIT, RSP, State
from .undefined import full_register

SEED = "recording 1"
SIXTEEN = "compat/16-bit"
EACH = {"integer": 16, "sse": 16, "avx": 4, "x87": 24, "branches": 1}  # cases of an opcode
STRINGS, ALIGNMENT = 40, 2  # cases of the opcode of a string instruction, of each with RFLAGS.AC
SEGMENTS = 2  # cases of an instruction with its operand in FS or GS
COMPAT = 1500  # cases of 32-bit code, of 16-bit code
_info = InstructionInfoFactory()


def backgrounds() -> tuple[State, ...]:
    """States in which every register and all memory hold noise, always the same."""
    rng = random.Random(SEED)
    return tuple(
        State(
            tuple(rng.getrandbits(64) for _ in range(16)),
            0x202,
            FX_INIT[:32] + inputs_float.x87_stack(rng) + inputs_float.xmm(rng),
            memory,
        )
        for memory in draft.backgrounds()
    )


def settled(case: Case, background: State) -> Case:
    """The case with the background's value in every register that its code does not use: nothing then needs to be stored of it."""
    form, state = case
    used = {use.register for instruction in instructions_of(form.code) for use in _info.info(instruction).used_registers()}
    general = {full_register(register) for register in used} | {RSP}
    gpr = tuple(state.gpr[n] if n in general else background.gpr[n] for n in range(16))
    fx, top = bytearray(state.fx), state.fx[3] >> 3 & 7  # FSW.TOP
    for n in range(8):
        if not used & {Register.ST0 + n, Register.MM0 + (n + top) % 8}:  # the image has ST0 first; MMX registers do not move
            fx[32 + 16 * n : 48 + 16 * n] = background.fx[32 + 16 * n : 48 + 16 * n]
    upper = bytearray(state.upper)
    for n in range(16):
        if not used & {Register.XMM0 + n, Register.YMM0 + n, Register.ZMM0 + n}:
            fx[160 + 16 * n : 176 + 16 * n] = background.fx[160 + 16 * n : 176 + 16 * n]
            upper[16 * n : 16 * n + 16] = background.upper[16 * n : 16 * n + 16]
    return Case(form, state._replace(gpr=gpr, fx=bytes(fx), upper=bytes(upper)))


def _of_mnemonic(family: Family, mnemonic: str) -> Iterator[Case]:
    """Some cases of each opcode of an instruction."""
    for opcode, forms in by_opcode(family.forms(mnemonic)).items():
        each = STRINGS if forms[0].instruction.is_string_instruction else EACH[family.name]
        rng = random.Random(f"{SEED} {family.name} {opcode}")
        for form in rng.sample(forms, min(each, len(forms))) + rng.choices(forms, k=max(each - len(forms), 0)):
            yield Case(form, family.make(form, rng))


def chosen() -> dict[str, list[Case]]:
    """Every case to record, by group ("family/name")."""
    near = backgrounds()
    groups: dict[str, list[Case]] = {}
    for family in FAMILIES:
        for mnemonic in family.mnemonics:
            found = (settled(case, near[recording.nearest(case.state, near)]) for case in _of_mnemonic(family, mnemonic))
            groups[f"{family.name}/{mnemonic}"] = list(found)
    for mode in (compat.CODE_32, compat.CODE_16):
        rng = random.Random(SEED)
        narrow = (compat.make_case(rng, mode) for _ in range(COMPAT))
        groups[SIXTEEN if mode is compat.CODE_16 else "compat/32-bit"] = [
            settled(case, near[recording.nearest(case.state, near)]) for case in narrow
        ]
    for family in alignment_cases.CHECKED:
        with_check = (case for name in family.mnemonics for case in alignment_cases.chosen(family, name, ALIGNMENT))
        groups[f"{family.name}/alignment"] = [settled(case, near[recording.nearest(case.state, near)]) for case in with_check]
    groups["vendors/alignment"] = list(alignment_cases.tabled())
    if host_code.segment_bases():
        for family in segment_cases.NAMED:
            in_segments = segment_cases.chosen(family, SEGMENTS)
            groups[f"segments/{family.name}"] = [settled(case, near[recording.nearest(case.state, near)]) for case in in_segments]
        groups["segments/bases"] = list(segment_cases.bases())
    for kind in vendor_kinds.KINDS:
        groups[f"vendors/{kind}"] = list(vendor_kinds.cases(kind))
    found = (regression.case() for regression in REGRESSIONS)
    groups["regressions/all"] = [Case(form_of("regressions", case.form.code), case.state) for case in found]
    return groups


def answers(host: HostCpu, cases: Sequence[Case], near: Sequence[State]) -> Iterator[Answer]:
    """What silicon answers. Left out are cases that end in the host's kernel, and those that end otherwise a second time."""
    work = [(case.form.code, case.state) for case in cases]
    for case, once, twice in zip(cases, list(host.run_many(work)), host.run_many(work), strict=True):
        if once == twice and (once.fault is None or once.fault.vector is not None):
            yield Answer(case, recording.nearest(case.state, near), once)


def possible(cases: Iterable[Case], processor: Processor) -> list[Case]:
    """The cases whose instructions the processor has."""
    return [case for case in cases if not any(lacking(processor, i) for i in instructions_of(case.form.code))]


def apart(made: dict[str, list[Answer]], others: Sequence[Recording]) -> tuple[dict[str, list[Answer]], Counter[str]]:
    """The answers that no other recording holds, and by each recording's name how many it holds."""
    new: dict[str, list[Answer]] = {}
    agrees: Counter[str] = Counter()
    for group, answers in made.items():
        for answer in answers:
            holder = next((other.name for other in others if other.holds(group, answer)), None)
            if holder is None:
                new.setdefault(group, []).append(answer)
            else:
                agrees[holder] += 1
    return new, agrees


@click.command()
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="The file to make (default: named by the processor)."
)
def main(output: Path | None) -> None:
    """Record what this host's processor answers to the cases of tests/silicon."""
    console = Console()
    try:
        processor, near = host_processor(), backgrounds()
        path = output or recording.FOLDER / f"{processor.slug}{recording.SUFFIX}"
        made: dict[str, list[Answer]] = {}
        columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress, HostCpu() as host:
            task = progress.add_task("choosing cases", total=None)
            groups = chosen()
            for name, cases in progress.track(groups.items(), task_id=task, total=len(groups)):
                progress.update(task, description=name)
                if name == SIXTEEN and not compat.goes_there(host, compat.CODE_16):
                    continue
                if found := list(answers(host, possible(cases, processor), near)):
                    made[name] = found
            progress.update(task, description="writing", total=None)
            path.parent.mkdir(parents=True, exist_ok=True)
            others = [other for other in recording.of_vendor(processor.vendor) if other.processor.slug != processor.slug]
            new, agrees = apart(made, others)
            recording.write(path, processor, datetime.date.today().isoformat(), near, new, agrees)
    except (HostCpuError, OSError, RecordingError, ValueError) as error:
        console.print(f"silicon-record: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
    count, whole = sum(map(len, new.values())), sum(map(len, groups.values()))
    told = [f"{processor}: {count:,} of {whole:,} cases recorded in {path}"]
    told += [f"{same:,} answered just as {name} has them" for name, same in agrees.items()]
    console.print("; ".join(told), markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
