"""The terminal: raw while the guest runs, and as it was however that ends: normally, by an exception, by a signal, at exit."""

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from trapgate.cli.terminal import Terminal

# A program in a terminal of its own: it goes raw, says so, and then does what it was told on its command line.
PROGRAM = """
import fcntl, os, sys, termios, time
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from trapgate.cli.terminal import Terminal
left = []
with Terminal(lambda data: os.write(1, b"[" + data + b"]"), left.append) as terminal:
    terminal.write(b"ready\\r\\n")
    if sys.argv[1] == "raise":
        raise RuntimeError("no")
    if sys.argv[1] == "exit":
        sys.exit(7)
    end = time.monotonic() + 20
    while not left and time.monotonic() < end:
        time.sleep(0.01)
os._exit(left[0] if left else 99)
"""


class Program:
    """PROGRAM on its own pseudo-terminal."""

    def __init__(self, what: str) -> None:
        self.master, slave = pty.openpty()
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                PROGRAM,
                what,
            ],
            stdin=slave,
            stdout=slave,
            stderr=subprocess.PIPE,
        )

    def read_until(self, text: bytes) -> bytes:
        data = b""
        while text not in data:
            ready, _, _ = select.select([self.master], [], [], 20)
            assert ready, f"only {data!r}"
            data += os.read(self.master, 1024)
        return data

    def end(self) -> int:
        self.process.communicate(timeout=30)
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def start() -> Iterator[Callable[[str], Program]]:
    programs: list[Program] = []

    def launch(what: str) -> Program:
        programs.append(Program(what))
        return programs[-1]

    yield launch
    for program in programs:
        program.close()


@pytest.mark.parametrize(("what", "status"), [("raise", 1), ("exit", 7)])
def test_restored_after_exceptions(start: Callable[[str], Program], what: str, status: int) -> None:
    program = start(what)
    assert program.end() == status
    assert termios.tcgetattr(program.slave) == program.before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_restored_after_signals(start: Callable[[str], Program], number: int) -> None:
    program = start("wait")
    program.read_until(b"ready")
    assert termios.tcgetattr(program.slave) != program.before
    program.process.send_signal(number)
    assert program.end() == 128 + number
    assert termios.tcgetattr(program.slave) == program.before


def test_keys_reach_the_guest_raw_and_the_escape_quits(start: Callable[[str], Program]) -> None:
    program = start("wait")
    program.read_until(b"ready")
    os.write(program.master, b"a\x03\x1a\r")
    assert b"[a\x03\x1a\r]" in program.read_until(b"]")
    os.write(program.master, b"\x01h")
    program.read_until(b"Ctrl-A x  quit")
    os.write(program.master, b"\x01x")
    assert program.end() == 0
    assert termios.tcgetattr(program.slave) == program.before


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.usefixtures("open_files")
def test_a_pipe_is_left_to_the_machine() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"\x01x\x03")
    with Terminal(lambda data: None, lambda status: None, stdin=reader) as terminal:
        assert not terminal.raw
        assert os.read(reader, 10) == b"\x01x\x03"
    os.close(writer)
    os.close(reader)


@pytest.mark.usefixtures("open_files")
def test_interrupt_quits_once_and_handlers_come_back() -> None:
    reader, writer = os.pipe()
    quits: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    with Terminal(lambda data: None, quits.append, stdin=reader):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(lambda: bool(quits))
    assert quits == [130]
    assert signal.getsignal(signal.SIGINT) is before
    assert not [thread for thread in threading.enumerate() if thread.name == "terminal"]
    os.close(reader)
    os.close(writer)


def test_output_nobody_reads_quits() -> None:
    stdin, other = os.pipe()
    reader, writer = os.pipe()
    os.close(reader)
    quits: list[int] = []
    with Terminal(lambda data: None, quits.append, stdin=stdin, stdout=writer) as terminal:
        terminal.write(b"lost")
        terminal.write(b"lost again")
    assert quits == [141]
    for handle in (stdin, other, writer):
        os.close(handle)
