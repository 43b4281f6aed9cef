"""The mark `no_bus_locks` as a project that uses pytest meets it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from system.exec_runs import PATIENCE, needs_kernel

pytestmark = pytest.mark.long
LIBRARY = """
#include <stdint.h>
static struct { char before[60]; uint64_t count; } __attribute__((packed, aligned(64))) one;
uint64_t crossing(void) { return __sync_add_and_fetch(&one.count, 1); }
static uint64_t within_line;
uint64_t within(void) { return __sync_add_and_fetch(&within_line, 1); }
"""
TESTS = """
import ctypes, os, pytest
library = ctypes.CDLL("./library.so")

@pytest.fixture(scope="module")
def outside():
    yield os.uname().release

@pytest.mark.no_bus_locks
def test_within():
    assert library.within() == 1

def test_beside(outside):
    assert library.crossing() == 1

@pytest.mark.no_bus_locks(timeout=100)
@pytest.mark.parametrize("times", [2])
def test_crossing(times):
    print("said", times)
    for _ in range(times):
        library.crossing()

@pytest.mark.no_bus_locks
def test_failing():
    assert library.within() == 2

@pytest.mark.no_bus_locks
def test_skipped():
    pytest.skip("why not")

@pytest.mark.no_bus_locks(timeouts=1)
def test_wrong_mark():
    pass
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    needs_kernel()
    if shutil.which("gcc") is None:
        pytest.skip("gcc builds the library")
    (tmp_path / "library.c").write_text(LIBRARY)
    subprocess.run(["gcc", "-g", "-shared", "-fPIC", "-o", "library.so", "library.c"], cwd=tmp_path, check=True)
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "test_last.py").write_text("def test_last():\n    pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers -p trapgate.pytest_plugin\n")
    return tmp_path


def test_marked_tests_run_in_a_guest(project: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-ra"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # as those of this project take their time in a guest
    done = subprocess.run(command, env=environment, cwd=project, capture_output=True, text=True, timeout=3 * PATIENCE, check=False)
    assert done.returncode == 1, done.stdout
    assert "3 failed, 3 passed, 1 skipped" in done.stdout, done.stdout
    for line in (
        "FAILED test_it.py::test_crossing[2]",
        "FAILED test_it.py::test_failing - ",
        "FAILED test_it.py::test_wrong_mark",
        "the mark no_bus_locks takes timeout and suppressions, not timeouts",
        "why not",
        "trapgate: TG0001 split lock: 2 times",
        "variable one, 60 bytes from its beginning",
        "said 2",
    ):
        assert line in done.stdout, (line, done.stdout)
