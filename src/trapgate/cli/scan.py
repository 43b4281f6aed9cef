"""`trapgate scan` looks for bus locks in many programs, each by its own `trapgate buslocks`, and goes on where it was ended."""

import contextlib
import hashlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from trapgate.cli import errors
from trapgate.cli import exec as execution
from trapgate.cli.report import SUFFIX, read
from trapgate.cli.reporting import Outputs, Reporting
from trapgate.cli.scan_progress import Bar, Lines, Progress, say
from trapgate.errors import TrapgateError
from trapgate.finder import judging
from trapgate.finder.findings import Report, Run
from trapgate.finder.formats.json import render
from trapgate.finder.formats.words import shown, times
from trapgate.finder.merging import merged
from trapgate.values import dataclass

MOST_PROGRAMS = 100_000
LOOK = 0.05  # s between two looks at those that run
PATIENCE = 10  # s for one to end that was told to
FINAL = (errors.NOT_EXECUTABLE, errors.NOT_FOUND)  # what another try would not change
_ELF = b"\x7fELF"
_START = "from trapgate.cli.entry import main; main()"


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user asked for. `shard`: (which, of how many), from 1; `options`: those of `trapgate buslocks` for each."""

    source: str
    results: str
    shard: tuple[int, int]
    jobs: int
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """A program with its arguments."""

    command: tuple[str, ...]

    @property
    def words(self) -> str:
        """As a shell has it, in one line."""
        return shown(shlex.join(self.command))

    @property
    def name(self) -> str:
        """What its files are called: readable, and another for each command."""
        word = "".join(one if one.isalnum() or one in "._-" else "_" for one in os.path.basename(self.command[0]))[:60]
        return f"{word}-{hashlib.sha256(os.fsencode(chr(0).join(self.command))).hexdigest()[:12]}"


def options_of(guest: execution.Choice) -> tuple[str, ...]:
    """The options by which `trapgate buslocks` sets up such a guest."""
    options = ["--share", guest.share, "--memory", f"{guest.memory >> 10}K", "--cpus", str(guest.cpus)]
    for path in guest.writes:
        options += ["--write", path]
    options += ["--net", "user"] if guest.net else []
    options += [] if guest.timeout is None else ["--timeout", str(guest.timeout)]
    options += [] if guest.kernel is None else ["--kernel", guest.kernel]
    return (*options, *([] if guest.sandbox else ["--no-sandbox"]))


def run(choice: Choice, reporting: Reporting) -> int:
    """Look at all; the exit status. TrapgateError."""
    judge = judging.Judge.of(reporting.suppressions, reporting.baseline)
    folder = Path(choice.results)
    wanted = list(dict.fromkeys(targets(choice.source)))
    which, of = choice.shard
    mine = wanted[which - 1 :: of]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.Failure(f"--results {choice.results}: {error.strerror}") from error
    left = [one for one in mine if not _kept(folder, one)]
    with contextlib.ExitStack() as stack:
        outputs = Outputs(reporting, stack, sys.stdout)
        make = Bar if os.isatty(2) else Lines
        with contextlib.closing(make(len(mine), len(mine) - len(left))) as progress:
            failed = _Scan(choice, folder, progress).run(left)
        there = [folder / f"{one.name}{SUFFIX}" for one in wanted if _kept(folder, one)]
        report = judge.judged(merged(read(str(path)) for path in there))
        outputs.tell(report)
    for target, why in failed:
        say(f"not looked at, the next scan tries again: {target.words}: {shown(why)}")
    return reporting.status_of(report) or (errors.GUEST_FAILED if failed else errors.OK)


def _kept(folder: Path, target: Target) -> bool:
    return (folder / f"{target.name}{SUFFIX}").exists()


def targets(source: str) -> Iterator[Target]:
    """The programs of a directory; or a list's, a command a line, on standard input where it is "-". Failure."""
    try:
        if source != "-" and os.path.isdir(source):
            names = sorted(entry.path for entry in os.scandir(source) if _executable(entry))
            found: list[Sequence[str]] = [(os.path.abspath(path),) for path in names]
        else:
            text = sys.stdin.read() if source == "-" else judging.text_of(source)
            found = [words for number, line in enumerate(text.splitlines(), 1) if (words := _words(line, f"{source}:{number}"))]
    except OSError as error:
        raise errors.Failure(f"cannot read {source}: {error.strerror}") from error
    if not found:
        raise errors.Failure(f"{source} has no program to look at: give a directory of some, or a file with a command in each line")
    if len(found) > MOST_PROGRAMS:
        raise errors.Failure(f"{source} has {len(found)} programs, more than the {MOST_PROGRAMS} of a scan")
    yield from (Target(tuple(words)) for words in found)


