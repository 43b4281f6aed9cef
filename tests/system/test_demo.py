"""`trapgate demo` as a user meets it, with a real gdb and with our own client."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from trapgate.check.guest import DemoGuest
from trapgate.cli import demo_guest
from trapgate.cli.demo import run_debugged
from trapgate.cli.demo_debugger import Step, find_gdb
from trapgate.cli.demo_guest import GuestProcess
from trapgate.sandbox.confine import offered

TRAPGATE = str(Path(sys.executable).with_name("trapgate"))


def demo(path: str, *options: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PATH": path}
    return subprocess.run(
        [TRAPGATE, "demo", *options],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=environment,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.skipif(shutil.which("gdb") is None, reason="needs gdb")
def test_every_row_is_right_under_gdb() -> None:
    start = time.monotonic()
    done = demo(os.environ["PATH"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "27 of 27 rows are right" in done.stdout
    assert "GNU gdb" in done.stdout
    assert "wrong" not in done.stdout
    assert time.monotonic() - start < 30 + 60  # the stencils may have to be compiled first


def test_every_row_is_right_under_our_own_client() -> None:
    done = demo("/nonexistent", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(shutil.which("gdb") is None, reason="needs gdb")
def test_a_breakpoint_where_gdb_has_moved_the_guest_stops_it() -> None:
    """gdb "steps" an INT3 on which it has a breakpoint by moving the PC behind it, a breakpoint there, and going on."""
    guest = DemoGuest()
    int3 = next(case for case in guest.cases if case.name == "INT3")
    steps = [Step(int3.number, "hbreak", int3.at), Step(int3.number, "stepi")]
    results, session = run_debugged(guest, steps, find_gdb())
    assert [stop.pc for stop in session.stops] == [int3.at, int3.at + 1]
    assert results.of(int3) == ()  # so it was never executed


@pytest.mark.skipif(not offered().filters, reason="no seccomp filters here")
def test_the_guests_process_is_confined(tmp_path: Path) -> None:
    with GuestProcess(DemoGuest(), str(tmp_path / "gdb")) as process:
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "NoNewPrivs:\t1\n" in status
        assert "Seccomp:\t2\n" in status
    assert not Path(f"/proc/{process.pid}").exists()


def test_what_the_guests_process_cannot_do_is_told_there(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(click.exceptions.Exit) as caught, GuestProcess(DemoGuest(), "/nonexistent/gdb"):
        pass
    told = capfd.readouterr().err
    assert (caught.value.exit_code, told.count("\n")) == (1, 1), told
    assert "trapgate: error: " in told


def test_a_guest_whose_debugger_left_it_amid_a_run_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_guest, "PATIENCE", 0.5)
    with GuestProcess(DemoGuest(), str(tmp_path / "gdb")) as process:
        results, _ = process.results()  # no debugger has come at all
    assert results.events == ()
