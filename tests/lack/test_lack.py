"""A host that lacks something: one line that says what, exit status 1, the terminal as it was, and nobody waits for ever."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from lack import kit

TRAPGATE = str(Path(sys.executable).with_name("trapgate"))
needs_tools = pytest.mark.skipif(bool(kit.missing()), reason=kit.missing())
NAMED = (  # the scenario, which call fails, words of what is told; one run each
    ("pipe", "memfd_create", 1, "executable memory: Operation not permitted"),
    ("pipe", "ftruncate", 1, "executable memory: No space left"),
    ("pipe", "pipe", 1, "a pipe: Too many open files; raise the limit of open files (ulimit -n)"),
    ("pipe", "poll", 1, "what the thread 'trapgate input' asked for: Cannot allocate memory"),
    ("pipe", "write", 1, "a sandbox (last words): No space left on device"),
    ("pipe", "write", 2, "to write standard output: No space left on device; make room on the disk"),
    ("pipe", "pthread_create", 1, "a thread for trapgate samples: Resource temporarily unavailable; raise the limits of threads"),
    ("pipe", "pthread_create", 6, "a thread for machine"),
    ("pipe", "syscall", 3, "a sandbox (last words): Cannot allocate memory"),
    ("pipe", "syscall", 4, "a sandbox (Landlock): Cannot allocate memory"),
    ("terminal", "tcsetattr", 1, "a raw terminal (tcsetattr): Input/output error"),
    ("terminal", "pthread_create", 5, "a thread for terminal"),
    ("gdb", "socketpair", 1, "a pair of sockets for gdb (socketpair): Too many open files"),
    ("gdb", "socket", 1, "to listen for gdb on unix:"),
    ("gdb", "poll", 4, ""),  # the machine's thread, or the server's, which is named
    ("gdb", "pthread_create", 2, "a thread for gdb"),
)


@needs_tools
@pytest.mark.parametrize(("scenario", "call", "nth", "words"), NAMED)
def test_what_is_lacking_is_named(scenario: str, call: str, nth: int, words: str) -> None:
    done = kit.run(scenario, call, nth)
    assert done.wrong() == "", done
    assert done.status == 1, done
    assert f"the host refused {words}" in done.complaint


@needs_tools
@pytest.mark.parametrize(
    ("scenario", "call", "nth"),
    [
        ("terminal", "tcsetattr", 2),
        ("gdb", "accept", 1),
        ("gdb", "send", 2),
        ("gdb", "unlink", 1),
        ("pipe", "mkdir", 1),
    ],
)
def test_what_can_be_done_without_is_no_failure(scenario: str, call: str, nth: int) -> None:
    done = kit.run(scenario, call, nth)
    assert done.wrong() == "", done
    assert done.status == kit.STATUS


@needs_tools
@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", kit.SCENARIOS)
def test_any_call_of_a_start_a_run_and_a_stop_fails(scenario: str) -> None:
    """Each of those that are few, and some of those that are many."""
    usual, wrong = kit.run(scenario), list[str]()
    assert usual.wrong() == ""
    for call in kit.KINDS:
        count = usual.counts[call]
        for nth in range(1, count + 1, 1 + count // 15):
            done = kit.run(scenario, call, nth)
            if what := done.wrong():
                wrong.append(f"{call} {nth} of {count}: {what}: {done}")
    assert not wrong, "\n".join(wrong)


def limited(kind: int, limit: int) -> "subprocess.CompletedProcess[str]":
    """A run under a limit of the process."""
    image = kit.folder() / "image"

    def limits() -> None:
        resource.setrlimit(kind, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    return subprocess.run(
        [TRAPGATE, "run", str(image), "-m", "16M"],
        input="k", capture_output=True, text=True, timeout=60, check=False, preexec_fn=limits,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip


@needs_tools
@pytest.mark.parametrize("limit", [5, 6, 7, 8, 10])
def test_few_descriptors(limit: int) -> None:
    told(limited(resource.RLIMIT_NOFILE, limit), "ulimit")


@needs_tools
@pytest.mark.parametrize("megabytes", [100, 200, 350, 500, 650])
def test_little_address_space(megabytes: int) -> None:
    told(limited(resource.RLIMIT_AS, megabytes << 20), "ulimit")


def told(done: "subprocess.CompletedProcess[str]", word: str) -> None:
    """All well, or one line with a remedy in it."""
    if done.returncode == kit.STATUS:
        assert done.stderr.count("\n") <= 1, done
        return
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done
    assert done.stderr.startswith("trapgate: error: ")
    assert word in done.stderr
