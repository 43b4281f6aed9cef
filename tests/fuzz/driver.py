"""Starts workers, watches them, and makes of whatever ends one a finding with a file that repeats it.

A worker is a process: one that is ended by a signal, that hangs or that asks for too much memory has left its input in its `Place`.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from fuzz.place import Place, Progress
from fuzz.worker import FOUND

TESTS = Path(__file__).parent.parent
LONGEST_RUN = 20.0  # seconds that one input may take, on a busy host
START = 120.0  # seconds until the first input: stencils may have to be compiled
TICK = 0.2  # seconds between two looks
OUTPUT = TESTS.parent / "build" / "fuzz"


@dataclass(frozen=True, slots=True)
class Found:
    """A finding: what was said of it, and its input."""

    target: str
    seed: int
    run: int
    text: str
    data: bytes

    def keep(self, folder: Path = OUTPUT) -> Path:
        """Write the input; the file."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.target}-{sha256(self.data).hexdigest()[:12]}.input"
        path.write_bytes(self.data)
        return path


@dataclass(slots=True)
class Worker:
    """A process that fuzzes one target; `found` is there when it ended with a finding."""

    target: str
    seed: int
    options: Sequence[str]
    folder: Path
    longest_run: float = LONGEST_RUN
    found: Found | None = None
    _process: subprocess.Popen[bytes] | None = None
    _moved: float = 0.0
    _last: int = -1
    _place: Place | None = None
    _errors: Path = field(default=Path())

    def start(self) -> None:
        """Begin."""
        place, self._errors = self.folder / f"{self.target}.place", self.folder / f"{self.target}.errors"
        self._place = Place.make(place)
        command = [sys.executable, "-m", "fuzz.worker", self.target, str(self.seed), str(place), *self.options]
        environment = {**os.environ, "PYTHONPATH": str(TESTS), "PYTHONHASHSEED": "0"}
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, env=environment, process_group=0
            )
        self._moved = time.monotonic() + START

    def progress(self) -> Progress:
        """How far it is."""
        return self._place.get() if self._place is not None else Progress()

    def running(self) -> bool:
        """Whether it goes on; a hang ends it."""
        assert self._process is not None
        status = self._process.poll()
        if status is not None:
            if status:
                self._note("" if status == FOUND else f"ended with status {status}\n")
            return False
        runs, now = self.progress().runs, time.monotonic()
        if runs != self._last:
            self._last, self._moved = runs, max(self._moved, now) if runs < 1 else now
        if now - self._moved > self.longest_run:
            self.stop(signal.SIGABRT)  # faulthandler tells where it was
            self._note(f"no end after {self.longest_run:.0f} seconds\n")
            return False
        return True

    def _note(self, text: str) -> None:
        progress = self.progress()
        said = text + self._errors.read_text(errors="replace")
        self.found = Found(self.target, self.seed, progress.runs, said.strip(), progress.data)

    def stop(self, by: signal.Signals = signal.SIGKILL) -> None:
        """End it now."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(by)
            self._process.wait()


@contextmanager
def working(targets: Sequence[str], seed: int, *options: str, at_once: int, longest_run: float = LONGEST_RUN) -> Iterator["Crew"]:
    """Workers for some targets; whatever happens, none is left behind."""
    with TemporaryDirectory(prefix="trapgate-fuzz-") as folder:
        crew = Crew([Worker(name, seed, options, Path(folder), longest_run) for name in targets], at_once)
        try:
            yield crew
        finally:
            for worker in crew.workers:
                worker.stop()


class Crew:
    """Workers, some of which run at a time."""

    def __init__(self, workers: list[Worker], at_once: int) -> None:
        self.workers = workers
        self._waiting, self._at_once = list(workers), at_once
        self._running: list[Worker] = []

    def go_on(self) -> bool:
        """Look after all of them; False when all are through."""
        self._running = [worker for worker in self._running if worker.running()]
        while self._waiting and len(self._running) < self._at_once:
            worker = self._waiting.pop(0)
            worker.start()
            self._running.append(worker)
        return bool(self._running)

    def finish(self) -> list[Found]:
        """Wait for all; their findings."""
        while self.go_on():
            time.sleep(TICK)
        return [worker.found for worker in self.workers if worker.found is not None]
