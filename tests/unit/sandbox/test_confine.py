"""The sandbox on this host's kernel: each thing that it must refuse is tried, and each that a run needs."""

import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from trapgate.sandbox import ending
from trapgate.sandbox.confine import libraries, offered
from trapgate.sandbox.landlock import Right, handled
from trapgate.sandbox.policy import HOSTILE

ATTEMPTS = Path(__file__).with_name("attempts.py")
HOST = offered()
needs_filters = pytest.mark.skipif(not HOST.filters, reason=f"no seccomp filters here: {HOST.reasons}")
needs_landlock = pytest.mark.skipif(not HOST.landlock, reason=f"no Landlock here: {HOST.reasons}")
DONE = ("keep a file", "serve a client", "load a library", "settings of the terminal", "signal itself")
ENDED = ("run a program", "an x32 call", "another handler", "SIGSYS", *(f"call {name}" for name in HOSTILE.split()))
REFUSED = (
    "truncate outside", "chmod outside", "link to outside", "symlink inside", "a socket", "a UNIX socket", "a pair of sockets",
    "connect", "bind", "a child", "memory to write and run", "new memory to run", "memory made to run", "signal another process",
    "type into the terminal", "an earlier thread",
)  # fmt: skip
OUTSIDE = (
    "read outside", "write outside", "create outside", "list outside", "unlink outside", "mkdir outside", "own memory",
    "a file of the system", "write a module",
)  # fmt: skip


def tried(*words: str) -> dict[str, Any]:
    """What came of the attempts."""
    return attempted(*words)[0]


@lru_cache
def attempted(*words: str) -> tuple[dict[str, Any], str]:
    """What came of the attempts, and what was said meanwhile."""
    places = [mkdtemp(prefix="trapgate-test-") for _ in range(2)]
    command = [sys.executable, "-W", "ignore", str(ATTEMPTS), *places, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@needs_filters
@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        *((name, "done") for name in DONE),
        *((name, "EPERM") for name in REFUSED),
        *((name, f"status {ending.STATUS}") for name in ENDED),
        ("a blocked signal", "SIGSYS"),
        ("a call to come", "ENOSYS"),
    ],
)
def test_filters(name: str, outcome: str) -> None:
    assert tried()[name] == outcome


@needs_filters
def test_last_words() -> None:
    said = attempted()[1].splitlines()
    told = {name: f"trapgate: error: {ending.STOPPED.format(name)}" for name in (*HOSTILE.split(), ending.OTHER)}
    assert {name for name, line in told.items() if line in said} == set(told)
    assert said.count(told["ptrace"]) == 1
    assert said.count(f"trapgate: error: {ending.SENT}") == 1
    assert set(said) == {*told.values(), f"trapgate: error: {ending.SENT}"}


@needs_landlock
@pytest.mark.parametrize("name", OUTSIDE)
def test_files_outside(name: str) -> None:
    assert tried()[name] == "EACCES"


@needs_landlock
def test_files_outside_of_threads_and_moved_ones() -> None:
    assert tried()["another thread"] == "done"
    assert tried()["move to outside"] in ("EACCES", "EXDEV")


@needs_filters
def test_32_bit_calls() -> None:
    assert tried()["a 32-bit call"] in (f"status {ending.STATUS}", "SIGSEGV")  # the latter of a kernel that has none


def test_every_attempt_is_judged() -> None:
    judged = {
        "a blocked signal",
        *DONE,
        *ENDED,
        *REFUSED,
        *OUTSIDE,
        "a call to come",
        "another thread",
        "move to outside",
        "a 32-bit call",
    }
    assert set(tried()) == judged


@needs_filters
@pytest.mark.parametrize(("errno", "words"), [("ENOSYS", "Function not implemented"), ("EPERM", "Operation not permitted")])
def test_a_host_without_either_is_told(errno: str, words: str) -> None:
    found = tried(errno)
    assert (found["landlock"], found["filters"], found["read outside"]) == (0, False, "done")
    assert found["reasons"] == [f"Landlock: {words}", f"seccomp: {words}"]


def test_rights_by_the_kernels_age() -> None:
    assert handled(1) == Right(0x1FFF)
    assert handled(2) == Right(0x3FFF)
    assert handled(4) == Right(0x7FFF)
    assert handled(99) == Right(0xFFFF)


def test_where_python_loads_from() -> None:
    found = libraries()
    assert Path(sys.modules["json"].__file__ or "").parent.parent in found
    assert Path(sys.modules["trapgate"].__file__ or "").parent.parent in found
    assert Path("/") not in found
    assert not any(path == Path("/tmp") or path == Path.home() for path in found)
