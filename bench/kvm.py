"""The KVM engine beside QEMU on the same KVM: what an exit costs, for neither executes the guest itself.

Each guest waits for a debugger, so that no start of a process is measured; the debugger leaves before the clock runs.
"""

import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench import engines as run
from bench.build import PORT_WRITES, BenchError, build
from bench.engines import Engine
from bench.measuring import APPEND, Bench
from bench.report import Row, Sample, Table, compare
from bench.stub import Request, arrive, hits, seconds, steps
from tools import linux_guest
from trapgate.gdb.client import Client, ClientError
from trapgate.gdb.target import BreakKind

LIMIT = 2.0  # of QEMU's time
REQUESTS = (  # hardware breakpoints, as an emulated CPU may not intercept INT3
    Request("a single step", 100, steps),
    Request("a breakpoint hit: lift, step, set, continue", 50, partial(hits, kind=BreakKind.HARDWARE)),
)


def kvm(bench: Bench) -> Table:
    """Debian 6.1 to its init, port writes, steps, breakpoint hits."""
    measures = {"Debian 6.1 to its init": boot, PORT_WRITES.work: port_writes}
    task = bench.progress.add_task("KVM", total=bench.runs * len(bench.engines) * (len(measures) + len(REQUESTS)))
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(bench.runs):
        for engine in bench.engines:
            for what, measure in measures.items():
                bench.progress.update(task, description=f"{what} on {engine.name}")
                times.setdefault((what, engine.name), []).append(measure(engine, bench.timeout))
                bench.progress.advance(task)
            for request in REQUESTS:
                bench.progress.update(task, description=f"{request.what} on {engine.name}")
                times.setdefault((request.what, engine.name), []).append(seconds(engine, request, bench.timeout))
                bench.progress.advance(task)
    often = {PORT_WRITES.work: f"x {PORT_WRITES.rounds:,}"} | {one.what: f"x {one.times:,}" for one in REQUESTS}
    names = [engine.name for engine in bench.engines]
    rows = [
        Row(what, often.get(what, ""), tuple(Sample(tuple(times[what, name])) for name in names))
        for what in (*measures, *(one.what for one in REQUESTS))
    ]
    return compare(f"On KVM, median of {bench.runs}, limit {LIMIT:g}", names, rows, rows)


def boot(engine: Engine, timeout: float) -> float:
    """Seconds from the first instruction to the line of Linux's init."""
    kernel = linux_guest.kernel("6.1")
    initrd = linux_guest.cached("initramfs.cpio.gz") or linux_guest.initramfs()
    with _waiting(engine, engine.linux, timeout, kernel=str(kernel), initrd=str(initrd), append=APPEND) as (client, process):
        return _until(linux_guest.READY, client, process, engine, timeout)


def port_writes(engine: Engine, timeout: float) -> float:
    """Seconds from the guest's loop to its line."""
    image = build(PORT_WRITES)
    with _waiting(engine, engine.image, timeout, image=str(image), memory=run.MEMORY) as (client, process):
        arrive(client, image)
        return _until("bench: ", client, process, engine, timeout)


@contextmanager
def _waiting(engine: Engine, line: str, timeout: float, **places: str) -> Iterator[tuple[Client, "subprocess.Popen[bytes]"]]:
    """A guest that waits for its debugger, and the debugger."""
    with tempfile.TemporaryDirectory() as scratch:
        socket = Path(scratch) / "gdb"
        command = run.filled(f"{line} {engine.debug}", socket=str(socket), **places)
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            try:
                with run.connected(engine, socket, timeout) as client:
                    yield client, process
            except ClientError as error:
                raise BenchError(f"{engine.name}: {error}") from error
            finally:
                process.kill()


def _until(marker: str, client: Client, process: "subprocess.Popen[bytes]", engine: Engine, timeout: float) -> float:
    """Let go of the guest; seconds until it prints a line with the marker."""
    assert process.stdout is not None
    watchdog = threading.Timer(timeout, process.kill)
    watchdog.start()
    begin = time.perf_counter()
    try:
        client.detach()
        for line in process.stdout:
            if marker.encode() in line:
                return time.perf_counter() - begin
    finally:
        watchdog.cancel()
    raise BenchError(f"{engine.name}: the guest ended or did not print {marker!r} within {timeout:g} s")
