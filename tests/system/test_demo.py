"""`trapgate demo` as a user meets it, with a real gdb and with our own client."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("trapgate.soft.cpu", reason="the software CPU is not there yet")

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
