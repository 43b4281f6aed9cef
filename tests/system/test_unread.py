"""Nobody reads what the guest prints: the debugger is answered, signals are heard, the guest waits, and nothing is lost."""

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trapgate.gdb.address import UnixAddress
from trapgate.gdb.client import Client

TRAPGATE = str(Path(sys.executable).with_name("trapgate"))
PRINTS = bytes.fromhex("baf803b02eeeebfd")  # mov dx, 3F8h; mov al, '.'; again: out dx, al; jmp again
# mov dx, 3F8h; mov bx, 10; more: mov cx, 50000; again: mov al, cl; out dx, al; loop again; dec bx; jnz more; mov al, 5; out F4h, al
MUCH = bytes.fromhex("baf803 bb0a00 b950c3 88c8 ee e2fb 4b 75f5 b005 e6f4 f4")
PRINTED = bytes(n & 0xFF for n in range(50_000, 0, -1)) * 10
SOON = 4.0  # seconds until a signal must have ended the process, on a busy host


def boot_sector(folder: Path, code: bytes) -> str:
    path = folder / "image"
    path.write_bytes(code.ljust(510, b"\0") + b"\x55\xaa")
    return str(path)


@contextmanager
def started(*arguments: str, stdin: int, stdout: int, new_session: bool = False) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([TRAPGATE, "run", *arguments, "-m", "16M"], stdin=stdin, stdout=stdout, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("where", ["pipe", "terminal"])
def test_the_debugger_and_signals_are_heard(tmp_path: Path, where: str) -> None:
    reader, writer = os.pipe() if where == "pipe" else pty.openpty()
    before = None if where == "pipe" else termios.tcgetattr(writer)
    path = tmp_path / "gdb"
    with started(boot_sector(tmp_path, PRINTS), "--gdb", f"unix:{path}", stdin=writer, stdout=writer) as process:
        ready, _, _ = select.select([reader], [], [], 60)
        assert ready
        time.sleep(1.0)  # pipe and queue fill up
        with Client(UnixAddress(str(path)), timeout=10) as client:
            assert 0x7C05 <= client.register("rip") <= 0x7C08
            for _ in range(5):
                client.step()
        process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        assert process.wait(20) == 128 + signal.SIGTERM
        assert time.monotonic() - begin < SOON
        if before is not None:
            assert termios.tcgetattr(writer) == before
    os.close(reader)
    os.close(writer)


def test_a_late_reader_gets_everything(tmp_path: Path) -> None:
    with started(boot_sector(tmp_path, MUCH), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        time.sleep(1.0)
        output, complaint = process.communicate(timeout=60)
        assert output == PRINTED
        assert (process.returncode, complaint) == (11, b"")


def test_who_quits_at_the_end_need_not_wait_for_a_reader(tmp_path: Path) -> None:
    with started(boot_sector(tmp_path, MUCH), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 1)
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        assert process.wait(20) == 128 + signal.SIGINT
        assert time.monotonic() - begin < SOON
