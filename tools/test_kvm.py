"""The KVM engine on a KVM that executes, on any machine: Linux's kvm_amd under QEMU's TCG (`make test-kvm`).

Boots each kernel with this checkout in it and runs the tests of tests/kvm and `trapgate doctor` there. Exit status 1 when a test
fails or a machine cannot be run. JUnit XML and consoles stay in build/nested.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from tools import linux_guest
from tools.guests.packages import keep
from tools.guests.sources import GuestError
from tools.nested import emulator, junit, machine
from tools.nested.image import FOLDER, PLACE, Job, image
from tools.nested.not_judged import reason

PYTHON = str(PLACE / ".venv" / "bin" / "python")
TESTS = ("tests/kvm", "tests/behaviour/test_behaviour.py::test_kvm")
SHORT = ("tests/kvm/test_debug_cases.py", "tests/kvm/test_reinjection.py")
MARKED = "kvm and not linux"
DOCTOR = Job("doctor", (str(PLACE / ".venv" / "bin" / "trapgate"), "doctor"), 120)
LONGEST = 3000  # s for all tests of a kernel
SERIES = ("6.1", "6.12", "backports")


@dataclass(slots=True)
class Outcome:
    """What came of one kernel: pytest's outcomes by test, outputs by job."""

    series: str
    release: str = ""
    tests: list[machine.Record] = field(default_factory=list)
    jobs: dict[str, machine.Record] = field(default_factory=dict)
    trouble: str = ""

    def those(self, outcome: str) -> list[machine.Record]:
        """The tests with this outcome; those that QEMU gets wrong are "not judged"."""
        return [one for one in self.tests if one["outcome"] == outcome]

    @property
    def good(self) -> bool:
        """Whether everything ran, and nothing failed."""
        ended = all(one["status"] == 0 or (name == "tests" and one["status"] == 1) for name, one in self.jobs.items())
        return not self.trouble and ended and bool(self.those("passed")) and not self.those("failed")


def pytest_job(paths: Sequence[str]) -> Job:
    """The job that runs pytest."""
    options = ("-q", "-p", "tools.nested.telling", "-p", "no:cacheprovider", "-m", MARKED)
    return Job("tests", (PYTHON, "-m", "pytest", *options, *paths), LONGEST)


def run(series: str, jobs: Sequence[Job], progress: Progress) -> Outcome:
    """Boot a kernel and let it do the jobs. What cannot be had, or ends too soon, is the outcome's trouble."""
    outcome = Outcome(series)
    task = progress.add_task(f"kernel {series}: making the image", total=None)
    console = FOLDER / f"console-{series}.log"
    try:
        qemu = emulator.qemu(FOLDER, linux_guest.CACHE / "apt")
        kernel, initrd = image(series, jobs)
        progress.update(task, description=f"kernel {series}: boots")
        for record in machine.records(machine.command(qemu, kernel, initrd, console), console, LONGEST + 600):
            if "kernel" in record:
                outcome.release = record["kernel"]
            elif "begin" in record:
                progress.update(task, description=f"kernel {series}: {record['begin']}")
            elif "tests" in record:
                progress.update(task, total=record["tests"])
            elif "test" in record:
                if record["outcome"] == "failed" and reason(record["test"]):
                    record["outcome"] = "not judged"
                outcome.tests.append(record)
                progress.advance(task)
            elif "end" in record:
                outcome.jobs[record["end"]] = record
    except (GuestError, machine.NestedError, OSError) as error:
        outcome.trouble = str(error)
    progress.remove_task(task)
    return outcome


def show(outcome: Outcome, console: Console, seconds: float) -> None:
    """What failed and what was not judged, then one line."""
    for job in outcome.jobs.values():
        if job["end"] != "tests" or job["status"] not in (0, 1):
            console.print(Text(f"{job['end']} (exit status {job['status']}, {job['seconds']:.0f} s)", "bold"))
            console.print(job["output"].rstrip(), markup=False, highlight=False, soft_wrap=True)
    for one in outcome.those("failed"):
        console.print(Text(f"FAILED {one['test']}", "bold red"))
        console.print(one["text"], markup=False, highlight=False, soft_wrap=True)
    rows = {text for one in outcome.those("not judged") if (text := reason(one["test"]))}
    for text in sorted(rows):
        count = sum(reason(one["test"]) == text for one in outcome.those("not judged"))
        console.print(Text(f"not judged, {count}: {text}", "dim"), soft_wrap=True)
    if outcome.trouble:
        console.print(outcome.trouble, style="red", markup=False, soft_wrap=True)
    words = ", ".join(
        f"{len(found)} {name}" for name in ("passed", "failed", "skipped", "not judged") if (found := outcome.those(name))
    )
    line = f"kernel {outcome.series} ({outcome.release or 'not booted'}): {words or 'no test ran'} in {seconds:.0f} s"
    console.print(Text(line, "bold green" if outcome.good else "bold red"))


@click.command()
@click.option("--kernel", "series", multiple=True, type=click.Choice(SERIES), help="Which kernels to boot (default: all).")
@click.option("--short", is_flag=True, help="The debug-exception guests alone, on the first kernel.")
@click.argument("paths", nargs=-1)
def main(series: tuple[str, ...], short: bool, paths: tuple[str, ...]) -> None:
    """Run the tests of the KVM engine, or those at PATHS, on Linux's kvm_amd under QEMU's TCG."""
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    chosen = series or (SERIES[:1] if short else SERIES)
    jobs = [DOCTOR, pytest_job(paths or (SHORT if short else TESTS))]
    outcomes = []
    for one in chosen:
        began = time.monotonic()
        with Progress(*columns, console=console, transient=True) as progress:
            outcome = run(one, jobs, progress)
        show(outcome, console, time.monotonic() - began)
        keep(FOLDER / f"results-{one}.xml", junit.document(outcome.series, outcome.tests))
        outcomes.append(outcome)
    console.print(f"JUnit XML and consoles are in {FOLDER}", style="dim", markup=False, soft_wrap=True)
    sys.exit(0 if all(outcome.good for outcome in outcomes) else 1)


if __name__ == "__main__":
    main()
