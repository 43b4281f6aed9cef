"""A real gdb stops on what a guest does: mode switches, control registers, MSRs, calls, INT3, bus locks; and is told why."""

import re
import shutil
from collections.abc import Iterator

import pytest

from system.gdb_images import Built, sector
from system.gdb_session import GuestUnderGdb
from trapgate.gdb.architecture import Architecture

pytestmark = pytest.mark.skipif(shutil.which("gdb") is None or shutil.which("gcc") is None, reason="needs gdb and gcc")
BIOS, BEHIND = "set architecture i8086", "set architecture i386:x86-64"


@pytest.fixture(scope="module")
def stops() -> Built:
    return sector("stops.S")


@pytest.fixture
def guest(stops: Built) -> Iterator[GuestUnderGdb]:
    with GuestUnderGdb(path=stops.image, file=stops.file, architecture=Architecture.ANY) as found:
        yield found


def told(text: str, *lines: str) -> None:
    """Each of the lines is there, in this order. What a stub says comes on standard error, behind all that gdb says."""
    at = 0
    for line in lines:
        found = re.compile(line, re.MULTILINE).search(text, at)
        assert found, f"{line!r} is not behind {text[:at][-200:]!r} in {text}"
        at = found.end()


def test_a_boot_sectors_quarter_of_an_hour(guest: GuestUnderGdb, stops: Built) -> None:
    """From real mode to a triple fault: the right disassembly in each mode, its tables, and why it ended."""
    text = guest.gdb(
        BIOS, "x/2i $pc", "info registers ip", "monitor info idt 10", "monitor stop-on mode", "continue", "set architecture i386",
        "x/i $pc", "monitor info gdt", "stepi", "x/i $pc", "continue", BEHIND, "monitor info mem", "monitor pages 7c00",
        "monitor pages 40000000", "monitor stop-on nothing", "monitor stop-on int3", "continue", "monitor info idt", "continue",
        "monitor info vcpus", "monitor last 3", "monitor why", "kill", symbols=False,
    )  # fmt: skip
    at = stops.symbols
    told(
        text,
        r"0x7c00:\s+cli",
        r"0x7c01:\s+xor +%ax,%ax",
        r"=> 0x7c\w+:\s+ljmp",
        rf"=> {at['prot']:#x}:\s+mov +\$0x10,%eax",
    )
    told(
        text,
        r"^  10  [0-9a-f]{4}:[0-9a-f]{4}$",
        "stops after a switch between",
        "left real mode for protected mode",
        r"^  0008  32-bit code, readable, base 0x0, limit 0xffffffff, DPL 0$",
        r"^  0018  64-bit code",
        "left protected mode for long mode",
        r"^0{16}-0{10}200000 0{10}200000 -rwx$",
        r"^PML4E +at 0x1000: 0{12}2003 writable$",
        r"^PDE +at 0x3000: .* writable, a page of",
        "0x7c00 is guest-physical 0x7c00: supervisor, read and write, execute",
        "at CPL 3 every access faults",
        r"0x40000000 is not mapped: its PDPTE at 0x2008 is not present: 0x0",
        f"INT3 at {at['met'] - 1:#x} is the debugger's",
        rf"^  06  interrupt gate to 0018:{at['handler']:x}, DPL 0$",
        f"^a triple fault: exception #UD at RIP {at['last']:#x} could not be delivered: its gate lies beyond the IDT's limit, 0x0",
        "the machine ends when you continue",
        "long mode, CPL 0",
        "^exception #GP",
        "^exception #DF",
        "^exception #GP",
        "^a triple fault: .*exception #DF.* could not be delivered: its gate lies beyond the IDT's limit",
    )


def test_writes_of_cr3_and_nothing_any_more(guest: GuestUnderGdb) -> None:
    text = guest.gdb(
        BIOS, "monitor stop-on cr 3", "continue", BEHIND, "continue", "monitor stop-on nothing", "continue", "kill", symbols=False
    )
    told(
        text,
        "CR3 is written: 0x0 became 0x1000",
        "CR3 is written: 0x1000 became 0x4000",
        "stops on breakpoints alone",
        "triple fault",
    )


