"""Debian's own gdb against the stub and a pretend guest."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gdb.pretend import CODE, DATA, INC_AT, JUMP_AT, LOAD_AT, PretendMachine
from trapgate.gdb.address import UnixAddress
from trapgate.gdb.target import Names
from trapgate.linux.kallsyms import KernelSymbol
from trapgate.linux.symbolfile import symbol_file

pytestmark = pytest.mark.skipif(shutil.which("gdb") is None, reason="gdb is not installed")


def run_gdb(machine: PretendMachine, *commands: str) -> str:
    """What gdb prints for these commands after it attached."""
    arguments = [
        "gdb",
        "-nx",
        "-nh",
        "-batch",
        "-ex",
        "set confirm off",
        "-ex",
        "set pagination off",
        "-ex",
        "set tcp auto-retry off",
    ]
    where = str(machine.stub.address).removeprefix("unix:")
    for command in (f"target remote {where}", *commands):
        arguments += ["-ex", command]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=False)
    return result.stdout + result.stderr


def test_attach_shows_registers_and_memory() -> None:
    with PretendMachine(waiting=True) as machine:
        machine.target.regs[0].update(rax=0x1122334455667788, xmm3=7 << 64 | 9, st0=0x3FFF8000000000000000, rflags=0x246)
        text = run_gdb(
            machine,
            "p/x $rax",
            "p $eflags",
            "p $xmm3.v2_int64",
            "p $st0",
            "p $cr0",
            "p/x $cs_base",
            "p $k_gs_base",
            "x/3i 0x1000",
            "x/4xb 0x2ffe",
            "info threads",
            "p/x $fctrl",
        )
        assert "$1 = 0x1122334455667788" in text
        assert "$2 = [ PF ZF IF IOPL=0 ]" in text
        assert "{9, 7}" in text
        assert "$4 = 1\n" in text
        assert "[ PE ET PG ]" in text
        assert "<unavailable>" in text
        assert "inc    %rax" in text
        assert "Cannot access memory at address 0x3000" in text
        assert "vCPU 0" in text
        assert "warning" not in text.replace("warning: No executable has been specified", ""), text
    assert machine.target.armed == []
    assert machine.target.running


def test_breakpoint_step_and_continue() -> None:
    with PretendMachine() as machine:
        text = run_gdb(
            machine,
            f"break *{INC_AT:#x}",
            "continue",
            "p/x $pc",
            "p $rax",
            "stepi",
            "p/x $pc",
            "continue",
            "p $rax",
            "info breakpoints",
        )
    assert f"= {INC_AT:#x}" in text
    assert f"= {JUMP_AT:#x}" in text


@pytest.mark.parametrize(
    ("word", "title"),
    [
        ("watch", "Hardware watchpoint"),
        ("rwatch", "Hardware read watchpoint"),
        ("awatch", "Hardware access (read/write) watchpoint"),
    ],
)
def test_watchpoints(word: str, title: str) -> None:
    with PretendMachine() as machine:
        text = run_gdb(machine, f"{word} *(unsigned char*){DATA:#x}", "continue", "p/x $pc")
    assert title in text
    after = f"{LOAD_AT + 2:#x}" if word == "rwatch" else f"{LOAD_AT:#x}"
    assert f"= {after}" in text or (word == "awatch" and f"= {LOAD_AT + 2:#x}" in text), text
    assert re.search("Old value|Value", text)


def test_hardware_breakpoint_and_many_watchpoints() -> None:
    with PretendMachine() as machine:
        watches = [f"watch *(long*){DATA + 8 + 8 * n:#x}" for n in range(12)]
        text = run_gdb(machine, *watches, f"hbreak *{JUMP_AT:#x}", "continue", "p/x $pc")
    assert "Could not" not in text
    assert f"= {JUMP_AT:#x}" in text


def test_changes() -> None:
    with PretendMachine() as machine:
        run_gdb(
            machine,
            "set $rbx = 0x55",
            "set $xmm1.uint128 = 5",
            "set $mxcsr = 0x1f80",
            "set {int}0x2010 = 0x01020304",
            "set $cr3 = 0x9000",
            "set $st1 = 1",
        )
    assert machine.target.regs[0]["rbx"] == 0x55
    assert machine.target.regs[0]["xmm1"] == 5
    assert machine.target.regs[0]["cr3"] == 0x9000
    assert machine.target.regs[0]["st1"] == 0x3FFF8000000000000000
    assert machine.target.pages[0x2000][0x10:0x14] == bytes((4, 3, 2, 1))


def test_interrupt_detach_attach_again() -> None:
    with PretendMachine() as machine:
        script = "python import threading, os, signal; threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()"
        text = run_gdb(machine, script, "continue", "p $rax > 0", "detach")
        assert "SIGINT" in text
        assert "$1 = 1" in text
        machine.settle("detach")
        assert "= 0x1" in run_gdb(machine, "p/x $pc").replace("0x1\n", "")


def test_monitor_and_run() -> None:
    with PretendMachine() as machine:
        text = run_gdb(
            machine, "monitor help", "monitor msr 1d9", "monitor translate 0x2004", "monitor nonsense", "monitor reset", "p/x $pc"
        )
    assert "monitor physical ADDRESS [LENGTH]" in text
    assert "msr 1d9 = 0000000000000004" in text
    assert "0x2004 is guest-physical 0x2004" in text
    assert "unknown command 'nonsense'" in text
    assert "reset" in machine.target.log


def test_exit_and_kill() -> None:
    with PretendMachine(program=bytes.fromhex("48ffc048ffc0f4"), waiting=True) as machine:
        assert "exited with code 02" in run_gdb(machine, "continue")
        assert machine.join()
    with PretendMachine() as machine:
        run_gdb(machine, "kill")
        assert machine.join()
        assert "kill" in machine.target.log


def test_range_stepping_and_vcpus() -> None:
    with PretendMachine(cpus=3) as machine:
        text = run_gdb(machine, "info threads", "thread 2", "p/x $rip", "p $_thread")
    assert "vCPU 2" in text
    assert "= 2" in text


def test_conditions_are_evaluated_in_the_stub() -> None:
    with PretendMachine() as machine:
        code = f"break *{INC_AT:#x} if $rax == 501 && *(unsigned char*){DATA:#x} == 0xf5"
        text = run_gdb(
            machine, "set $rax = 0", "set $rip = 0x1000", code, "continue", "info breakpoints", "p $rax", "set debug remote 0"
        )
        assert "$1 = 501" in text, text
        assert machine.target.log.count("resume") > 200
    assert "target evals" in text


def test_unix_socket(tmp_path: Path) -> None:
    with PretendMachine(UnixAddress(str(tmp_path / "gdb"))) as machine:
        assert "$1 = 8" in run_gdb(machine, "p $cs")


def test_extended_remote_is_understood() -> None:
    with PretendMachine() as machine:
        commands = ("detach", f"target extended-remote {machine.stub.address}", "set $pc = 0x1000", "stepi", "p/x $pc", "detach")
        assert "$1 = 0x1001" in run_gdb(machine, *commands)


def test_names_out_of_the_guest() -> None:
    symbols = [KernelSymbol(CODE, "Tloop"), KernelSymbol(INC_AT, "tincrement"), KernelSymbol(DATA, "Dcounter")]
    with PretendMachine(waiting=True) as machine:
        machine.target.named = Names(lambda: symbol_file(symbols), ("a kernel",))
        machine.target.regs[0].update(rip=LOAD_AT)
        text = run_gdb(machine, "info symbol $pc", "break increment", "continue", "p $pc", "info symbol &counter", "detach")
        assert "loop + 6 in section .text" in text
        assert re.search(rf"Breakpoint 1, 0x0*{INC_AT:x} in increment \(\)", text), text
        assert f"(void (*)()) {INC_AT:#x} <increment>" in text
        assert "counter in section .data" in text
