"""The two ways to run a guest: command lines with places to fill in, and one run of each kind of guest, timed."""

import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from bench.build import BenchError
from trapgate.gdb.address import UnixAddress
from trapgate.gdb.client import Client, ClientError
from trapgate.gdb.target import BreakKind

MEMORY = "64M"  # RAM of the small guests
EXIT_OK = 1  # the guest writes 0 to the exit port: status 0 * 2 + 1
_QEMU = "qemu-system-x86_64 -accel tcg -cpu max -nodefaults -display none -no-reboot -serial stdio"
QEMU_IMAGE = f"{_QEMU} -m 64 -device isa-debug-exit,iobase=0xf4,iosize=4 -kernel {{image}}"
QEMU_LINUX = f"{_QEMU} -m 512 -kernel {{kernel}} -initrd {{initrd}} -append {{append}}"
_BESIDE = Path(sys.executable).with_name("trapgate")  # the one of this virtual environment, whether or not PATH leads there
_TRAPGATE = shlex.quote(str(_BESIDE)) if _BESIDE.is_file() else "trapgate"
TRAPGATE_IMAGE = f"{_TRAPGATE} run --engine soft --memory {{memory}} {{image}}"
TRAPGATE_LINUX = f"{_TRAPGATE} run --engine soft --memory 512M {{kernel}} --initrd {{initrd}} --append {{append}}"
QEMU_DEBUG = "-S -gdb unix:{socket},server=on,wait=off"
TRAPGATE_DEBUG = "--gdb unix:{socket} --wait"
TRAPGATE_CLEAR = f"{_TRAPGATE} cache clear --translations"


@dataclass(frozen=True, slots=True)
class Engine:
    """A program that runs guests. `clear`, if not empty, is the command that empties its cache of translated code.

    `debug` is what its command line has besides where a debugger is to join at a Unix {socket} before the guest starts.
    """

    name: str
    image: str  # command line; {image} is the guest, {memory} its RAM as 64M
    linux: str  # command line; {kernel}, {initrd} and {append} are the guest
    clear: str = ""
    debug: str = ""

    def check(self) -> None:
        """BenchError when the program is not installed."""
        for line in (self.image, self.linux, self.clear):
            words = shlex.split(line)
            if words and shutil.which(words[0]) is None:
                raise BenchError(
                    f"{self.name}: {words[0]} is not installed or not in PATH; leave it out with --engines, or name its command"
                )


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a guest: seconds from start to exit, CPU seconds of the process, and the line the guest printed."""

    seconds: float
    line: str
    busy: float = 0.0


def run_image(engine: Engine, image: Path, timeout: float, watched: Sequence[int] = ()) -> Run:
    """Run a benchmark guest to its end. BenchError when it does not end, fails, or says that its result is wrong.

    A debugger watches stores to 8 bytes at each of the addresses `watched`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        socket = Path(scratch) / "gdb"
        line = f"{engine.image} {engine.debug}" if watched else engine.image
        command = filled(line, image=str(image), memory=MEMORY, socket=str(socket))
        begin, before = time.perf_counter(), used()
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                with _debugger(engine, socket, watched, timeout) if watched else nullcontext():
                    out, errors = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                raise BenchError(f"{engine.name}: {image.stem} did not end within {timeout:g} s") from None
            finally:
                process.kill()
    seconds = time.perf_counter() - begin
    output = out.decode(errors="replace")
    lines = [line.strip() for line in output.splitlines() if line.startswith("bench: ")]
    if process.returncode != EXIT_OK or len(lines) != 1 or not lines[0].endswith(" ok"):
        said = (lines or errors.decode(errors="replace").strip().splitlines() or ["nothing"])[-1]
        raise BenchError(f"{engine.name}: {image.stem} failed with status {process.returncode}: {said}")
    return Run(seconds, lines[0], used() - before)


def connected(engine: Engine, socket: Path, timeout: float) -> Client:
    """A debugger of a guest that has not started yet. BenchError."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return Client(UnixAddress(str(socket)), timeout)
        except ClientError as error:  # it does not listen yet
            if time.monotonic() > deadline:
                raise BenchError(f"{engine.name}: {error}") from error
            time.sleep(0.01)


def _debugger(engine: Engine, socket: Path, watched: Sequence[int], timeout: float) -> Client:
    """A debugger that has armed its watchpoints and let the guest go."""
    client = connected(engine, socket, timeout)
    try:
        for address in watched:
            client.insert(BreakKind.WRITE, address, 8)
        client.resume()
    except ClientError as error:
        client.close()
        raise BenchError(f"{engine.name}: {error}") from error
    return client


def used() -> float:
    """CPU seconds of all processes that we started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_linux(engine: Engine, kernel: Path, initrd: Path, append: str, marker: str, timeout: float) -> tuple[float, float]:
    """Boot Linux. (seconds until the marker line came over the serial port, seconds until the machine was off.)"""
    command = filled(engine.linux, kernel=str(kernel), initrd=str(initrd), append=append)
    begin = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        watchdog = threading.Timer(timeout, process.kill)
        watchdog.start()
        reached, last = None, b""
        try:
            for line in process.stdout:
                last = line.strip() or last
                if reached is None and marker.encode() in line:
                    reached = time.perf_counter() - begin
            process.wait()
        finally:
            watchdog.cancel()
    if reached is None:
        raise BenchError(
            f"{engine.name}: Linux did not reach init within {timeout:g} s (status {process.returncode}); "
            f"its last line was: {last.decode(errors='replace')}"
        )
    return reached, time.perf_counter() - begin


def clear_cache(engine: Engine) -> None:
    """Empty the engine's cache of translated code, if it has one."""
    if not engine.clear:
        return
    done = subprocess.run(shlex.split(engine.clear), capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"`{engine.clear}` failed: {done.stderr.strip() or done.returncode}")


def filled(line: str, **places: str) -> list[str]:
    """A command line as words, each {place} filled in; BenchError for a place that nothing is known of."""
    try:
        return [word.format(**places) for word in shlex.split(line)]
    except (KeyError, IndexError, ValueError) as error:
        names = ", ".join("{" + name + "}" for name in places)
        raise BenchError(f"bad command line {line!r} ({error}): there are {names}") from None
