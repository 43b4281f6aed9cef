"""Real gdb against `trapgate run` as a process: how it may come to a guest, and what it is told when it may not."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvm.guest import KVM
from system.gdb_session import image, run_gdb
from trapgate.gdb.address import UnixAddress
from trapgate.gdb.client import Client

pytestmark = pytest.mark.skipif(shutil.which("gdb") is None or shutil.which("gcc") is None, reason="needs gdb and gcc")
TRAPGATE = str(Path(sys.executable).with_name("trapgate"))
HELLO = bytes.fromhex("baf803b021ee b00aee e6e9 b010e6f4".replace(" ", ""))  # COM1: "!", newline; E9h: newline; leave with 33
BOTH_ENGINES = pytest.mark.parametrize("engine", ["soft", pytest.param("kvm", marks=KVM)])


@contextlib.contextmanager
def started(folder: Path, *words: str) -> Iterator[tuple["subprocess.Popen[str]", UnixAddress]]:
    """A guest that waits for gdb on a UNIX socket; what it writes to standard error is there to be read."""
    address = UnixAddress(str(folder / "gdb"))
    command = [TRAPGATE, "run", image(plain=True), "--gdb", str(address), "--wait", *words]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        while "listening" not in run.stderr.readline():
            assert run.poll() is None
        try:
            yield run, address
        finally:
            run.terminate()


def ask(address: UnixAddress, *commands: str, target: str = "remote") -> str:
    return run_gdb(f"target {target} {address.path}", *commands, file=image(plain=True))


@BOTH_ENGINES
def test_a_guest_of_a_process_is_started_again(tmp_path: Path, engine: str) -> None:
    with started(tmp_path, "--engine", engine) as (run, address):
        text = ask(
            address, "break twice", "continue", "monitor reset", "continue", "p rounds", "run", "p rounds", "kill",
            target="extended-remote",
        )  # fmt: skip
        assert text.count("Breakpoint 1, twice") == 3, text
        assert run.wait(20) == 0


def test_a_profile_goes_on_with_the_guest_that_was_started_again(tmp_path: Path) -> None:
    with started(tmp_path, "--profile") as (run, address):
        assert "Breakpoint 1, twice" in ask(address, "break twice", "continue", "monitor reset", "continue", "kill")
        run.wait(20)
        assert run.stderr is not None
        said = run.stderr.read()
        assert "profile of" in said, said
        assert "a breakpoint" in said


def test_gdb_starts_the_guest_itself(tmp_path: Path) -> None:
    """What the guest writes does not get between gdb and the stub."""
    sector = tmp_path / "sector"
    sector.write_bytes(HELLO.ljust(510, b"\0") + b"\x55\xaa")
    text = run_gdb(
        "set remotetimeout 60",
        f"target remote | {TRAPGATE} run {sector} --gdb stdio --debugcon stdout",
        "p/x $pc",
        "stepi 3",
        "continue",
    )
    assert "$1 = 0x7c00" in text, text
    assert "exited with code 041" in text
    assert "!\n" in text  # before gdb hears of the end, whereupon it ends the guest's process
    assert "trapgate: gdb has standard input and output" in text


def test_gdb_leaves_a_guest_that_it_has_started() -> None:
    for last in ("detach", "kill", "monitor quit", "disconnect", "p 1"):
        text = run_gdb(
            f"target remote | {TRAPGATE} run {image(plain=True)} --gdb stdio",
            "break twice",
            "continue",
            last,
            file=image(plain=True),
        )
        assert "Breakpoint 1" in text, text


def test_a_terminal_is_no_debugger() -> None:
    reader, terminal = os.openpty()
    done = subprocess.run(
        [TRAPGATE, "run", image(plain=True), "--gdb", "stdio"],
        stdin=terminal,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(terminal)
    os.close(reader)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "let gdb start it: target remote | trapgate run IMAGE --gdb stdio" in done.stderr


def test_a_second_gdb_is_told_in_words(tmp_path: Path) -> None:
    with started(tmp_path) as (run, address), Client(address) as first:
        text = ask(address, "p 1")
        assert "a debugger is connected to this guest already; it serves one at a time" in text, text
        assert first.register("rip") == 0x100000
        first.kill()
        run.wait(20)
        assert run.stderr is not None
        assert run.stderr.read().count("trapgate: a debugger was sent away: a debugger is connected; one at a time\n") == 1


def test_a_silent_client_keeps_no_gdb_out(tmp_path: Path) -> None:
    with started(tmp_path) as (_, address), socket.socket(socket.AF_UNIX) as silent:
        silent.connect(address.path)
        assert "$1 = 0x100000" in ask(address, "p/x $pc", "kill")
