"""`trapgate run --engine kvm` as a user meets it: halted guests, signals, bus locks."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kvm.guest import KVM, SLOWER
from trapgate.kvm import abi
from trapgate.kvm.handles import System

pytestmark = KVM
TRAPGATE = str(Path(sys.executable).with_name("trapgate"))
TALK = "bafc03 b003 ee baf803b021ee"  # mov dx, 3FCh; mov al, 3; out dx, al; mov dx, 3F8h; mov al, '!'; out dx, al


def image(folder: Path, code: str) -> str:
    """A flat image that real mode starts at 7C00h."""
    path = folder / "image"
    path.write_bytes(bytes.fromhex(code).ljust(510, b"\0") + b"\x55\xaa")
    return str(path)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_guest_that_waits_in_hlt_ends_by_a_signal(tmp_path: Path, number: signal.Signals, status: int) -> None:
    command = [TRAPGATE, "run", "--engine", "kvm", image(tmp_path, f"{TALK} fb f4 ebfd")]  # sti; again: hlt; jmp again
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"!"
        time.sleep(0.2)
        process.send_signal(number)
        assert process.wait(10 * SLOWER) == status


def test_a_guest_that_halts_for_good_ends(tmp_path: Path) -> None:
    command = [TRAPGATE, "run", "--engine", "kvm", image(tmp_path, "faf4")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30 * SLOWER, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 4
    assert "halted with interrupts disabled" in done.stderr


def test_a_limit_for_bus_locks_needs_a_host_that_sees_them(tmp_path: Path) -> None:
    code = "bb3e80 b91900 f066ff07 e2fa b000 e6f4 f4"  # mov bx, 803Eh; mov cx, 25; lock inc dword [bx]; loop; the exit port
    command = [TRAPGATE, "run", "--engine", "kvm", "--bus-locks", "limit:20", image(tmp_path, code)]
    before = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=30 * SLOWER, stdin=subprocess.DEVNULL, check=False)
    if System().capability(abi.CAP_BUS_LOCK_EXIT):
        assert "25 bus locks at 1 place" in done.stderr
        assert time.monotonic() - before >= 1
    else:
        assert "no bus-lock exits" in done.stderr
        assert done.stderr.count("\n") == 1
