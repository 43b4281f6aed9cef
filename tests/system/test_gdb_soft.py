"""Real gdb and the software CPU: attach, registers, memory, breakpoints, watchpoints, steps, Ctrl-C, detach and sudden death."""

import re
import shutil
import socket
import time
from pathlib import Path

import pytest

from system.gdb_session import SOURCES, GuestUnderGdb
from trapgate import hostcpu
from trapgate.gdb.address import TcpAddress, UnixAddress

pytestmark = pytest.mark.skipif(shutil.which("gdb") is None or shutil.which("gcc") is None, reason="needs gdb and gcc")

IN_MAIN = ("break guest_main", "continue")
CTRL_C = "python import threading, os, signal; threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()"


def test_attach_at_the_entry_and_read_everything() -> None:
    with GuestUnderGdb() as guest:
        text = guest.gdb("p/x $pc", "p $cr0", "p/x $eflags", "info threads", "x/i $pc", "p/x $cs_base", "p/x $dr7", "p $mxcsr")
    assert "$1 = 0x100000" in text
    assert "protected mode" in text
    assert "lgdt" in text
    assert re.search(r"\$2 = \[ PE .*\]", text)
    assert "[ IM DM ZM OM UM PM RC=0 ]" in text


def test_breakpoints_and_the_ways_to_step() -> None:
    with GuestUnderGdb() as guest:
        text = guest.gdb(
            *IN_MAIN, "break add", "continue", "bt", "info args", "finish", "next", "step", "p first", "delete",
            "hbreak round_trip", "continue", "next", "p counter", "next", "up", "info breakpoints", "stepi", "x/i $pc",
        )  # fmt: skip
    assert "Breakpoint 2, add (a=0, b=0)" in text
    assert re.search(r"#0 +add .*\n#1 .* twice .*\n#2 .* round_trip .*\n#3 .* guest_main", text)
    assert "Value returned is $1 = 0" in text
    assert "Breakpoint 3, round_trip" in text
    assert "$3 = 3\n" in text
    assert "breakpoint already hit 1 time" in text
    assert "SIGTRAP" not in text


def test_software_breakpoints_are_not_in_memory() -> None:
    with GuestUnderGdb() as guest:
        before = guest.machine.ram.read(0x100000, 0x200)
        text = guest.gdb(*IN_MAIN, "break *add", "continue", "p $pc == add", "x/2xb add", "monitor physical 100000 10", "kill")
        assert guest.machine.ram.read(0x100000, 0x200) == before
    assert "$1 = 1\n" in text
    assert re.search(r"<add>:\s+0x55\s+0x48", text)


@pytest.mark.parametrize(
    ("word", "title"), [("watch", "Hardware watchpoint"), ("rwatch", "Hardware read"), ("awatch", "Hardware access")]
)
def test_watchpoints(word: str, title: str) -> None:
    with GuestUnderGdb() as guest:
        text = guest.gdb(*IN_MAIN, f"{word} counter", "continue", "bt 1", "continue", "p counter", "info watchpoints")
    assert title in text
    assert "round_trip" in text
    assert "already hit 2 times" in text
    if word == "watch":
        assert re.search(r"Old value = 0\n+New value = 1\n", text)
        assert re.search(r"Old value = 1\n+New value = 3\n", text)


def test_a_watchpoint_on_a_local_and_a_condition() -> None:
    with GuestUnderGdb() as guest:
        text = guest.gdb(*IN_MAIN, "break add if a == 7", "continue", "p a", "p counter",
                         "watch table[7] if table[7] > 4", "delete 2",
                         "continue", "p table[7]")  # fmt: skip
    assert "$1 = 7\n" in text
    assert "New value = 5" in text


def test_general_registers_and_memory_are_written() -> None:
    with GuestUnderGdb() as guest:
        text = guest.gdb(
            *IN_MAIN, "set var counter = 40", "p $rax = 0x1122334455667788", "p/x $al", "p $r15 = -2", "p/x $r15d",
            "break twice", "continue", "p x", "set var x = 50", "finish", "p/x $eflags = 0x246", "p $eflags",
            "set var rounds = -2", "delete", "continue",
        )  # fmt: skip
    assert "= 0x88\n" in text
    assert "= 0xfffffffe\n" in text
    assert re.search(r"\$\d+ = 40\n", text)
    assert re.search(r"Value returned is \$\d+ = 100\n", text)
    assert "[ PF ZF IF ]" in text or "[ PF ZF IF IOPL=0 ]" in text
    assert "exited with code 07" in text  # 3 * 2 + 1


