"""A real gdb on a guest with four CPUs, each a thread: `cases/smp.c` under the instruction clock, so that each run is the same."""

import re
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

from cases import kit
from system.gdb_session import GuestUnderGdb
from trapgate.machine import ClockKind

pytestmark = pytest.mark.skipif(bool(kit.LACKING) or shutil.which("gdb") is None, reason=kit.LACKING or "needs gdb")
AT_WORK = ("break work if me == 3", "continue", "delete")


@cache
def image() -> str:
    return kit.program("smp", Path(mkdtemp()), '-DCASE="debugger"', "-DCPUS=4", "-DROUNDS=400")


def told(*commands: str) -> str:
    """What gdb says to these commands."""
    guest = GuestUnderGdb(path=image(), file=image(), memory=160, clock=ClockKind.INSTRUCTIONS, cpus=4)
    with guest:
        return guest.gdb(*commands)


def said(output: str, *patterns: str) -> None:
    """Each pattern is there, behind the one before."""
    at = 0
    for pattern in patterns:
        found = re.compile(pattern).search(output, at)
        assert found, f"{pattern!r} is not in {output[at:]}"
        at = found.end()


def turns(output: str) -> list[list[int]]:
    """What `p turns` has said, each time."""
    return [[int(value) for value in found.split(", ")[:4]] for found in re.findall(r"\$\d+ = \{([\d, ]+)", output)]


def test_each_cpu_is_a_thread() -> None:
    output = told("info threads", *AT_WORK, "info threads", "thread apply all p/x $rsp", "thread 2", "p/x $rax >= 0")
    said(output, r"\* 1 .*vCPU 0", r"2 .*vCPU 1.*not started", r"4 .*vCPU 3.*not started")
    said(
        output,
        r'Thread 4 "vCPU 3" hit Breakpoint 1, work \(me=\S*3\)',
        r"1 .*vCPU 0.*long mode",
        r"2 .*long mode",
        r"\* 4 .*work \(me=\S*3\)",
    )
    stacks = re.findall(r"\$\d+ = (0x\w+)", output[output.index("hit Breakpoint") :])[:4]
    assert len(set(stacks)) == 4
    said(output, r"Switching to thread 2", r"= 0x1")


def test_a_breakpoint_is_met_on_whichever_cpu_comes_there() -> None:
    output = told("break work", *["continue"] * 12)
    hit = re.findall(r'Thread (\d) "vCPU ." hit Breakpoint 1, work \(me=\S*(\d)\)', output)
    assert len(hit) == 12
    assert all(int(thread) == int(me) + 1 for thread, me in hit)
    assert len(set(hit)) > 1


def test_a_watchpoint_tells_whose_it_was() -> None:
    output = told("watch watched", "continue", "p me")
    said(output, r"Thread 3 .* hit Hardware watchpoint 1", r"New value = 7")


def test_a_step_leaves_the_others_where_they_are() -> None:
    output = told(*AT_WORK, "p turns", "next", "next", "next", "p turns", "stepi 50", "p turns", "thread")
    first, second, third = turns(output)
    assert first[:3] == second[:3] == third[:3]
    assert first[3] + 1 == second[3]
    said(output, r"Current thread is 4")


def test_with_locking_one_runs_alone() -> None:
    output = told(*AT_WORK, "p turns", "set scheduler-locking on", "break work if turns[me] == 50", "continue", "p turns",
                  "set scheduler-locking off", "delete", "break finish", "continue", "p turns")  # fmt: skip
    first, second, third = turns(output)
    assert first[:3] == second[:3]
    assert second[3] == 50
    assert third == [400] * 4


def test_another_thread_steps() -> None:
    output = told(
        *AT_WORK, "p turns", "thread 2", "p/x $pc", "stepi", "stepi", "p turns", "p $_thread", "thread 4", "next", "p $_thread"
    )
    first, second = turns(output)
    assert first[0] == second[0]
    assert first[2:] == second[2:]
    said(output, r"\$\d+ = 2\n", r"\$\d+ = 4\n")


def test_a_reset_begins_with_one_cpu_again() -> None:
    output = told(*AT_WORK, "monitor reset", "maintenance flush register-cache", "info threads", *AT_WORK)
    said(output, "hit Breakpoint", r"vCPU 1.*not started", "Thread 4 .* hit Breakpoint 2, work")
