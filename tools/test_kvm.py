"""The KVM engine on a KVM that executes, on any machine: Linux's kvm_amd under QEMU's TCG (`make test-kvm`).

Boots each kernel with this checkout in it and runs `trapgate doctor` and the tests of tests/kvm there, those with Linux as a guest
last. Exit status 1 when a test fails or a machine cannot be run. JUnit XML and consoles stay in build/nested.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from bench.build import BenchError
from tools import linux_guest
from tools.guests.packages import keep
from tools.guests.sources import GuestError
from tools.nested import alone, emulator, junit, machine
from tools.nested.image import FOLDER, PLACE, Job, image, linux_guest_nodes
from tools.nested.measured import measure
from tools.nested.not_judged import reason
from trapgate.boot import cpio

PYTHON = str(PLACE / ".venv" / "bin" / "python")
TESTS = ("tests/kvm", "tests/behaviour/test_behaviour.py::test_kvm")
SHORT = ("tests/kvm/test_debug_cases.py", "tests/kvm/test_reinjection.py")
QUICK = ("tests/kvm/test_reinjection.py", "tests/kvm/test_debug_cases.py")
OF_QUICK = ("-k", "exactly or (test_case and beside and not software)")
MARKED = "kvm and not linux"
LINUX = "kvm and linux"
DOCTOR = Job("doctor", (str(PLACE / ".venv" / "bin" / "trapgate"), "doctor"), 120)
LONGEST = 3000  # s for all tests of a kernel
OF_TESTS = ("tests", "linux")  # jobs that run pytest
SERIES = ("6.1", "6.12", "backports")
OFTEN = 50  # tests between two lines where the output is no terminal


@dataclass(slots=True)
class Outcome:
    """What came of one kernel: pytest's outcomes by test, outputs by job."""

    series: str
    release: str = ""
    tests: list[machine.Record] = field(default_factory=list)
    jobs: dict[str, machine.Record] = field(default_factory=dict)
    trouble: str = ""
    lacking: bool = False  # what is in trouble is a package or the network, not a test

    def those(self, outcome: str) -> list[machine.Record]:
        """The tests with this outcome; those that QEMU gets wrong are "not judged"."""
        return [one for one in self.tests if one["outcome"] == outcome]

    @property
    def good(self) -> bool:
        """Whether everything ran, and nothing failed."""
        ended = all(one["status"] == 0 or (name in OF_TESTS and one["status"] == 1) for name, one in self.jobs.items())
        return not self.trouble and ended and bool(self.those("passed")) and not self.those("failed")


def pytest_job(name: str, paths: Sequence[str], marked: str = MARKED) -> Job:
    """A job that runs pytest."""
    options = ("-q", "-p", "tools.nested.telling", "-p", "no:cacheprovider", "-m", marked)
    return Job(name, (PYTHON, "-m", "pytest", *options, *paths), LONGEST)


def jobs(short: bool, quick: bool, paths: Sequence[str]) -> list[Job]:
    """What one kernel is to do."""
    if paths:
        return [DOCTOR, pytest_job("tests", paths)]
    if quick:
        return [DOCTOR, pytest_job("tests", (*OF_QUICK, *QUICK))]
    if short:
        return [DOCTOR, pytest_job("tests", SHORT)]
    return [DOCTOR, pytest_job("tests", TESTS), pytest_job("linux", ("tests/kvm/test_linux.py",), LINUX)]


def extra(qemu: Sequence[str]) -> list[cpio.Node]:
    """What all the tests want besides: what QEMU gets wrong alone, and a Linux guest."""
    wrong = json.dumps(alone.wrong(qemu, FOLDER)).encode()
    return [cpio.file(str(alone.PLACE)[1:], wrong), *linux_guest_nodes()]


