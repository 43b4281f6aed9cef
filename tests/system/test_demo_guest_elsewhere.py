"""The demo guest itself, judged by another machine: QEMU's TCG agrees wherever it implements the case."""

import shutil
import subprocess

import pytest

from trapgate import guests

QEMU = "qemu-system-x86_64"
# TCG has no bus-lock trap (those cases skip themselves), and gets these wrong: DR7.GD, INT1, BTF, MOV SS before a #DB.
NOT_IN_TCG = {"general detect", "ICEBP", "branch step", "MOV SS, data"}


@pytest.mark.skipif(shutil.which(QEMU) is None, reason="needs qemu-system-x86")
def test_tcg_agrees() -> None:
    command = (
        f"{QEMU} -accel tcg -cpu max -m 16M -nodefaults -display none -serial stdio -no-reboot -device isa-debug-exit,iobase=0xf4"
    )
    done = subprocess.run([*command.split(), "-kernel", str(guests.DEMO)], capture_output=True, text=True, timeout=60, check=False)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("every debug exception")
    assert lines[-1].startswith("27 cases"), done.stdout
    verdicts = {line[:24].strip(): line.split()[-1] for line in lines[1:-1]}
    assert {name for name, verdict in verdicts.items() if verdict == "ok"} >= {
        "single step", "exec breakpoint", "data write", "data access", "I/O breakpoint", "INT3", "unseen: DR6, DR7"
    }  # fmt: skip
    assert {name for name, verdict in verdicts.items() if verdict == "WRONG"} <= NOT_IN_TCG
    assert done.returncode & 1, "no status from the exit port"
