"""A running machine from outside: when a line came over its serial port, and what memory it had at that moment."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.build import BenchError

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of a process, in bytes. `guest` is what of the guest's RAM was touched.

    `shared_once` counts pages that are mapped twice (the code buffer, writable and executable) once.
    """

    resident: int
    guest: int
    shared_once: int

    @property
    def besides(self) -> int:
        """All but the guest's pages."""
        return self.resident - self.guest


@dataclass(frozen=True, slots=True)
class Seen:
    """A marker: seconds since the process was started, CPU seconds that it has used, its memory then."""

    seconds: float
    busy: float
    memory: Memory


def observe(
    command: Sequence[str], markers: Sequence[str], timeout: float, more: Mapping[str, str] | None = None, ram: int = 0
) -> list[Seen]:
    """Start a machine, wait for each marker in turn, look, end it. BenchError when one does not come.

    `more`: the environment; `ram`: bytes of the guest's RAM, by which its mapping is known.
    """
    begin = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=more) as process:
        assert process.stdout is not None
        watchdog = threading.Timer(timeout, process.kill)
        watchdog.start()
        found: list[Seen] = []
        text = b""
        try:
            for marker in markers:
                while marker.encode() not in text:
                    some = os.read(process.stdout.fileno(), 65536)
                    if not some:
                        last = (text.decode(errors="replace").strip().splitlines() or ["nothing"])[-1]
                        raise BenchError(f"{command[0]} did not say {marker!r} within {timeout:g} s: its last line was: {last}")
                    text += some
                seconds = time.perf_counter() - begin
                text = text.split(marker.encode(), 1)[1]
                with stopped(process):
                    found.append(Seen(seconds, busy(process.pid), memory(process.pid, ram)))
        finally:
            watchdog.cancel()
            process.kill()
    return found


@contextlib.contextmanager
def stopped(process: "subprocess.Popen[bytes]"):  # type: ignore[no-untyped-def]
    """The process stands still."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def busy(pid: int) -> float:
    """CPU seconds that a process has used. BenchError when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        raise BenchError("the machine ended before its time could be looked at") from None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime (proc_pid_stat(5))


def memory(pid: int, ram: int) -> Memory:
    """What a process holds now. BenchError when it has ended."""
    try:
        return parse(Path(f"/proc/{pid}/smaps").read_text(), ram)
    except (OSError, ValueError):
        raise BenchError("the machine ended before its memory could be looked at") from None


def parse(smaps: str, ram: int) -> Memory:
    """Add up a /proc/PID/smaps. The guest's RAM is the mapping of its size, or the next larger one; ValueError without any."""
    sizes, resident, shared = list[int](), list[int](), list[int]()
    for line in smaps.splitlines():
        words = line.split()
        for name, into in (("Size:", sizes), ("Rss:", resident), ("Pss:", shared)):
            if words[0] == name:
                into.append(int(words[1]) << 10)
    guest = sizes.index(min(size for size in sizes if size >= ram))
    return Memory(sum(resident), resident[guest], sum(shared))
