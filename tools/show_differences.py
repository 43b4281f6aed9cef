"""Write docs/differences.md: where QEMU's TCG and Bochs do otherwise than the manuals say, found by the rows of tests/behaviour."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from behaviour import image as images  # noqa: E402
from behaviour import runners  # noqa: E402
from behaviour.catalog import GROUPS, rows  # noqa: E402
from behaviour.row import UD, Row  # noqa: E402
from behaviour.runners import DIED, SKIPPED, WRONG, Outcome, Run  # noqa: E402

PAGE = ROOT / "docs" / "differences.md"
NAMES = dict(enumerate("#DE #DB NMI #BP #OF #BR #UD #NM #DF".split())) | {
    10: "#TS", 11: "#NP", 12: "#SS", 13: "#GP", 14: "#PF", 16: "#MF", 17: "#AC", 19: "#XM",
}  # fmt: skip
NO_ERROR = (1 << 64) - 1
HEAD = """\
# Where other CPUs in software differ from the manuals

Written by `make differences`; not to be edited. Each of the {count} rows of `tests/behaviour/` is a few instructions, the
manual's section, and what must come of them. One image runs them all, on the software CPU (which passes every row, as both CPU
models), on KVM, on QEMU and on Bochs. Here are the rows in which the last two do otherwise. Where a manual leaves something open
there is no row, and a row of one vendor runs on CPUs of that vendor only. A row *ends the run* when the guest does not come back
from it. The tables are no judgement: QEMU leaves out segment limits, for one, to be fast.

| | version | CPUs | rows run | as the manual says | otherwise |
|---|---|---|---|---|---|
"""


def name_of(vector: int) -> str:
    """An exception's mnemonic, or an interrupt's number."""
    return NAMES.get(vector, f"interrupt {vector:X}h")


def told(row: Row, text: str) -> str:
    """What a CPU did instead, from the image's line ("NAME: field found not expected, ...")."""
    found: dict[str, tuple[int, int]] = {}
    for part in text.removeprefix(row.name).removeprefix(": ").split(", "):
        field, value, _, expected = part.rsplit(" ", 3)
        found[field] = int(value, 16), int(expected, 16)
    wanted, words = row.expected, list[str]()
    elsewhere = "rip" in found
    through = elsewhere if wanted.rip == "@at" else not elsewhere  # UD2 ends a row: this tells it from a #UD of the instruction
    if "vector" in found:
        vector, wanted_vector = found["vector"]
        got = "no exception" if vector == UD and through else name_of(vector)
        words.append(f"{got} instead of {'none' if wanted.vector is None else name_of(wanted_vector)}")
    elif "error" in found:
        code, wanted_code = found["error"]
        words.append(f"error code {'none' if code == NO_ERROR else f'{code:X}h'} instead of {wanted_code:X}h")
    elif elsewhere:
        words.append("no exception instead of #UD" if wanted.vector == UD else "another RIP")
    if "vector" not in found:
        words += [
            f"`{field}` {got_value:X}h instead of {wanted_value:X}h"
            for field, (got_value, wanted_value) in found.items()
            if field not in ("rip", "error")
        ]
    return ", ".join(words)


def differences(outcome: Outcome) -> dict[int, str]:
    """What was done otherwise, by row."""
    return {
        n: "ends the run" if mark == DIED else told(rows()[n], outcome.texts[n])
        for n, mark in enumerate(outcome.marks)
        if mark in (DIED, WRONG)
    }


def section(title: str, found: dict[str, dict[int, str]]) -> Iterator[str]:
    """The tables of one program, a group of rows each."""
    first = 0
    yield f"\n## {title}\n"
    for group, make in GROUPS.items():
        last = first + len(make())
        lines = []
        for n in range(first, last):
            whats = {cpu: by_row[n] for cpu, by_row in found.items() if n in by_row}
            if whats:
                same = len(whats) == len(found) and len(set(whats.values())) == 1
                what = next(iter(whats.values())) if same else "; ".join(f"{text} ({cpu})" for cpu, text in whats.items())
                lines.append(f"| {rows()[n].name} | {rows()[n].manual} | {what} |".replace("\n", " "))
        if lines:
            yield (
                f"\n### {group[0].upper()}{group[1:]}\n\n| row | manual | what it does |\n|---|---|---|\n" + "\n".join(lines) + "\n"
            )
        first = last


def main() -> None:
    """Run what is installed; both are wanted for a page that is whole."""
    for present, what in ((runners.have_qemu(), "qemu-system-x86"), (runners.have_bochs(), "bochs, seabios")):
        if not present:
            sys.exit(f"not installed: {what}; install with: sudo apt-get install {what.replace(',', '')}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = images.build(rows(), folder)
        programs: dict[str, dict[str, Run]] = {
            f"QEMU {runners.version('qemu')}, TCG": {
                cpu: lambda part, cpu=cpu: runners.on_qemu(part, cpu)  # type: ignore[misc]
                for cpu in ("max", "max,vendor=GenuineIntel")
            },
            f"Bochs {runners.version('bochs')}": {
                cpu: lambda part, cpu=cpu: runners.on_bochs(part, folder, cpu)  # type: ignore[misc]
                for cpu in ("ryzen", "corei7_skylake_x")
            },
        }
        summary, sections = "", ""
        for title, cpus in programs.items():
            outcomes = {cpu: runners.judge(image, len(rows()), run, folder) for cpu, run in cpus.items()}
            found = {cpu: differences(outcome) for cpu, outcome in outcomes.items()}
            ran = {n for outcome in outcomes.values() for n, mark in enumerate(outcome.marks) if mark != SKIPPED}
            other = {n for by_row in found.values() for n in by_row}
            program, _, rest = title.partition(" ")
            names = ", ".join(f"`{cpu}`" for cpu in cpus)
            summary += f"| {program} | {rest} | {names} | {len(ran)} | {len(ran - other)} | {len(other)} |\n"
            sections += "".join(section(title, found))
    PAGE.write_text(HEAD.format(count=len(rows())) + summary + sections)
    print(f"{PAGE.relative_to(ROOT)} is written")


if __name__ == "__main__":
    main()
