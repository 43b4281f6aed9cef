"""Tells what a check has found: as a table with the faults below it, as JSON, as JUnit XML."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree as xml

from rich import box
from rich.markup import escape
from rich.table import Table

from trapgate.check.guest import DB, EXCEPTIONS, Case
from trapgate.check.suite import Cell, State

_NOT_XML = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD]")
_MISSING = {State.LACKS: "not judged", State.NOT_RUN: "not run"}
_SHOWN = 2  # exceptions of a case that went wrong, in the table


def manual(case: Case) -> str:
    """What the manuals let the guest read: DR6 of each #DB, other exceptions by name, or the value that it looks at."""
    if case.expected:
        return " ".join(f"{one.dr6:08X}" if one.vector == DB else EXCEPTIONS[one.vector] for one in case.expected)
    if case.value >> 32:
        return f"{case.value >> 32:08X} {case.value & 0xFFFF_FFFF:08X}"
    return f"{case.value:X}" if case.value_mask else "-"


def table(cells: Sequence[Cell]) -> Table:
    """A row for each case, a column for each manner: ok, or what the guest read instead."""
    found = Table(title="What the guest reads, by what the debugger has armed", title_justify="left", box=box.SIMPLE_HEAD)
    found.add_column("the guest's case", no_wrap=True)
    found.add_column("the manual\nsays", no_wrap=True)
    manners = list(dict.fromkeys(one.manner for one in cells))
    for manner in manners:
        first, _, second = manner.title.partition(" ")
        found.add_column(f"{first}\n{second}", no_wrap=True)
    by_place = {(one.case.number, one.manner.name): one for one in cells}
    for case in dict.fromkeys(one.case for one in cells):
        row = [by_place.get((case.number, manner.name)) for manner in manners]
        found.add_row(case.name, "\n".join(manual(case).split()), *map(_short, row))
    return found


def _short(cell: Cell | None) -> str:
    if cell is None or cell.state is State.NONE:
        return ""
    if cell.state is State.RIGHT:
        return "[green]ok[/green]"
    if cell.state is State.WRONG:
        lines = cell.read.split("\n")
        text = "\n".join([*lines[:_SHOWN], *[".."] * (len(lines) > _SHOWN)])
        if text == "\n".join(manual(cell.case).split()):
            text = "stopped" if cell.unasked else "wrong"
        return f"[red]{escape(text if text != '-' else 'nothing')}[/red]"
    return f"[dim]{cell.state.value}[/dim]"


def faults(cells: Sequence[Cell]) -> list[str]:
    """What is wrong, a line for each fault of a case, with the manners that show it; then what could not be run or judged."""
    manners: dict[tuple[str, str], list[str]] = {}
    missing: Counter[tuple[str, str]] = Counter()
    asked = Counter(one.case.name for one in cells if one.state is not State.NONE)
    for one in cells:
        if one.state is State.WRONG:
            manners.setdefault((one.case.name, "; ".join(one.trouble)), []).append(one.manner.title)
        elif one.state in _MISSING:
            missing[_MISSING[one.state], "; ".join(one.trouble)] += 1
    lines = [
        f"{name}: {text} ({'always' if len(titles) == asked[name] > 1 else ', '.join(titles)})"
        for (name, text), titles in manners.items()
    ]
    return lines + [f"{word}, {count}: {text}" for (word, text), count in missing.items()]


def summary(cells: Iterable[Cell]) -> str:
    """How many are right, wrong, and not judged."""
    counts = Counter(one.state for one in cells)
    judged = counts[State.RIGHT] + counts[State.WRONG]
    rest = [f"{counts[state]} {word}" for state, word in _MISSING.items() if counts[state]]
    return ", ".join([f"{counts[State.RIGHT]} of {judged} are right", *rest])


def as_json(monitor: str, cells: Iterable[Cell]) -> str:
    """Everything, one object a cell."""
    rows = [
        {
            "case": one.case.name,
            "manner": one.manner.name,
            "state": one.state.value,
            "manual": [{"vector": e.vector, "dr6": e.dr6, "rip": e.rip, "tf": e.tf} for e in one.case.expected],
            "read": [{"vector": vector, "dr6": value} for vector, value in zip(one.vectors, one.dr6, strict=True)],
            "unasked": one.unasked,
            "trouble": list(one.trouble),
        }
        for one in cells
        if one.state is not State.NONE
    ]
    return json.dumps({"monitor": monitor, "rows": rows}, indent=1) + "\n"


def as_junit(monitor: str, cells: Iterable[Cell]) -> bytes:
    """A suite for each manner, a test for each case: failures are wrong rows, errors those that could not be run."""
    elements = {State.WRONG: "failure", State.NOT_RUN: "error", State.LACKS: "skipped"}
    root = xml.Element("testsuites", name=_clean(monitor))
    suites: dict[str, list[Cell]] = {}
    for one in cells:
        if one.state is not State.NONE:
            suites.setdefault(one.manner.title, []).append(one)
    for title, those in suites.items():
        counts = Counter(one.state for one in those)
        numbers = {f"{name}s" if name != "skipped" else name: str(counts[state]) for state, name in elements.items()}
        suite = xml.SubElement(root, "testsuite", {"name": title, "tests": str(len(those)), **numbers})
        for one in those:
            case = xml.SubElement(suite, "testcase", classname=f"check.{one.manner.name}", name=one.case.name)
            if name := elements.get(one.state):
                text = _clean("\n".join(one.trouble))
                xml.SubElement(case, name, message=text.partition("\n")[0]).text = text
    document: bytes = xml.tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def _clean(text: str) -> str:
    return _NOT_XML.sub("?", text)