def _words(line: str, place: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError as error:
        raise errors.Failure(f"{place} is no command: {str(error).lower()}") from error


def _executable(entry: "os.DirEntry[str]") -> bool:
    """Whether it is a program or a script that this user may run."""
    try:
        if not entry.is_file() or not os.access(entry.path, os.X_OK):
            return False
        with open(entry.path, "rb") as file:
            start = file.read(4)
    except OSError:
        return False
    return start == _ELF or start.startswith(b"#!")


@dataclass(slots=True)
class _Job:
    target: Target
    process: "subprocess.Popen[bytes]"
    part: Path
    log: Path


class _Scan:
    """The programs that run, at most so many at once."""

    def __init__(self, choice: Choice, folder: Path, progress: Progress) -> None:
        self._choice, self._folder, self._progress = choice, folder, progress
        self._running: list[_Job] = []
        self._failed: list[tuple[Target, str]] = []

    def run(self, targets: Sequence[Target]) -> list[tuple[Target, str]]:
        """Run them all; those that could not be, and why. Failure."""
        waiting = list(reversed(targets))
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            while waiting or self._running:
                while waiting and len(self._running) < self._choice.jobs:
                    self._start(waiting.pop())
                for job in [one for one in self._running if one.process.poll() is not None]:
                    self._running.remove(job)
                    self._end(job)
                time.sleep(LOOK)
        except OSError as error:
            raise errors.Failure(f"--results {self._choice.results}: {error.strerror}", errors.HOST_FAILURE) from error
        finally:
            signal.signal(signal.SIGTERM, before)
            self._stop()
        return self._failed

    def _start(self, target: Target) -> None:
        part, log = (self._folder / f"{target.name}{suffix}" for suffix in (".part", ".log"))
        part.unlink(missing_ok=True)
        command = [sys.executable, "-c", _START, "buslocks", *self._choice.options, "--exit-zero", "--format", f"json:{part}"]
        with open(log, "wb") as file:
            process = subprocess.Popen(
                [*command, "--", *target.command], stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
        self._running.append(_Job(target, process, part, log))

    def _end(self, job: _Job) -> None:
        status = job.process.returncode
        try:
            report = read(str(job.part))
        except TrapgateError:  # the program never began
            report = None
        if report is None and status in FINAL:
            report = Report((Run(job.target.command),), notes=(_last_line(job.log),))
            job.part.write_text("\n".join(render(report)))
        if report is None or (status == errors.GUEST_FAILED and report.runs[0].status != status):
            self._failed.append((job.target, _last_line(job.log) or f"it ended with {status}"))
            job.part.unlink(missing_ok=True)
            self._progress.done(job.target.words, "not looked at")
            return
        os.replace(job.part, job.part.with_suffix(SUFFIX))
        self._progress.done(job.target.words, _in_words(report, status))

    def _stop(self) -> None:
        """End what runs still: nothing outlives this."""
        for job in self._running:
            with contextlib.suppress(OSError):
                os.killpg(job.process.pid, signal.SIGTERM)
        for job in self._running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.process.wait(PATIENCE)
            if job.process.poll() is None:
                with contextlib.suppress(OSError):
                    os.killpg(job.process.pid, signal.SIGKILL)
                job.process.wait()
            job.part.unlink(missing_ok=True)


def _in_words(report: Report, status: int) -> str:
    if report.runs[0].status is None and status in FINAL:
        return "cannot be run"
    places, whole = len(report.findings), sum(one.count for one in report.findings)
    found = f"{times(whole)}, at {places} place{'s' * (places != 1)}" if whole else "nothing"
    return "ended by --timeout, " * (status == errors.TIMED_OUT and report.runs[0].status is None) + found


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _last_line(log: Path) -> str:
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.removeprefix("trapgate: error: ") for line in reversed(lines) if line.strip()), "")