def test_segments_control_and_debug_registers() -> None:
    with GuestUnderGdb() as guest:
        text = guest.gdb(
            *IN_MAIN, "p/x $cs", "p $ss", "p/x $efer", "p $cr4", "p/x $cr3", "p/x $fs_base = 0x7fff12345000", "p/x $gs_base",
            "p/x $k_gs_base = 0x1234", "p/x $cr2 = 0xdead", "p/x $dr6", "p/x $dr0 = 0x100200",
            "p/x $fs_base", "p/x $cr2", "p/x $dr0",
            "monitor msr c0000102", "p/x $k_gs_base",
        )  # fmt: skip
    assert "= 0x8\n" in text
    assert "LMA" in text or "0x500" in text
    assert "PAE" in text
    assert text.count("= 0x7fff12345000") == 2
    assert text.count("= 0xdead\n") == 2
    assert text.count("= 0x100200\n") == 2
    assert "= 0xffff0ff0\n" in text
    assert "msr c0000102 = 0000000000001234" in text


def test_x87_and_sse_state_by_name() -> None:
    with GuestUnderGdb() as guest:
        text = guest.gdb(
            *IN_MAIN, "info float", "break add", "continue", "continue", "p half", "p $xmm0.v2_double[0]", "p $mxcsr",
            "set $xmm5.v2_int64[0] = 0x090a0b0c0d0e0f10", "set $xmm5.v2_int64[1] = 0x0102030405060708", "p/x $xmm5.v4_int32",
            "set $mxcsr = 0x1fa0", "p $mxcsr", "p $st0 = 2.5", "p $st0", "p/x $fctrl = 0x27f", "p/x $fctrl", "p/x $ftag",
            "set var half = 8.0", "continue",
            "p half",
        )  # fmt: skip
    assert re.search(r"Control Word: +0x037f", text)
    assert re.search(r"R7: Empty", text)
    assert "[ IM DM ZM OM UM PM RC=0 ]" in text
    assert "{0xd0e0f10, 0x90a0b0c, 0x5060708, 0x1020304}" in text
    assert "[ PE IM DM ZM OM UM PM RC=0 ]" in text
    assert len(re.findall(r"= 2\.5\n", text)) == 2
    assert text.count("= 0x27f\n") == 2
    assert "= 15.5\n" in text


@pytest.mark.skipif("avx" not in (hostcpu.features() or ()), reason="the host's CPU has no AVX, so guests have none")
def test_ymm_registers_by_name() -> None:
    """gdb puts them together of XMM and of what our description has above it."""
    with GuestUnderGdb() as guest:
        text = guest.gdb(
            *IN_MAIN, "set $ymm5.v4_int64[3] = 0x0102030405060708", "set $ymm5.v4_int64[0] = 0x1112131415161718", "stepi",
            "p/x $ymm5.v8_int32", "p/x $xmm5.v2_int64", "p $ymm15.v4_double", "info registers vector",
        )  # fmt: skip
    assert "{0x15161718, 0x11121314, 0x0, 0x0, 0x0, 0x0, 0x5060708, 0x1020304}" in text
    assert "{0x1112131415161718, 0x0}" in text
    assert "{0, 0, 0, 0}" in text
    assert re.search(r"^ymm5 ", text, re.MULTILINE)


def line_of(text: str) -> int:
    lines = (SOURCES / "main.c").read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


def test_what_the_fpu_computes_is_what_gdb_shows() -> None:
    with GuestUnderGdb() as guest:
        text = guest.gdb(
            *IN_MAIN, f"tbreak {line_of('wide + 1.0L')}", "continue", "display/i $pc", "stepi", "stepi", "stepi", "p $st0",
            "info float", "p $st1",
        )  # fmt: skip
    assert "= 2.25\n" in text
    assert re.search(r"=>R7: Valid +0x40009000000000000000 \+2\.25", text), text
    assert "TOP: 7" in text


def test_ctrl_c_detach_and_attach_again() -> None:
    with GuestUnderGdb(wait=False) as guest:
        first = guest.gdb(CTRL_C, "continue", "p rounds > 0", "bt", "detach")
        assert "SIGINT" in first
        assert "= 1\n" in first
        assert "guest_main" in first
        counts = [int(re.findall(r"\$1 = (\d+)", guest.gdb("p rounds", "detach"))[0]) for _ in range(2)]
        assert counts[1] > counts[0]