def test_calls_locks_and_exceptions(guest: GuestUnderGdb, stops: Built) -> None:
    at = stops.symbols
    asks = [f"monitor stop-on {one}" for one in ("process 4000", "int3", "msr lstar", "call 27", "bus-lock", "exception pf")]
    text = guest.gdb(
        BIOS, *asks, "continue", BEHIND, "continue", "continue", "p/x $pc", "continue", "p/x $pc", "continue", "monitor why",
        "maintenance packet qXfer:siginfo:read::0,80", "continue", "monitor why", "continue", "monitor why",
        "monitor stop-on nothing", "kill", symbols=False,
    )  # fmt: skip
    told(
        text, rf"WRMSR of MSR c0000082 \(LSTAR\) is done: {at['entry']:#x}", "CR3 is written: 0x1000 became 0x4000",
        "INT3 at", f"system call 0x27, made at {at['called'] - 2:#x}", r"#PF .*error code 0x0, at 0x40000000",
        "a load at CPL 0 to 2; no page is there",
        rf"bus lock at {at['locks']:#x}: 4 bytes at {at['odd']:#x}, crosses a 64-byte line, CPL 0",
    )  # fmt: skip
    told(text, rf"= {at['met']:#x}$", rf"= {at['entry']:#x}$")
    told(text, r'received: "l\\x0b(\\x00){7}\\x01(\\x00){7}.*@.*\\x0e(\\x00){3}\\x01')


def test_a_call_that_nobody_named_and_another_process_stop_nothing(guest: GuestUnderGdb) -> None:
    text = guest.gdb(
        BIOS, "monitor stop-on process 5000", "monitor stop-on call 28", "monitor stop-on msr 175", "monitor stop-on cr 4",
        "continue", BEHIND, "monitor stop-on int3", "continue", "continue", "kill", symbols=False,
    )  # fmt: skip
    told(text, "CR4 is written: 0x0 became 0x20", "INT3 at", "triple fault")
    assert "CR3 is written" not in text and "system call 0x27" not in text


@pytest.mark.parametrize("steps", [1, 3])
def test_a_step_over_what_is_stopped_on_is_told_once(guest: GuestUnderGdb, stops: Built, steps: int) -> None:
    """The step ends with that stop, and nothing of it comes later."""
    write = stops.symbols["met"] - 4  # mov %rax, %cr3; then INT3
    text = guest.gdb(
        BIOS, "monitor stop-on cr 3", f"hbreak *{write:#x}", "continue", BEHIND, "continue", "delete", *["stepi"] * steps,
        "p/x $pc", "monitor stop-on exception ud", "kill", symbols=False,
    )  # fmt: skip
    assert text.count("CR3 is written: 0x1000 became 0x4000") == 1, text
    if steps == 1:
        told(text, rf"\$1 = {write + 3:#x}$")


@pytest.mark.parametrize(
    ("kind", "space", "stops_there"), [("hbreak", 0x4000, True), ("hbreak", 0x1000, False), ("watch", 0x1000, False)]
)
def test_a_breakpoint_bound_to_an_address_space(
    guest: GuestUnderGdb, stops: Built, kind: str, space: int, stops_there: bool
) -> None:
    """The same code and data in two spaces: it stops in one alone, and in both when it is bound no more."""
    at = stops.symbols["called"] - 2 if kind == "hbreak" else stops.symbols["odd"]
    where = f"{kind} *{at:#x}" if kind == "hbreak" else f"watch *(int *){at:#x}"
    asks = (BIOS, "monitor stop-on int3", where, f"monitor bind {at:x} {space:x}", "monitor bind", "monitor bind 7c00 123")
    text = guest.gdb(
        *asks, "continue", BEHIND, "continue", f"monitor unbind {at:x}", f"monitor unbind {at:x}", "kill", symbols=False
    )
    told(
        text, f"breakpoints at {at:#x} stop in the address space {space:x} alone", "0x123 is no address of a page table",
        "INT3 at", "stop in every address space", f"nothing is bound at {at:#x}",
    )  # fmt: skip
    assert ("\nBreakpoint 1, " in text) == stops_there
    assert ("triple fault" in text) != stops_there
    assert "New value" not in text


def test_no_process_is_waited_for_where_no_kernel_is(guest: GuestUnderGdb) -> None:
    text = guest.gdb("monitor break-process cat", "monitor break-process", "monitor break-process a b", "kill", symbols=False)
    told(text, "no Linux kernel", "no process is waited for", r"usage: monitor break-process \[NAME\]")
