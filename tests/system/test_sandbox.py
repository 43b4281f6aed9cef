"""`trapgate run` under its sandbox: all of its threads are, nothing outside is to be had, and what a run needs is."""

import os
import pty
import re
import shutil
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from kvm.guest import KVM
from trapgate.gdb.address import UnixAddress
from trapgate.gdb.client import Client, ClientError
from trapgate.gdb.target import Exited
from trapgate.sandbox.confine import offered
from trapgate.sandbox.ending import STOPPED
from trapgate.stencil.cache import Cache
from trapgate.stencil.library import key, load_library

HOST = offered()
needs_filters = pytest.mark.skipif(not HOST.filters, reason=f"no seccomp filters here: {HOST.reasons}")
needs_landlock = pytest.mark.skipif(not HOST.landlock, reason=f"no Landlock here: {HOST.reasons}")
TRAPGATE = str(Path(sys.executable).with_name("trapgate"))
BYE = bytes.fromhex("b005 e6f4 f4")  # mov al, 5; out F4h, al; hlt
LEFT = 11
WAITS = bytes.fromhex("ebfe")  # jmp $
COUNTS = bytes.fromhex("66b900000018 6649 75fc") + BYE  # mov ecx, 18000000h; again: dec ecx; jnz again
DRIVER = """
import errno, os, socket, sys
from trapgate.cli import entry, run
from trapgate.machine import Machine
resume, confine = Machine.resume, run.confine

def outcome(attempt):
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

def inside(machine, *arguments, **named):
    attempts = (lambda: os.open("file", os.O_RDONLY), lambda: os.unlink("file"), socket.socket)
    print("on the machine's thread", *map(outcome, attempts), file=sys.stderr)
    return resume(machine, *arguments, **named)

def confined(*arguments):
    print("threads", len(os.listdir("/proc/self/task")), file=sys.stderr)
    return confine(*arguments)

run.confine, Machine.resume = confined, inside
sys.argv = ["trapgate", "run", *sys.argv[1:]]
entry.main()
"""
REFUSED = """
import socket, sys
from trapgate.cli import entry
from trapgate.machine import Machine
Machine.resume = lambda machine, step=False: socket.socket()
sys.argv = ["trapgate", "run", *sys.argv[1:]]
entry.main()
"""
HOSTILE = """
import sys
from trapgate.cli import entry
from trapgate.machine import Machine
from trapgate.sandbox import kernel
Machine.resume = lambda machine, step=False: kernel.call("execve", 0, 0, 0)
sys.argv = ["trapgate", "run", *sys.argv[1:]]
entry.main()
"""
OLD_KERNEL = """
import sys
from trapgate.cli import entry
from trapgate.sandbox import kernel
from trapgate.sandbox.bpf import Action, Row, program
from trapgate.sandbox.calls import NUMBERS
lacking = [NUMBERS[name] for name in ("seccomp", "landlock_create_ruleset")]
kernel.no_new_privileges()
kernel.install_filter(program([(number, (Row(Action.MISSING),)) for number in lacking], 999, Action.ALLOW, Action.ALLOW))
sys.argv = ["trapgate", "run", *sys.argv[1:]]
entry.main()
"""
ENGINES = pytest.mark.parametrize("engine", ["soft", pytest.param("kvm", marks=KVM)])


@pytest.fixture(autouse=True, scope="module")
def compiled() -> None:
    """No run has to compile the stencils, which takes long where the host is busy."""
    load_library(Cache())


def image(folder: Path, code: bytes) -> str:
    path = folder / "image"
    path.write_bytes(code.ljust(510, b"\0") + b"\x55\xaa")
    return str(path)