def test_stepping_a_running_guest_moves_one_instruction_at_a_time() -> None:
    with GuestUnderGdb(wait=False) as guest:
        text = guest.gdb("info registers rip", *["stepi"] * 30, "x/i $pc", "p (long)$sp % 8")
    assert "SIGTRAP" not in text
    assert "= 0\n" in text


def test_breakpoints_leave_with_the_debugger() -> None:
    with GuestUnderGdb() as guest:
        guest.gdb("break add", "watch counter", "hbreak twice", "continue", "detach")
        runs(guest)
        assert guest.machine.vcpu.armed() == ()


def runs(guest: GuestUnderGdb) -> None:
    """The guest makes progress without a debugger."""
    before = rounds(guest)
    end = time.monotonic() + 20
    while rounds(guest) <= before:
        assert time.monotonic() < end
        time.sleep(0.02)


def rounds(guest: GuestUnderGdb) -> int:
    """The guest's own counter, by its symbol."""
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    from system.gdb_session import image

    with Path(image()).open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        symbols = table.get_symbol_by_name("rounds")
        assert symbols
        return guest.machine.ram.read_int(symbols[0]["st_value"], 4)


@pytest.mark.parametrize("last", [b"$vCont;c", b"$m1000,", b"}", b"\x03", b"$g#67" * 50])
def test_a_debugger_that_dies_amid_a_packet_lets_the_guest_go_on(last: bytes) -> None:
    with GuestUnderGdb(wait=False) as guest:
        assert isinstance(guest.host.address, TcpAddress)
        with socket.create_connection((guest.host.address.host, guest.host.address.port)) as peer:
            peer.sendall(b"+$?#3f")
            peer.recv(100)
            peer.sendall(last)
        runs(guest)
        assert "guest_main" in guest.gdb("bt", "detach")


def test_kill_ends_the_guest(tmp_path: Path) -> None:
    with GuestUnderGdb(address=UnixAddress(str(tmp_path / "gdb"))) as guest:
        guest.gdb(*IN_MAIN, "kill")
        guest.thread.join(20)
        assert not guest.thread.is_alive()


def test_a_call_of_a_guest_function() -> None:
    with GuestUnderGdb() as guest:
        text = guest.gdb(*IN_MAIN, "p add(20, 22)", "p twice(21)", "next", "next", "p rounds")
    assert "$1 = 42\n" in text
    assert "$2 = 42\n" in text


def test_watchpoints_in_more_pages_than_any_cpu_has_registers_for() -> None:
    with GuestUnderGdb() as guest:
        many = [f"watch *(long *){0x110000 + 0x1000 * n:#x}" for n in range(70)]
        text = guest.gdb(*IN_MAIN, *many, "watch counter", "continue", "p counter")
    assert ": counter" in text, text
    assert "New value = 1" in text, text


def test_stops_before_an_exception_is_delivered() -> None:
    with GuestUnderGdb() as guest:
        text = guest.gdb(
            "break round_trip", "continue", "monitor stop-on exception ud", "set var *(short *)$pc = 0x0b0f", "set $at = $pc",
            "continue", "p $pc == $at", "info registers rip", "continue", "monitor stop-on nothing", "kill",
        )  # fmt: skip
        assert "stops before the delivery of: #UD" in text
        assert "#UD (invalid opcode): the guest gets it when it goes on" in text
        assert "Program received signal SIGILL" in text
        assert "$1 = 1" in text
        assert "the machine ends when you continue" in text, text  # it has no handler: a triple fault
        assert "stops on breakpoints alone" in text


def test_stops_after_an_access_to_a_port() -> None:
    with GuestUnderGdb() as guest:
        text = guest.gdb(
            "break round_trip", "continue", "delete", "monitor stop-on port 80 8f", "set $at = $pc",
            "set var *(unsigned *)$pc = 0x84e641b0",  # mov $0x41, %al; out %al, $0x84
            "continue", "p (long)$pc - (long)$at", "detach",
        )  # fmt: skip
        assert "stops after an access to: port 80 to 8f" in text
        assert "OUT 0x41 to port 0x84, 8 bits, is done" in text
        assert "Program received signal SIGTRAP" in text
        assert "$1 = 4" in text
        guest.host.post(lambda: None)
        assert not guest.host.target.events.ports, "who leaves is not waited for"
