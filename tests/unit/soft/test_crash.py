"""Translated code that crashes the host is told in one line with what a report needs; the process ends as it should."""

import errno
import gc
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from trapgate.hostcall import HostError
from trapgate.isa.modes import code_bits
from trapgate.soft import crash
from unit.soft.bench import CODE
from unit.soft.crashing import GUEST

TESTS = Path(__file__).parent.parent.parent
LAST_WORDS = (
    r"trapgate: error: internal error: the process crashed outside of translated code; signal 0{14}0b, address ([0-9a-f]{16}), "
    r"host RIP [0-9a-f]{16}, guest RIP ([0-9a-f]{16}), mode ([0-9a-f]{16}); report it, with the guest's image\n"
)
WHERE = "guest RIP 0x10000 or behind it, 64-bit code, CPL 0, CS base 0x0; bytes 48 ff c3 48 ff c9 75 f8 f4"
# A guest that crashes the CPU at once, run as the command line does: UD2 is put where native code dispatches blocks.
COMMAND = """
import ctypes, sys
from trapgate.cli import main
from trapgate.soft import cpu
make, outside = cpu.SoftVcpu, sys.argv[1] == "outside"
def broken(*words, **more):
    vcpu = make(*words, **more)
    if outside:
        vcpu.run = lambda: ctypes.string_at(8)
    else:
        vcpu.code.patch(vcpu.code.entries["dispatch"] - vcpu.code.base, bytes.fromhex("0f0b"))
    return vcpu
cpu.SoftVcpu = broken
sys.exit(main.status_of(["run", sys.argv[2], "-m", "16M"]))
"""


def crashed(text: str) -> "subprocess.CompletedProcess[str]":
    """What a process of `crashing` does."""
    command = [sys.executable, "-m", "unit.soft.crashing", text]
    return subprocess.run(command, cwd=TESTS, capture_output=True, text=True, timeout=60, check=False)


def test_signals_find_their_stack_when_the_machine_is_gone() -> None:
    program = """
import gc, os, signal, threading, time
from trapgate.build import make_machine
from trapgate.machine import MachineConfig
def run():
    machine = make_machine(MachineConfig(memory=1 << 20), "soft")
    machine.engine.catch_crashes(None)
    machine.clock.at(100_000_000, machine.pause)
    machine.run()
    machine.close()
run()
thread = threading.Thread(target=run)
thread.start()
thread.join()
gc.collect()
signal.signal(signal.SIGUSR2, lambda *_: os._exit(1))
os.kill(os.getpid(), signal.SIGUSR2)
time.sleep(30)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=TESTS, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0f0b", "SIGILL in translated code"),
        ("f4", "SIGSEGV in translated code (host address 0x0, vector 13"),
        ("31c0 890425 00100000", "SIGSEGV in translated code (host address 0x1000, vector 14, error 0x6)"),
        ("31c9 f7f1", "SIGFPE in translated code"),
        ("fd 0f0b", "SIGILL in translated code"),  # STD
        ("9c 804c240204 9d 0f0b", "SIGILL in translated code"),  # PUSHF; OR byte [rsp + 2], AC; POPF
    ],
)
def test_what_is_told(text: str, told: str) -> None:
    done = crashed(text)
    assert done.returncode == 0, done.stderr
    crash, after = done.stdout.splitlines()
    assert crash.startswith(told)
    assert WHERE in crash
    assert "host code +0x" in crash
    assert after == "Halted() 7"


def test_a_jump_into_nowhere() -> None:
    """Host code that is left altogether: the guest is where it last was seen."""
    done = crashed("31c0 ffe0")
    crash, after = done.stdout.splitlines()
    assert crash.startswith("SIGSEGV in translated code (host address 0x0, vector 14, error 0x14)")
    assert WHERE in crash
    assert after == "Halted() 7"


@pytest.mark.parametrize("text", ["outside", "31e4 50"])
def test_a_process_that_cannot_go_on_says_so(text: str) -> None:
    """A crash beside translated code, and one whose stack is gone: there is nothing to return to."""
    done = crashed(text)
    assert (done.returncode, done.stdout) == (70, "")
    told = re.fullmatch(LAST_WORDS, done.stderr)
    assert told is not None, done.stderr
    address, rip, mode = (int(one, 16) for one in told.groups())
    assert (address, rip) == ((8, CODE + len(bytes.fromhex(GUEST))) if text == "outside" else ((1 << 64) - 8, CODE))
    assert code_bits(mode) == 64


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_the_terminal_is_put_back(where: str, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"\xf4".ljust(510, b"\0") + b"\x55\xaa")
    leader, follower = pty.openpty()
    before = termios.tcgetattr(follower)
    assert before[3] & termios.ECHO
    command = [sys.executable, "-c", COMMAND, where, str(image)]
    done = subprocess.Popen(
        command, stdin=follower, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
    )  # fmt: skip
    _, errors = done.communicate(timeout=60)
    assert termios.tcgetattr(follower) == before
    os.close(leader)
    os.close(follower)
    assert done.returncode == 70, errors
    line = errors.decode()
    assert line.count("\n") == 1
    if where == "outside":
        assert re.fullmatch(LAST_WORDS, line)
    else:
        assert line.startswith("trapgate: error: internal error: HostCrash: SIGILL in translated code (host address 0x")
        assert "guest RIP 0x7c00 or behind it, 16-bit code, CPL 0" in line
        assert "bytes f4 00" in line
        assert "report it" in line


def test_a_stack_that_cannot_be_had_leaves_nothing_to_put_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(size: int, what: str) -> None:
        raise HostError(f"memory for {what}", errno.ENOMEM)

    monkeypatch.setattr(crash, "Mapping", refused)
    with pytest.raises(HostError, match="a stack for signals"):  # a complaint of the half-made object would be a warning
        crash._SignalStack()
    gc.collect()
