"""The tables of `trapgate demo`: what was armed, who got it, what the guest read, and what other VMMs make of the same events."""

from collections.abc import Iterable
from dataclasses import dataclass

from rich.table import Table

from trapgate.cli.demo_debugger import Session, Step, lost
from trapgate.cli.demo_guest import BRANCH_STEP, DB, GENERAL_DETECT, TF, Case, Results, differences
from trapgate.cli.demo_others import ACTIVE_LOW, VMMS
from trapgate.debug import explain

BUS_LOCK_DETECT = 1 << 2  # DEBUGCTL
KINDS = ("exec", "write", "I/O", "access")  # DR7.R/Wn
EXCEPTIONS = {1: "#DB", 3: "#BP", 6: "#UD", 13: "#GP", 14: "#PF"}


@dataclass(frozen=True, slots=True)
class Row:
    """One case in both runs. `wrong` says what is not as it must be; empty when all is right."""

    case: Case
    alone: str
    debugger: str
    debugged: str
    wrong: tuple[str, ...]


def causes(case: Case) -> str:
    """What the case raises, by the manual's names."""
    names = []
    for one in case.expected:
        bits = one.dr6 ^ ACTIVE_LOW
        if one.vector == DB:
            names.append(explain.causes(bits & ~0xF, bits & 0xF, not bits))
        else:
            names.append(EXCEPTIONS[one.vector])
    return ", ".join(names) or "none"


def armed(case: Case) -> str:
    """What the guest armed, by the names of the registers."""
    parts = ["TF"] if case.rflags & TF else []
    parts += ["BTF"] if case.debugctl & BRANCH_STEP else []
    parts += [f"DR{n} {KINDS[case.dr7 >> (16 + 4 * n) & 3]}" for n in range(4) if case.dr7 >> 2 * n & 3]
    parts += ["DR7.GD"] if case.dr7 & GENERAL_DETECT else []
    parts += ["DEBUGCTL[2]"] if case.debugctl & BUS_LOCK_DETECT else []
    return ", ".join(parts) or "nothing"


def read(case: Case, results: Results) -> str:
    """What the guest read in one run: DR6 in its handler, or the value that the case asked for."""
    if results.verdicts[case.number] == 0:
        return "skipped"
    events = results.of(case)
    if events:
        return ", ".join(f"{event.dr6:08X}" if event.vector == DB else EXCEPTIONS.get(event.vector, "?") for event in events)
    if case.value_mask:
        value = results.values[case.number] & case.value_mask
        return f"{value:X}"
    return "none"


def got(case: Case, session: Session) -> str:
    """The stops that the debugger got in one case."""
    names = [stop.step.action for stop in session.of(case)]
    return ", ".join(f"{name} x{names.count(name)}" if names.count(name) > 1 else name for name in dict.fromkeys(names)) or "none"


def rows(cases: Iterable[Case], alone: Results, steps: list[Step], session: Session, debugged: Results) -> list[Row]:
    """Every case with what came of it in both runs."""
    result = []
    for case in cases:
        wrong = [f"alone: {text}" for text in differences(case, alone)]
        wrong += [f"under the debugger: {text}" for text in differences(case, debugged)]
        wrong += lost(case, steps, session)
        if not wrong and alone.of(case) != debugged.of(case):
            wrong.append("the guest can tell that it is debugged: its handler read something else")
        result.append(Row(case, read(case, alone), got(case, session), read(case, debugged), tuple(wrong)))
    return result


def main_table(all_rows: list[Row]) -> Table:
    """Who armed what, who got it, and what the guest read."""
    table = Table(title="Every debug exception: the guest alone, and under the debugger", title_justify="left")
    columns = ("debug exception", "causes", "the guest armed", "alone it reads", "debugger got", "under it, guest reads", "")
    for column in columns:
        table.add_column(column, no_wrap=column != "the guest armed")
    for row in all_rows:
        mark = "[red]wrong[/red]" if row.wrong else "[green]right[/green]"
        table.add_row(row.case.name, causes(row.case), armed(row.case), row.alone, row.debugger, row.debugged, mark)
    return table


def others_table(cases: Iterable[Case]) -> Table:
    """What other VMMs make of the guest's own #DB while a debugger has breakpoints elsewhere."""
    table = Table(
        title="The guest's own #DB elsewhere while gdb is attached: what DR6 reads, by each one's rule", title_justify="left"
    )
    table.add_column("debug exception", no_wrap=True)
    table.add_column("DR6 must read", no_wrap=True)
    for name in VMMS:
        table.add_column(name)
    for case in cases:
        if len(case.expected) == 1 and case.expected[0].vector == DB:
            dr6 = case.expected[0].dr6
            table.add_row(case.name, f"{dr6:08X}", *(rule(dr6 ^ ACTIVE_LOW) for rule in VMMS.values()))
    return table
