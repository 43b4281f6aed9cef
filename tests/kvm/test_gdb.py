"""A real gdb on a KVM guest: the guest reads what it reads alone."""

import shutil
import subprocess
import threading

import pytest

from kvm.guest import CASE, CHIPS, KVM, SLOWER, Guest, Log
from kvm.test_debugging import ARM, OWN_TF
from trapgate.gdb.address import TcpAddress
from trapgate.gdb.host import DebugHost
from trapgate.kvm import probe

pytestmark = [*KVM, pytest.mark.skipif(shutil.which("gdb") is None, reason="needs gdb")]

TEXT = f"{OWN_TF}\n{ARM.format(address=CASE + 0x0C + 0x17)}"
SOON = 0.3 if SLOWER == 1 else 4  # s until the guest is where it waits
CTRL_C = f"python import threading, os, signal; threading.Timer({SOON}, lambda: os.kill(os.getpid(), signal.SIGINT)).start()"
WHERE = "python import gdb; print('at', hex(int(gdb.parse_and_eval('(long)$pc'))))"


@pytest.fixture(autouse=True, params=["kvm", CHIPS])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guest, "engine", request.param)


def alone() -> list[Log]:
    guest = Guest(TEXT)
    guest.run()
    return guest.log


def under_gdb(*commands: str) -> tuple[Guest, str]:
    guest = Guest(TEXT)
    return guest, attach(guest, *commands)


def attach(guest: Guest, *commands: str) -> str:
    """Let gdb give its commands to a guest; its output once both have ended."""
    host = DebugHost(guest.machine, TcpAddress("127.0.0.1", 0), wait=True)
    thread = threading.Thread(target=host.run, daemon=True)
    thread.start()
    options = ("set architecture i386:x86-64", "set confirm off", "set remotetimeout 60", f"target remote {host.address}")
    arguments = [part for command in (*options, *commands) for part in ("-ex", command)]
    done = subprocess.run(
        ["gdb", "-nx", "-batch", *arguments],
        capture_output=True,
        text=True,
        timeout=60 * SLOWER,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    thread.join(20 * SLOWER)
    assert not thread.is_alive(), done.stdout + done.stderr
    return done.stdout + done.stderr


def places(text: str) -> list[int]:
    return [int(line.split()[1], 16) for line in text.splitlines() if line.startswith("at ")]


def test_the_guest_has_its_own_single_step_and_breakpoint() -> None:
    assert [(one.vector, one.dr6) for one in alone()] == [(1, 0xFFFF4FF0), (1, 0xFFFF0FF1)]


@pytest.mark.parametrize("kind", ["hbreak", "break"])
def test_under_gdb_with_a_breakpoint_armed_it_reads_what_it_reads_alone(kind: str, lies_idle: str) -> None:
    if lies_idle and (kind == "hbreak" or not probe.int3().holds):
        pytest.skip(lies_idle)
    first, last = CASE, CASE + 0x0C + 0x18
    guest, text = under_gdb(f"{kind} *{last}", f"{kind} *{first + 1}", "continue", WHERE, "continue", WHERE, "continue")
    assert places(text) == [first + 1, last]
    assert [(one.vector, one.rip, one.dr6, one.dr7) for one in guest.log] == [
        (one.vector, one.rip, one.dr6, one.dr7) for one in alone()
    ]
    assert "exited" in text


def test_stepped_by_gdb_it_reads_what_it_reads_alone() -> None:
    guest, text = under_gdb("stepi", WHERE, "stepi 3", WHERE, "stepi 300", "continue")
    assert places(text)[0] == CASE + 1
    assert [(one.vector, one.rip, one.dr6) for one in guest.log] == [(one.vector, one.rip, one.dr6) for one in alone()]
    assert "exited" in text


def test_ctrl_c_finds_a_guest_in_hlt_behind_it_and_it_goes_on_waiting() -> None:
    """The 8259s are masked: nothing ends HLT but what gdb changes."""
    guest = Guest("mov al, 0xFF\nout 0x21, al\nsti\nhlt\nmov ebx, 1")
    text = attach(guest, CTRL_C, "continue", WHERE, CTRL_C, "continue", WHERE, "kill")
    assert places(text) == [guest.starts[4]] * 2
    assert text.count("SIGINT") == 2
    assert guest.vcpu.get("rbx") == 0
