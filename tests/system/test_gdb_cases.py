"""What people do with gdb on a guest, as rows: the guest, the commands, and what gdb is to say, in this order."""

import re
import shutil
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

from cases import kit
from system.gdb_images import Built, sector
from system.gdb_session import GuestUnderGdb
from trapgate.gdb.address import TcpAddress
from trapgate.gdb.framing import Packet, Reader, frame

pytestmark = pytest.mark.skipif(bool(kit.LACKING) or shutil.which("gdb") is None, reason=kit.LACKING or "needs gdb")
DEBUGGEE, CRASH, REAL = "debuggee", "x01_reboot_by_int3", "interrupt16.S"


@dataclass(frozen=True, slots=True)
class Row:
    """`commands` are separated by semicolons; `said` has patterns, a line each, that follow each other in gdb's output."""

    name: str
    guest: str
    commands: str
    said: str


ROWS = (
    Row(
        "nexti goes into an interrupt of real mode, and a breakpoint after it is met",
        REAL,
        """
        break *&asked; continue; nexti; p/x $pc == &handler; break *&answered; continue; p/x $bx; break *&printed; continue; p/x $ax
        """,
        r"""
        Breakpoint 1
        \$1 = 0x1
        Breakpoint 2
        \$2 = 0x1234
        Breakpoint 3
        \$3 = 0xe41
        """,
    ),
    Row(
        "a triple fault stops with its stack and its state",
        CRASH,
        "continue; backtrace; p why; p $rax; continue",
        r"""
        signal SIGSEGV
        #0 .* crash
        #1 .* driver \(n=n@entry=41\)
        #2 .* kmain
        \$1 = 195936478
        \$2 = 42
        exited with code 06
        exception #GP
        exception #DF
        exception #GP
        """,
    ),
    Row(
        "an INT3 of the guest's own is the guest's",
        DEBUGGEE,
        "break turn; continue; p breaks; delete; continue",
        r"""
        Breakpoint 1, turn
        \$1 = 1
        exited with code
        """,
    ),
    Row(
        "who wants to stop at an INT3 of the guest's own breaks on it, and it is the guest's all the same",
        DEBUGGEE,
        "break own_breakpoint; continue; p breaks; delete; break turn; continue; p breaks",
        r"""
        Breakpoint 1, own_breakpoint
        \$1 = 0
        Breakpoint 2, turn
        \$2 = 1
        """,
    ),
    Row(
        "software watchpoints, and one that goes out of scope",
        DEBUGGEE,
        """
        break series; continue; set can-use-hw-watchpoints 0; watch result; continue; continue; delete;
        set can-use-hw-watchpoints 1; break plus; continue; watch -l result; continue; continue
        """,
        r"""
        Watchpoint 2: result
        Old value = 0
        New value = 1
        Old value = 1
        New value = 3
        Breakpoint 3, plus
        Hardware watchpoint 4
        Old value = 3
        New value = 6
        """,
    ),
    Row(
        "conditions, finish, calls, advance, return, dprintf",
        DEBUGGEE,
        """
        break plus if b == 3; continue; backtrace; finish; delete; p plus(20, 22); p series(4); p (long)$rsp % 8;
        advance change; dprintf turn,"turning %lu\\n", turns; break own_breakpoint; continue; return; p breaks; continue
        """,
        r"""
        Breakpoint 1, plus \(a=3, b=
        #0 +plus
        #1 .* series
        #2 .* kmain
        Value returned is \$1 = 6
        \$2 = 42
        \$3 = 6
        \$4 = 0
        kmain|change
        Breakpoint 3, own_breakpoint
        \$5 = 0
        turning 0
        exited
        """,
    ),
    Row(
        "watchpoints: a byte far inside, a block under REP STOSB, what LODSQ reads, 5 KiB at once",
        DEBUGGEE,
        """
        break change; continue; watch large.bytes[4000]; continue; continue; delete;
        watch *(char (*)[4])(block + 24); continue; continue; p $rcx; delete;
        rwatch *(long *)(words + 8); continue; delete; watch large; info watchpoints; delete; continue
        """,
        r"""
        Breakpoint 1, change
        New value = 1
        Old value = 1
        New value = 2
        New value = "\\003\\000\\000"
        New value = "\\003\\003\\000"
        \$1 = 38
        read watchpoint 4
        hw watchpoint.*large
        exited
        """,
    ),
    Row(
        "there is no way back: gdb says so, and the session goes on",
        DEBUGGEE,
        "break change; continue; record full; reverse-stepi; reverse-continue; p $pc == &change; delete; continue",
        r"""
        Breakpoint 1, change
        \$1 = 1
        exited
        doesn't support record function
        does not support this command
        does not support this command
        """,
    ),
    Row(
        "what is mapped, before there is paging and with it",
        DEBUGGEE,
        "monitor info mem; break kmain; continue; monitor info mem; monitor gva2gpa 0x101000; monitor info tlb",
        r"""
        kmain
        paging is off
        0000000000000000-0000000[0-9a-f]+ 0000000[0-9a-f]+ .rwx
        0x101000 is guest-physical 0x101000
        'info tlb' is QEMU's
        """,
    ),
    Row(
        "memory in bulk: find, dump, restore, compare-sections, load",
        DEBUGGEE,
        """
        break change; continue; find /b &words, +64, 'h', 'a', 'y'; dump binary memory {folder}/dump &words (char *)&words + 64;
        set var words[0] = 'X'; x/s &words; restore {folder}/dump binary &words; x/s &words; compare-sections .text; load;
        p/x $pc == _start
        """,
        r"""
        Breakpoint 1, change
        <words\+23>
        1 pattern found
        "X needle in a stack of hay"
        Restoring binary file
        "a needle in a stack of hay"
        matched
        Loading section .text
        \$1 = 0x1
        """,
    ),
)