def run(series: str, jobs: Sequence[Job], progress: Progress, whole: bool = True) -> Outcome:
    """Boot a kernel and let it do the jobs. What cannot be had, or ends too soon, is the outcome's trouble.

    `whole`: with all that only some tests want.
    """
    outcome = Outcome(series)
    task = progress.add_task(f"kernel {series}: making the image", total=None)
    console = FOLDER / f"console-{series}.log"
    try:
        qemu = emulator.qemu(FOLDER, linux_guest.CACHE / "apt")
        kernel, initrd = image(series, jobs, extra(qemu) if whole else ())
        progress.update(task, description=f"kernel {series}: boots")
        for record in machine.records(machine.command(qemu, kernel, initrd, console), console, LONGEST + 600):
            if "kernel" in record:
                outcome.release = record["kernel"]
            elif "begin" in record:
                progress.update(task, description=f"kernel {series}: {record['begin']}")
                _log(progress, f"kernel {series}: {record['begin']}")
            elif "tests" in record:
                progress.update(task, total=record["tests"])
                _log(progress, f"kernel {series}: {record['tests']} tests")
            elif "test" in record:
                if record["outcome"] == "failed" and reason(record["test"]):
                    record["outcome"] = "not judged"
                outcome.tests.append(record)
                progress.advance(task)
                if not len(outcome.tests) % OFTEN or record["outcome"] == "failed":
                    _log(progress, f"kernel {series}: {len(outcome.tests)}: {record['test']} {record['outcome']}")
            elif "end" in record:
                outcome.jobs[record["end"]] = record
    except (GuestError, machine.NestedError, OSError) as error:
        outcome.trouble, outcome.lacking = str(error), isinstance(error, GuestError)
    progress.remove_task(task)
    return outcome


def _log(progress: Progress, line: str) -> None:
    """A line where the bar does not show."""
    if not progress.console.is_terminal:
        progress.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _why(test: machine.Record) -> str:
    """Why a test was skipped or is not judged."""
    not_judged = reason(test["test"]) if test["outcome"] == "not judged" else None
    return not_judged or str(test["text"]).removeprefix("Skipped: ")


def show(outcome: Outcome, console: Console, seconds: float) -> None:
    """What failed and what was not judged, then one line."""
    for job in outcome.jobs.values():
        if job["end"] not in OF_TESTS or job["status"] not in (0, 1):
            console.print(Text(f"{job['end']} (exit status {job['status']}, {job['seconds']:.0f} s)", "bold"))
            console.print(job["output"].rstrip(), markup=False, highlight=False, soft_wrap=True)
    for one in outcome.those("failed"):
        console.print(Text(f"FAILED {one['test']}", "bold red"))
        console.print(one["text"], markup=False, highlight=False, soft_wrap=True)
    for name in ("skipped", "not judged"):
        for text, count in Counter(_why(one) for one in outcome.those(name)).most_common():
            console.print(Text(f"{name}, {count}: {text}", "dim"), soft_wrap=True)
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
@click.option("--quick", is_flag=True, help="Some of those; where a package or the network lacks, nothing, and that is no failure.")
@click.option("--bench", is_flag=True, help="Measure instead, and write docs/performance.md.")
@click.option("--runs", default=3, show_default=True, type=click.IntRange(1, 100), help="How often each is measured.")
@click.argument("paths", nargs=-1)
def main(series: tuple[str, ...], short: bool, quick: bool, bench: bool, runs: int, paths: tuple[str, ...]) -> None:
    """Run the tests of the KVM engine, or those at PATHS, on Linux's kvm_amd under QEMU's TCG."""
    console = Console()
    if bench:
        try:
            console.print(measure((series or SERIES)[0], runs), markup=False, soft_wrap=True)
        except (GuestError, BenchError, machine.NestedError, OSError) as error:
            console.print(str(error), style="red", markup=False, soft_wrap=True)
            sys.exit(1)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    whole = not (short or quick)
    chosen = series or (SERIES if whole else SERIES[:1])
    outcomes = []
    for one in chosen:
        began = time.monotonic()
        with Progress(*columns, console=console, transient=True) as progress:
            outcome = run(one, jobs(short, quick, paths), progress, whole)
        if quick and outcome.lacking:
            console.print(f"skipped: {outcome.trouble}", markup=False, soft_wrap=True)
            return
        show(outcome, console, time.monotonic() - began)
        keep(FOLDER / f"results-{one}.xml", junit.document(outcome.series, outcome.tests))
        outcomes.append(outcome)
    console.print(f"JUnit XML and consoles are in {FOLDER}", style="dim", markup=False, soft_wrap=True)
    sys.exit(0 if all(outcome.good for outcome in outcomes) else 1)


if __name__ == "__main__":
    main()
