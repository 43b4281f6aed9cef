"""Numbers from runs: medians less start-up, ratios, spread, geometric mean; as a table on the terminal and as Markdown."""

import math
import os
import platform
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


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


def geometric_mean(values: Sequence[float]) -> float:
    """The geometric mean of positive numbers; there must be one."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


def columns(engines: Sequence[str]) -> list[str]:
    """The headings of the table."""
    heads = ["workload", "one round"]
    for name in engines:
        heads += [f"{name}, s", "spread"]
    return heads + ([f"{engines[1]} / {engines[0]}"] if len(engines) == 2 else [])


def cells(row: Row) -> list[str]:
    """A row of the table as text."""
    out = [row.name, row.work]
    for sample in row.samples:
        out += [f"{sample.median:.3f}", f"±{sample.spread:.0%}"]
    ratio = row.ratio()
    return out if ratio is None else [*out, f"{ratio:.2f}"]


def mean_cells(rows: Sequence[Row]) -> list[str] | None:
    """The last row, with the geometric mean of the ratios; None for one engine."""
    ratios = [ratio for row in rows if (ratio := row.ratio()) is not None]
    # The first cell is the title, the last the number; what lies between has no mean.
    return ["geometric mean", "", "", "", "", "", f"{geometric_mean(ratios):.2f}"] if ratios else None


def terminal(title: str, engines: Sequence[str], rows: Sequence[Row], averaged: Sequence[Row]) -> Table:
    """The table for the terminal; the rows `averaged` go into the geometric mean."""
    table = Table(title=title)
    for index, head in enumerate(columns(engines)):
        table.add_column(head, justify="left" if index < 2 else "right")
    for row in rows:
        table.add_row(*cells(row))
    last = mean_cells(averaged)
    if last:
        table.add_section()
        table.add_row(*last)
    return table


def markdown(title: str, engines: Sequence[str], rows: Sequence[Row], averaged: Sequence[Row]) -> str:
    """The table as Markdown; the rows `averaged` go into the geometric mean."""
    heads = columns(engines)
    lines = [f"### {title}", "", _line(heads), _line(["---" if index < 2 else "---:" for index in range(len(heads))])]
    lines += [_line(cells(row)) for row in rows]
    last = mean_cells(averaged)
    if last:
        lines.append(_line([f"**{cell}**" if cell else "" for cell in last]))
    return "\n".join(lines) + "\n"


def _line(words: Sequence[str]) -> str:
    return "| " + " | ".join(word.replace("|", "\\|") for word in words) + " |"


def host() -> str:
    """One sentence on the machine that measured."""
    model = "an unknown processor"
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        model = found[1] if found else model
    except OSError:
        pass
    return f"Measured on {model}, {os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()}."


def write_section(path: Path, text: str) -> None:
    """Put text between the two marks of a Markdown file; a file without marks gets them at its end, a missing one is made."""
    section = f"{BEGIN}\n{text.strip()}\n{END}"
    old = path.read_text() if path.is_file() else ""
    if BEGIN in old and END in old and old.index(BEGIN) < old.index(END):
        new = old[: old.index(BEGIN)] + section + old[old.index(END) + len(END) :]
    else:
        new = (old.rstrip() + "\n\n" if old.strip() else "") + section + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(new)
