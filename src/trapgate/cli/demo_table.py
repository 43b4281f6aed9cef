"""Draws the tables of `trapgate demo`: what was armed, who got it, what the guest read, what other VMMs make of the same events."""

from collections.abc import Iterable

from rich import box
from rich.table import Table

from trapgate.check.guest import BRANCH_STEP, DB, EXCEPTIONS, GENERAL_DETECT, TF, Case, Results, differences, seen
from trapgate.cli.demo_debugger import Session, Step, lost
from trapgate.cli.demo_others import ACTIVE_LOW, VMMS
from trapgate.debug import explain
from trapgate.values import dataclass

BUS_LOCK_DETECT = 1 << 2  # DEBUGCTL
KINDS = ("exec", "write", "I/O", "access")  # DR7.R/Wn
FATES = {  # what else may come of a guest's #DB: heading, and the word by which `demo_others` tells it
    "lost\nto gdb": "lost to gdb",
    "\nlost": "dropped",
    "made\n#BP": "#BP",
    "false\nbus lock": "false BLD",
    "bus lock\nhidden": "no BLD",
}
WITH_CAUSES, WITH_ARMED = 96, 124  # columns from which the table also says what each case raises, and what the guest armed


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
    parts += ["GD"] if case.dr7 & GENERAL_DETECT else []
    parts += ["bus lock trap"] if case.debugctl & BUS_LOCK_DETECT else []
    return ", ".join(parts) or "-"


def got(case: Case, session: Session) -> str:
    """The stops that the debugger got in one case."""
    names = [stop.step.action for stop in session.of(case)]
    return ", ".join(f"{names.count(name)} {name}" if names.count(name) > 1 else name for name in dict.fromkeys(names)) or "-"


def rows(cases: Iterable[Case], alone: Results, steps: list[Step], session: Session, debugged: Results) -> list[Row]:
    """Every case with what came of it in both runs."""
    result = []
    for case in cases:
        wrong = [f"alone: {text}" for text in differences(case, alone)]
        wrong += [f"under the debugger: {text}" for text in differences(case, debugged)]
        wrong += lost(case, steps, session)
        if not wrong and alone.of(case) != debugged.of(case):
            wrong.append("the guest can tell that it is debugged: its handler read something else")
        result.append(Row(case, seen(case, alone), got(case, session), seen(case, debugged), tuple(wrong)))
    return result


def main_table(all_rows: list[Row], width: int) -> Table:
    """Who armed what, who got it, and what the guest read, on so many columns of text, fewer columns when narrow."""
    table = Table(title="Every debug exception, and who gets it", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("the guest's case", no_wrap=True)
    if width >= WITH_ARMED:
        table.add_column("it arms", no_wrap=True)
    if width >= WITH_CAUSES:
        table.add_column("DR6 causes", no_wrap=True)
    table.add_column("gdb got", no_wrap=True)
    table.add_column("reads\nalone", no_wrap=True)
    table.add_column("reads\nunder gdb", no_wrap=True)
    table.add_column("")
    for row in all_rows:
        cells = [row.case.name]
        if width >= WITH_ARMED:
            cells.append(armed(row.case))
        if width >= WITH_CAUSES:
            cells.append(causes(row.case))
        mark = "[red]wrong[/red]" if row.wrong else "[green]right[/green]"
        table.add_row(*cells, row.debugger, row.alone, row.debugged, mark)
    return table


def others_table(cases: Iterable[Case], right: int) -> Table:
    """What other VMMs' rules make of the guest's own #DBs while a debugger has breakpoints elsewhere; `right`: our count."""
    mine = own_db(cases)
    table = Table(
        title=f"What becomes of {len(mine)} #DBs of the guest's own under gdb, by each VMM's rule (computed)",
        title_justify="left", title_style="bold", box=box.SIMPLE_HEAD,
    )  # fmt: skip
    table.add_column("", no_wrap=True)
    for name in ("\nright", *FATES):
        table.add_column(name, justify="right", no_wrap=True)
    for vmm, rule in VMMS.items():
        fates = [rule(case.expected[0].dr6 ^ ACTIVE_LOW) for case in mine]
        counts = [sum(word in fate for fate in fates) for word in FATES.values()]
        table.add_row(vmm, *(str(count) if count else "-" for count in (len(mine) - sum(counts), *counts)))
    table.add_row("trapgate, as above", f"[green]{right}[/green]", *("-" for _ in FATES), end_section=True)
    return table


def own_db(cases: Iterable[Case]) -> list[Case]:
    """The cases in which the guest arms exactly one #DB."""
    return [case for case in cases if len(case.expected) == 1 and case.expected[0].vector == DB]
