"""`trapgate buslocks` runs a program of this host as `trapgate exec` does, and reports the instructions that lock the bus."""

import contextlib
import os

from trapgate.cli import exec as execution
from trapgate.cli.reporting import Outputs, Reporting
from trapgate.exec import messages
from trapgate.finder import judging
from trapgate.finder.files import Files
from trapgate.finder.findings import Report, Run
from trapgate.finder.naming import found
from trapgate.finder.program import Programs
from trapgate.finder.watching import MOST_SIGHTINGS, Watch
from trapgate.insight import Insight
from trapgate.machine import Machine


def run(choice: execution.Choice, reporting: Reporting) -> int:
    """Run the program; the exit status. Failure."""
    with contextlib.ExitStack() as stack:
        judge = judging.Judge.of(reporting.suppressions, reporting.baseline)
        outputs = Outputs(reporting, stack)
        return execution.run(choice, _Finder(choice, reporting, judge, outputs))


class _Finder:
    """Watches a run. See `execution.Finder`."""

    def __init__(self, choice: execution.Choice, reporting: Reporting, judge: judging.Judge, outputs: Outputs) -> None:
        self._choice, self._reporting, self._judge, self._outputs = choice, reporting, judge, outputs
        self._watch: Watch | None = None
        self._machine: Machine | None = None
        self._programs = Programs()
        self._files = Files(self._programs, self._on_host)
        self._writes = [os.path.realpath(path) for path in choice.writes]

    def attach(self, machine: Machine) -> None:
        """Hear of bus locks."""
        self._machine, self._watch = machine, Watch(Insight(machine), self._files)
        machine.bus_locks.heard = self._watch.hear

    def report(self, end: messages.Report | int | None) -> int | None:
        """Tell what locked the bus."""
        if self._watch is None or self._machine is None or isinstance(end, messages.NotStarted):
            return None
        for one in self._machine.processors:
            one.vcpu.tell_tallies()
        status = end.status if isinstance(end, messages.Exited) else None
        signal = end.signal if isinstance(end, messages.Killed) else None
        with self._programs:
            run = Run(self._choice.program, status, signal)
            report = self._judge.judged(Report((run,), found(self._watch, self._files), _notes(self._watch)))
        self._outputs.tell(report)
        return None if isinstance(end, int | None) else self._reporting.status_of(report)

    def _on_host(self, path: str) -> str:
        """Where a file of the guest's lies here."""
        if any(os.path.commonpath([path, one]) == one for one in self._writes):
            return path
        return os.path.join(self._choice.share, path.lstrip("/"))


def _notes(watch: Watch) -> tuple[str, ...]:
    """What is not known."""
    notes = [f"who locked the bus is not known: {watch.unknown}"] if watch.unknown else []
    if watch.unlisted:
        notes.append(f"{watch.unlisted} bus locks at places beyond the first {MOST_SIGHTINGS} are not listed")
    return tuple(notes)