@cache
def built(guest: str) -> Built:
    if guest.endswith(".S"):
        return sector(guest)
    path = kit.program(guest, Path(mkdtemp()))
    return Built(path, path, {})


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_a_row(row: Row, tmp_path: Path) -> None:
    made = built(row.guest)
    commands = [command.strip() for command in row.commands.format(folder=tmp_path).split(";")]
    with GuestUnderGdb(path=made.image, file=made.file) as guest:
        text = guest.gdb(*commands, "kill")
    at = 0
    for pattern in (line.strip() for line in row.said.strip().splitlines()):
        found = re.compile(pattern).search(text, at)
        assert found is not None, f"no {pattern!r} from here on:\n{text[at:]}\nall of it:\n{text}"
        at = found.end()


def test_a_client_that_knows_the_oldest_words_alone() -> None:
    """As small clients of IDEs and scripts do: acknowledgements, no qSupported, `c`, `s`, `g`, `m`, `Z`, Ctrl-C, `D`."""
    with GuestUnderGdb(path=built(DEBUGGEE).image) as guest:
        assert isinstance(guest.host.address, TcpAddress)
        with socket.create_connection((guest.host.address.host, guest.host.address.port), timeout=20) as client:
            reader, waiting = Reader(runs=True), list[bytes]()

            def ask(payload: bytes, answered: bool = True) -> bytes:
                client.sendall(payload if payload == b"\x03" else frame(payload))
                while answered and not waiting:
                    for event in reader.feed(client.recv(4096)):
                        if isinstance(event, Packet):
                            client.sendall(b"+")
                            waiting.append(event.payload)
                return waiting.pop(0) if answered else b""

            assert ask(b"?").startswith(b"T05")
            registers = ask(b"g")
            assert len(registers) > 2 * 16 * 8
            address = guest.machine.vcpu.get("rip")
            assert ask(b"s").startswith(b"T05")
            assert guest.machine.vcpu.get("rip") != address
            here = guest.machine.vcpu.get("rip")
            code = ask(b"m%x,4" % here)
            assert bytes.fromhex(code.decode()) == guest.machine.vcpu.read_virtual(here, 4)
            assert ask(b"Z0,%x,1" % here) == ask(b"z0,%x,1" % here) == b"OK"
            assert ask(b"vMustReplyEmpty") == b""
            ask(b"c", answered=False)
            stop = ask(b"\x03")
            assert stop.startswith((b"T02", b"W"))
            if stop.startswith(b"T"):
                assert ask(b"D") == b"OK"
