"""The host CPU as a runner: batches of cases go to a worker process through shared memory, at some 10 us a case."""

import json
import mmap
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from . import host_code, host_trace
from .state import (
    CODE_PAGE,
    INT3,
    LDT,
    SCRATCH,
    SCRATCH_SIZE,
    SIGKILL,
    SLOT_SIZE,
    SLOT_TRACE,
    TF,
    Outcome,
    State,
    hung,
    pack_case,
    unpack_outcome,
)
from .trace import MOST_STEPS, Trace, endless

PAGE = 4096
_INDEX = struct.Struct("<QQQ")  # running case, number of cases, first case


class HostCpuError(Exception):
    """The worker cannot be started: not Linux on x86-64, or an address is taken."""


class HostCpu:
    """Runs code natively in user mode. Use as a context manager, or call `close`.

    `batch` cases go per round trip; one that takes more than `timeout` seconds of CPU time is killed and told as a fault, the rest
    go on in a new worker. State a case can reach beyond registers and scratch (other memory of the worker) is not watched: FS/GS
    bases, wild stores.
    """

    def __init__(self, batch: int = 256, timeout: float = 2.0) -> None:
        self.batch, self.timeout = batch, timeout
        code, driver = host_code.native_code()
        slots = -(-batch * SLOT_SIZE // PAGE) * PAGE
        records = 3 * PAGE + slots
        stores, end = records + host_trace.RECORDS_SIZE, records + host_trace.RECORDS_SIZE + host_trace.STORES_SIZE
        self._memfd = os.memfd_create("silicon")
        os.ftruncate(self._memfd, end)
        self._map = mmap.mmap(self._memfd, end)
        self._view = memoryview(self._map)
        self._slots, self._records, self._stores = self._view[3 * PAGE : records], self._view[records:stores], self._view[stores:]
        self._view[PAGE : 2 * PAGE] = INT3 * PAGE
        self._view[2 * PAGE : 2 * PAGE + len(code)] = code
        fd = self._memfd
        self._setup = json.dumps(
            {
                "maps": (
                    (CODE_PAGE - PAGE, PAGE, "none", -1, 0),
                    (CODE_PAGE, PAGE, "rx", fd, PAGE),
                    (CODE_PAGE + PAGE, PAGE, "none", -1, 0),
                    (SCRATCH - PAGE, PAGE, "none", -1, 0),
                    (SCRATCH, SCRATCH_SIZE, "rw", -1, 0),
                    (SCRATCH + SCRATCH_SIZE, PAGE, "none", -1, 0),
                    (host_code.CONTROL, PAGE, "rw", fd, 0),
                    (host_code.CODE_ALIAS, PAGE, "rw", fd, PAGE),
                    (host_code.NATIVE, PAGE, "rx", fd, 2 * PAGE),
                    (host_code.SLOTS, slots, "rw", fd, 3 * PAGE),
                    (host_trace.SHADOW, SCRATCH_SIZE, "rw", -1, 0),
                    (host_trace.RECORDS, host_trace.RECORDS_SIZE, "rw", fd, records),
                    (host_trace.STORES, host_trace.STORES_SIZE, "rw", fd, stores),
                ),
                "handler": host_code.NATIVE,
                "driver": host_code.NATIVE + driver,
                "code_page": CODE_PAGE,
                "ldt": LDT,
            }
        )
        self._worker: subprocess.Popen[bytes] | None = None
        self.restarts = -1

    def __enter__(self) -> "HostCpu":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker and give the memory back."""
        self._stop()
        for view in (self._slots, self._records, self._stores):
            view.release()
        self._view.release()
        self._map.close()
        os.close(self._memfd)

    def run(self, code: bytes, state: State) -> Outcome:
        """Execute 1 to CODE_SIZE bytes of code from a state."""
        return next(self.run_many([(code, state)]))

    def run_many(self, cases: Iterable[tuple[bytes, State]]) -> Iterator[Outcome]:
        """Execute cases in order, a batch at a time."""
        rest = iter(cases)
        while batch := list(islice(rest, self.batch)):
            for n, (code, state) in enumerate(batch):
                pack_case(self._slots, n * SLOT_SIZE, code, state)
            lost = self._execute(len(batch))
            for n, (_, state) in enumerate(batch):
                yield hung(state) if n in lost else unpack_outcome(self._slots, n * SLOT_SIZE)

    def trace_many(self, cases: Iterable[tuple[bytes, State]]) -> Iterator[tuple[Outcome, Trace]]:
        """Execute cases in order under single-step, and tell what each step did; HostCpuError when a batch takes too many steps."""
        rest = iter(cases)
        while batch := list(islice(rest, self.batch)):
            stepped = [(code, state._replace(rflags=state.rflags | TF)) for code, state in batch]
            host_trace.switch(self._view, True)
            outcomes = list(self.run_many(stepped))
            host_trace.switch(self._view, False)
            for n, outcome in enumerate(outcomes):
                if outcome.fault is not None and outcome.fault.signal == SIGKILL:
                    raise HostCpuError("a run under single-step has broken the worker")
                bounds = host_trace.bounds(self._slots, n * SLOT_SIZE + SLOT_TRACE)
                trace = Trace(bytes(self._records[bounds[0]]), bytes(self._stores[bounds[1]]))
                if endless(outcome) and trace.steps < MOST_STEPS:
                    raise HostCpuError("the traces of a batch do not fit: make it smaller")
                yield outcome, trace

    def _execute(self, count: int) -> set[int]:
        """Run the cases in the slots; the numbers of those that took their worker with them."""
        lost: set[int] = set()
        first = early = 0
        while first < count:
            _INDEX.pack_into(self._view, 0, host_code.IDLE, count, first)
            if self._batch():
                break
            at = _INDEX.unpack_from(self._view, 0)[0]
            self._stop()
            if at == host_code.FINISHED:  # the last cases broke the worker's own memory, but not before they were through
                break
            if at == host_code.IDLE:  # broken by an earlier batch; a fresh one must get further
                early += 1
                if early > 1:
                    raise HostCpuError("the host worker died before the first case")
                continue
            lost.add(at)
            first = at + 1
        return lost

    def _batch(self) -> bool:
        """One round trip; False when the worker hung or died on a case. What counts is CPU time, per case."""
        worker = self._worker or self._start()
        assert worker.stdin is not None
        assert worker.stdout is not None
        with suppress(BrokenPipeError):  # it died since its last answer; reading tells
            worker.stdin.write(b"x")
        before, since = None, 0.0
        while not select.select([worker.stdout], [], [], self.timeout / 4)[0]:
            at, now = _INDEX.unpack_from(self._view, 0)[0], _cpu_time(worker.pid)
            if at != before:
                before, since = at, now
            elif now - since > self.timeout:
                return False
        return worker.stdout.read(1) == b"."

    def _start(self) -> subprocess.Popen[bytes]:
        script = Path(__file__).with_name("host_worker.py")
        worker = subprocess.Popen(
            [sys.executable, "-S", "-E", str(script), self._setup],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=(self._memfd,),
        )
        self._worker = worker
        assert worker.stdout is not None
        assert worker.stderr is not None
        if worker.stdout.read(1) != b"!":
            story = worker.stderr.read().decode(errors="replace").strip()
            self._stop()
            raise HostCpuError(story.splitlines()[-1] if story else "the host worker did not start")
        self.restarts += 1
        return worker

    def _stop(self) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        worker.kill()
        worker.wait()
        for pipe in (worker.stdin, worker.stdout, worker.stderr):
            assert pipe is not None
            pipe.close()


def _cpu_time(pid: int) -> float:
    """Seconds of CPU time that a process has taken: clock_getcpuclockid(3), as Linux makes it."""
    return time.clock_gettime(~pid << 3 | 2)
