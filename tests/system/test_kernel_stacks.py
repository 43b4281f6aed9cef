"""Stacks of the guest's kernel, beside what itself says of them in /proc/PID/stack, and of programs in /proc/PID/syscall."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from system.exec_runs import PATIENCE, TRAPGATE, needs_kernel

pytestmark = [pytest.mark.long, pytest.mark.skipif(os.getuid() != 0, reason="/proc/PID/stack is root's")]
FOLDER = Path(__file__).parent


def test_stacks_of_sleeping_tasks_are_the_kernels_own(tmp_path: Path) -> None:
    needs_kernel()
    if shutil.which("gcc") is None:
        pytest.skip("gcc builds the program")
    made, file = tmp_path / "sleepers", tmp_path / "stacks.json"
    subprocess.run(["gcc", "-g", "-O1", "-w", "-o", str(made), str(FOLDER / "sleepers.c")], check=True)
    command = [sys.executable, str(FOLDER / "sleepers.py"), str(file), str(made)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done
    ours = json.loads(file.read_text())
    assert len(ours) == 6
    for pid, stack in ours.items():
        said = re.search(rf"^{pid} stack\n(.*?)^{pid} syscall\n(.*?)$", done.stdout, re.DOTALL | re.MULTILINE)
        assert said is not None, done.stdout
        its = re.findall(r"^\[<0>\] ([^/\n]+)/", said[1], re.MULTILINE)
        assert len(its) > 2
        assert all(one in names for names, one in zip(stack["frames"][-len(its) :], its, strict=True)), (stack, its)
        assert len(stack["frames"]) <= len(its) + 3  # the kernel leaves its scheduler's own functions out
        sp, pc = (int(word, 16) for word in said[2].split()[-2:])
        assert (stack["user"]["rsp"], stack["user"]["rip"]) == (sp, pc)


def test_a_module_that_locks_the_bus(tmp_path: Path) -> None:
    """With two CPUs, as a kernel with one takes the LOCK prefixes out of its code."""
    needs_kernel()
    release = subprocess.run([TRAPGATE, "exec", "uname", "-r"], capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    headers, insert = Path("/lib/modules") / release.strip() / "build", shutil.which("insmod")
    if not headers.exists() or insert is None or shutil.which("make") is None:
        pytest.skip(f"the module is built with: apt-get install linux-headers-{release.strip()} make kmod")
    shutil.copy(FOLDER / "locker.c", tmp_path)
    (tmp_path / "Makefile").write_text("obj-m := locker.o\n")
    subprocess.run(
        ["make", "-s", "-C", str(headers), f"M={tmp_path}", "modules"], check=True, timeout=PATIENCE, capture_output=True
    )
    file = tmp_path / "report.json"
    script = f"{insert} {tmp_path}/locker.ko && for n in 1 2 3; do echo hello > /proc/locker; done"
    command = [TRAPGATE, "buslocks", "--cpus", "2", "--format", f"json:{file}", "--", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1, done
    (one,) = json.loads(file.read_text())["findings"]
    assert (one["kind"], one["cpl"], one["count"], one["operand"]["line_offset"]) == ("TG0001", 0, 3, 61)
    assert (one["site"]["module"], one["site"]["function"]) == ("locker", "lock_it")
    names = [frame["function"] or "" for frame in one["stacks"][0]["frames"]]
    assert names[:2] == ["lock_it", "locker_write"]
    assert "vfs_write" in names
    assert any("write" in name and "libc" in frame["module"] for name, frame in zip(names, one["stacks"][0]["frames"], strict=True))
