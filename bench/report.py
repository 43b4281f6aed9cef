"""Numbers from runs: medians less start-up, ratios, spread, geometric mean; tables on the terminal and as Markdown."""

import math
import os
import platform
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table as Terminal


@dataclass(frozen=True, slots=True)
class Sample:
    """The times of one workload on one engine, in seconds, as measured; `overhead` is taken off them."""

    times: tuple[float, ...]
    overhead: float = 0.0

    @property
    def median(self) -> float:
        """Median less the overhead, never below a millisecond: what is smaller was not measured."""
        return max(statistics.median(self.times) - self.overhead, 1e-3)

    @property
    def spread(self) -> float:
        """Half the distance between the slowest and the fastest run, as a part of the median."""
        return (max(self.times) - min(self.times)) / 2 / self.median


@dataclass(frozen=True, slots=True)
class Row:
    """A workload and its sample on each engine, in the engines' order."""

    name: str
    work: str
    samples: tuple[Sample, ...]

    def ratio(self) -> float | None:
        """Time of the second engine over the time of the first: below 1 the second is faster. None for one engine."""
        return self.samples[1].median / self.samples[0].median if len(self.samples) == 2 else None


@dataclass(frozen=True, slots=True)
class Table:
    """What one section shows. The first `words` columns hold words, the others numbers; `last` is the row of the mean, if any."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    last: Sequence[str] | None = None
    words: int = 2
    note: str = ""  # how it was measured: a sentence or two below the table


def geometric_mean(values: Sequence[float]) -> float:
    """The geometric mean of positive numbers; there must be one."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


def compare(title: str, engines: Sequence[str], rows: Sequence[Row], averaged: Sequence[Row] = ()) -> Table:
    """Workloads on one engine or two; the rows `averaged` go into the geometric mean."""
    heads = ["workload", "one round"]
    for name in engines:
        heads += [f"{name}, s", "spread"]
    heads += [f"{engines[1]} / {engines[0]}"] if len(engines) == 2 else []
    ratios = [ratio for row in averaged if (ratio := row.ratio()) is not None]
    # The first cell is the title, the last the number; what lies between has no mean.
    last = ["geometric mean", "", "", "", "", "", f"{geometric_mean(ratios):.2f}"] if ratios else None
    return Table(title, heads, [cells(row) for row in rows], last)


def cells(row: Row) -> list[str]:
    """A row of `compare` as text."""
    out = [row.name, row.work]
    for sample in row.samples:
        out += [f"{sample.median:.3f}", f"±{sample.spread:.0%}"]
    ratio = row.ratio()
    return out if ratio is None else [*out, f"{ratio:.2f}"]


def terminal(table: Table) -> Terminal:
    """The table for the terminal."""
    shown = Terminal(title=table.title, caption=table.note or None)
    for index, head in enumerate(table.heads):
        shown.add_column(head, justify="left" if index < table.words else "right")
    for row in table.rows:
        shown.add_row(*row)
    if table.last:
        shown.add_section()
        shown.add_row(*table.last)
    return shown


def markdown(table: Table) -> str:
    """The table as Markdown, with its title and its note."""
    lines = [f"### {table.title}", "", _line(table.heads)]
    lines.append(_line(["---" if index < table.words else "---:" for index in range(len(table.heads))]))
    lines += [_line(row) for row in table.rows]
    if table.last:
        lines.append(_line([f"**{cell}**" if cell else "" for cell in table.last]))
    return "\n".join([*lines, "", table.note] if table.note else lines) + "\n"


def _line(words: Sequence[str]) -> str:
    return "| " + " | ".join(word.replace("|", "\\|") for word in words) + " |"


def host() -> str:
    """The machine that measured."""
    model = "an unknown processor"
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        model = found[1] if found else model
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()}"


def write_section(path: Path, name: str, text: str) -> None:
    """Put text between the two marks of a section in a Markdown file; without them they come at its end. Other text stays."""
    begin, end = f"<!-- bench: {name} -->", f"<!-- bench: end of {name} -->"
    section = f"{begin}\n{text.strip()}\n{end}"
    old = path.read_text() if path.is_file() else ""
    if begin in old and end in old and old.index(begin) < old.index(end):
        new = old[: old.index(begin)] + section + old[old.index(end) + len(end) :]
    else:
        new = (old.rstrip() + "\n\n" if old.strip() else "") + section + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(new)
