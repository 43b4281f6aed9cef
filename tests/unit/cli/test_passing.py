"""Bytes between the streams of a process and a port of a guest: order, ends, and who waits for whom."""

import os
import pty
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trapgate.cli import passing
from trapgate.cli.passing import Input, Output, Passage, give_back
from trapgate.devices.virtio.console import ConsolePort
from trapgate.exec.messages import Where
from trapgate.hostcall import HostError


class Port(ConsolePort):
    """A guest that takes what it is told to take."""

    def __init__(self) -> None:
        super().__init__(lambda data: None)
        self.came, self.ended, self.left = bytearray(), threading.Event(), 0

    def feed(self, data: bytes) -> None:
        self.came += data
        self.left += len(data)

    def end(self) -> None:
        self.ended.set()

    def waiting(self) -> int:
        return self.left


def never(error: BaseException) -> None:
    raise error


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_input_comes_whole_and_ends(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)) * 1000)
    port = Port()
    with (tmp_path / "file").open("rb") as file:
        one = Input(file.fileno(), port, never)
        assert port.ended.wait(20)
        one.close()
        assert port.came == bytes(range(256)) * 1000
        assert one.read == 256_000
        give_back(file.fileno(), one.read, 255_999)
        assert os.read(file.fileno(), 10) == b"\xff"


def test_input_waits_for_the_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passing, "MOST_WAITING", 1000)
    monkeypatch.setattr(passing, "AT_ONCE", 600)
    port, (read, write) = Port(), os.pipe()
    one = Input(read, port, never)
    os.write(write, b"x" * 5000)
    until(lambda: len(port.came) == 1200)
    time.sleep(0.02)
    assert len(port.came) == 1200
    port.left = 0
    port.taken()
    until(lambda: len(port.came) == 2400)
    one.close()
    assert not port.ended.is_set()
    os.close(read)
    os.close(write)


def test_a_pipe_gives_nothing_back() -> None:
    read, write = os.pipe()
    os.write(write, b"rest")
    give_back(read, 10, 0)
    assert os.read(read, 10) == b"rest"
    os.close(read)
    os.close(write)


def test_output_that_nobody_reads() -> None:
    told, (read, write) = list[int](), os.pipe()
    one = Output(write, lambda: told.append(1))
    one.write(b"abc")
    assert os.read(read, 10) == b"abc"
    os.close(read)
    one.write(b"lost")
    one.write(b"lost too")
    assert told == [1]
    os.close(write)


def test_output_waits_for_its_reader() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    data = os.urandom(300_000)
    writer = threading.Thread(target=Output(write, lambda: None).write, args=(data,))
    writer.start()
    got = bytearray()
    while len(got) < len(data):
        got += os.read(read, 10_000)
    writer.join()
    assert got == data
    os.close(read)
    os.close(write)


def test_a_full_disk() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(HostError, match="No space left"):
        Output(full, lambda: None).write(b"x")
    os.close(full)


TOLD = "from trapgate.cli.passing import where; import sys; sys.stderr.write(' '.join(one.name for one in where()))"


@pytest.mark.parametrize(
    ("redirected", "found"),
    [
        ("< /dev/null > {0}/out 2> {0}/err", "NOWHERE PORT PORT"),
        ("< {0}/in > {0}/err 2>&1", "PORT PORT STDOUT"),
        ("< {0}/in > /dev/null 2> {0}/err", "PORT NOWHERE PORT"),
        ("< {0}/in 2> {0}/err | cat", "PORT PORT PORT"),
    ],
)
def test_where_streams_lead(tmp_path: Path, redirected: str, found: str) -> None:
    (tmp_path / "in").write_text("x")
    command = f'"$0" -c "$1" {redirected.format(tmp_path)}'
    subprocess.run(["sh", "-c", command, sys.executable, TOLD], check=True)
    assert (tmp_path / "err").read_text() == found


def test_another_terminal_is_told_of_and_left_alone() -> None:
    """It controls another process group: what is written there is still changed on its way."""
    master, slave = pty.openpty()
    saved = os.dup(1)
    os.dup2(slave, 1)
    termios.tcsetwinsize(slave, (33, 99))
    try:
        one = Passage((Where.PORT, Where.TERMINAL, Where.PORT))
        assert (one.descriptor, one.reads) == (1, False)
        assert (one.size.rows, one.size.columns) == (33, 99)
        before = termios.tcgetattr(slave)
        assert int.from_bytes(one.modes[4:8], "little") == before[1] & ~termios.OPOST
        assert int.from_bytes(one.modes[12:16], "little") == before[3]
        one.enter()
        assert termios.tcgetattr(slave) == before
        one.leave()
    finally:
        os.dup2(saved, 1)
        for descriptor in (saved, master, slave):
            os.close(descriptor)
