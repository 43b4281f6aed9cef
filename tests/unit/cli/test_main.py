"""The command line: help that teaches, and every mistake as one line on standard error with its status."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trapgate.cli import doctor
from trapgate.cli.errors import Failure
from trapgate.cli.main import status_of


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("trapgate: error: ")
    return captured.err.removeprefix("trapgate: error: ").rstrip()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "Missing argument 'IMAGE'"),
        (["run", "x", "--memory", "lots"], "'lots' is no size; write it like 512M or 2G"),
        (["run", "x", "--gdb", "here"], "'here' is no address for gdb"),
        (["run", "x", "--gdb-arch", "i386"], "--gdb-arch says what gdb is told; it needs --gdb"),
        (["run", "x", "--gdb", ":0", "--gdb-arch", "arm"], "'arm' is none of auto, i8086, i386, x86-64, any"),
        (["run", "x", "--wait"], "--wait needs --gdb"),
        (["run", "x", "--bus-locks", "stop"], "--bus-locks stop needs --gdb"),
        (["run", "x", "--serial", "tape"], "'tape' is none of stdio, pty, file:PATH"),
        (["run", "x", "--cpus", "0"], "0 is not in the range"),
        (["run", "x", "--cpus", "2", "--engine", "kvm"], "--cpus 2: several vCPUs are our own CPU's"),
        (["run", "x", "--nonsense"], "No such option"),
        (["run", "x", "y"], "unexpected extra argument"),
        (["fly"], "No such command 'fly'"),
        (["cache", "burn"], "No such command 'burn'"),
    ],
)
def test_wrong_usage(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(arguments) == 2
    text = one_line(capsys)
    assert words in text
    assert "--help" in text


@pytest.mark.parametrize(("command", "words"), [([], "trapgate demo"), (["run"], "--gdb :1234 --wait"), (["cache"], "clear")])
def test_help_teaches(command: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of([*command, "--help"]) == 0
    assert words in capsys.readouterr().out


def test_nothing_asked_is_answered_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of([]) == 2
    assert "Usage: trapgate" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["--version"]) == 0
    assert capsys.readouterr().out.startswith("trapgate 0.")


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (Failure("no\nsuch thing"), 2, "no such thing"),
        (Failure("fell over", 1), 1, "fell over"),
        (RuntimeError("oops"), 70, "internal error: RuntimeError: oops"),
    ],
)
def test_failures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, status: int, words: str
) -> None:
    def fail() -> int:
        raise error

    monkeypatch.setattr(doctor, "run", fail)
    assert status_of(["doctor"]) == status
    assert words in one_line(capsys)


def test_an_internal_error_is_shown_whole_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise RuntimeError("oops")

    monkeypatch.setenv("TRAPGATE_DEBUG", "1")
    monkeypatch.setattr(doctor, "run", fail)
    with pytest.raises(RuntimeError, match="oops"):
        status_of(["doctor"])


def test_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "run", interrupt)
    assert status_of(["doctor"]) == 130


@pytest.mark.parametrize("words", [("cache", "show"), ("doctor",)], ids=" ".join)
def test_output_that_nobody_reads(words: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [str(Path(sys.executable).with_name("trapgate")), *words]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


SEARCHES = """
import gc, sys
from trapgate.cli.entry import main
searched = []
gc.callbacks.append(lambda phase, found: searched.append(phase))
sys.argv[1:] = ["run", "-h"]
try:
    main()
except SystemExit:
    print(searched, gc.isenabled(), gc.get_freeze_count() > 1000)
"""


def test_what_is_loaded_is_not_searched_for_garbage() -> None:
    """A sixth of a start's time went there."""
    done = subprocess.run([sys.executable, "-c", SEARCHES], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines()[-1] == "[] True True", done