def driven(driver: str, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    (folder / "images").mkdir()
    command = [sys.executable, "-c", driver, image(folder / "images", BYE), "-m", "16M", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL, cwd=folder)


@contextmanager
def waiting(folder: Path, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A run that waits for gdb at a UNIX socket, `gdb` in the folder."""
    command = [TRAPGATE, "run", image(folder, WAITS), "-m", "16M", "--gdb", f"unix:{folder / 'gdb'}", "--wait", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            for _ in range(600):
                with suppress(ClientError), Client(UnixAddress(str(folder / "gdb")), timeout=10) as client:
                    client.register("rip")
                    break
                time.sleep(0.1)
            else:
                pytest.fail("nobody answers")
            yield process
        finally:
            process.kill()


def statuses(process: "subprocess.Popen[bytes]", field: str) -> list[int]:
    """A number out of what the kernel says of each thread of a process."""
    found = []
    for path in Path(f"/proc/{process.pid}/task").glob("*/status"):
        with suppress(OSError):
            found += [int(number) for number in re.findall(rf"^{field}:\s+(\d+)$", path.read_text(), re.MULTILINE)]
    return found


@needs_filters
@ENGINES
def test_every_thread_is_under_the_filter(tmp_path: Path, engine: str) -> None:
    with waiting(tmp_path, "--engine", engine) as process:
        filters, privileges = statuses(process, "Seccomp"), statuses(process, "NoNewPrivs")
        assert len(filters) > 4, "the machine's, gdb's, what prints, and more"
        assert set(filters) == {2}
        assert set(privileges) == {1}
        process.terminate()
        process.wait(20)
    assert not (tmp_path / "gdb").exists()


def test_none_is_when_the_user_wants_none(tmp_path: Path) -> None:
    with open("/proc/self/status") as file:
        mine = int(re.findall(r"^Seccomp:\s+(\d)$", file.read(), re.MULTILINE)[0])
    with waiting(tmp_path, "--no-sandbox") as process:
        assert set(statuses(process, "Seccomp")) == {mine}


@needs_filters
@needs_landlock
@ENGINES
@pytest.mark.parametrize("more", [(), ("--serial", "pty"), ("--gdb", "127.0.0.1:0"), ("--serial", "file:out")])
def test_what_a_run_gets_of_the_host(tmp_path: Path, engine: str, more: tuple[str, ...]) -> None:
    (tmp_path / "file").touch()
    done = driven(DRIVER, tmp_path, "--engine", engine, *more)
    assert done.returncode == LEFT, done.stderr
    assert "threads 1\n" in done.stderr
    assert "on the machine's thread EACCES EACCES EPERM\n" in done.stderr


@needs_filters
def test_a_refusal_that_nobody_expected_is_told_in_a_line(tmp_path: Path) -> None:
    done = driven(REFUSED, tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "Operation not permitted" in done.stderr
    assert "--no-sandbox" in done.stderr


@needs_filters
@ENGINES
def test_a_call_that_no_run_makes_is_the_last(tmp_path: Path, engine: str) -> None:
    leader, follower = pty.openpty()
    before = termios.tcgetattr(follower)
    command = [sys.executable, "-c", HOSTILE, image(tmp_path, BYE), "-m", "16M", "--engine", engine]
    done = subprocess.Popen(
        command, stdin=follower, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
    )  # fmt: skip
    output, errors = done.communicate(timeout=60)
    assert termios.tcgetattr(follower) == before
    os.close(leader)
    os.close(follower)
    assert (done.returncode, output, errors.decode().splitlines()[-1]) == (8, b"", f"trapgate: error: {STOPPED.format('execve')}")


@needs_filters
def test_on_an_older_kernel_the_run_goes_on(tmp_path: Path) -> None:
    done = driven(OLD_KERNEL, tmp_path)
    assert (done.returncode, done.stderr) == (LEFT, "")


def test_loops_are_compiled_and_kept(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The second thread loads LLVM, and the end of a run writes to the cache; both under the sandbox."""
    usual = Cache()
    private_caches: Path = request.getfixturevalue("private_caches")
    private_caches.mkdir(mode=0o700)
    shutil.copy(usual.directory / key(), private_caches)
    done = subprocess.run(
        [TRAPGATE, "run", image(tmp_path, COUNTS), "-m", "16M"],
        capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if name != "HOME"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (LEFT, "")
    assert [path.name for path in private_caches.glob("loops-*")]


@ENGINES
def test_a_guest_is_started_again_from_an_image_that_was_replaced(tmp_path: Path, engine: str) -> None:
    with waiting(tmp_path, "--engine", engine) as process, Client(UnixAddress(str(tmp_path / "gdb")), timeout=20) as client:
        (tmp_path / "image").unlink()
        image(tmp_path, BYE)
        client.monitor("reset")
        assert client.go() == Exited(LEFT)
        assert process.wait(20) == LEFT


@needs_filters
def test_a_debugger_works_to_the_end(tmp_path: Path) -> None:
    with waiting(tmp_path) as process, Client(UnixAddress(str(tmp_path / "gdb")), timeout=10) as client:
        client.register("rip")
        client.step()
        client.kill()
        assert process.wait(20) == 0
