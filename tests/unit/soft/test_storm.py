"""Garbage and long streams of instructions in every mode: no signal of the host and no exception of ours, whatever a guest runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from trapgate.arch.models import MODELS

TESTS = Path(__file__).parent.parent.parent
MODES = ("real", "v86", "32", "64", "compat")
SHORT, LONG = 6, 250  # programs


def stormed(place: Path, model: str, mode: str, first: int, count: int) -> int:
    """The instructions that so many programs executed."""
    place.write_bytes(bytes(200))
    command = [sys.executable, "-m", "unit.soft.storm", model, mode, str(first), str(count), str(place)]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, timeout=900, check=False)
    where = place.read_bytes().decode().strip("\0 ")
    assert done.returncode == 0, f"ended with {done.returncode} in program {where}: {done.stderr[-3000:]}"
    return int(done.stdout.split()[0])


@pytest.mark.parametrize("mode", MODES)
def test_a_short_storm(mode: str, tmp_path: Path) -> None:
    model = list(MODELS)[MODES.index(mode) % len(MODELS)]
    assert stormed(tmp_path / "now", model, mode, 0, SHORT) > 1000


@pytest.mark.long
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("mode", MODES)
def test_a_long_storm(model: str, mode: str, tmp_path: Path) -> None:
    assert stormed(tmp_path / "now", model, mode, SHORT, LONG) > 100_000
