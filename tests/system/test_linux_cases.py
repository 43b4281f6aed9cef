"""Programs of public reports in Debian's kernels: they see what they see on a machine of its own."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the tools are no part of the package

from cases import kit
from system.linux_programs import guest_with
from tools.guests.console import Console
from tools.guests.scenarios import DETECTION, DONE, Guest, program_output
from trapgate.gdb.address import UnixAddress
from trapgate.gdb.client import Client
from trapgate.gdb.target import BreakKind, Stopped
from trapgate.symbols import Symbols, read_symbols

pytestmark = [pytest.mark.linux, pytest.mark.timeout(600), pytest.mark.skipif(bool(kit.LACKING), reason=kit.LACKING)]
NAMES = ("packed_atomic", "only_steps", "sigtraps", "user_selectors")
INTEL, AMD = "SapphireRapids", "EPYC-Turin"
BOTH = pytest.mark.parametrize("cpu", [INTEL, AMD])
LOCKED = ["message_sent"] * 3 + ["take_reference", "try_lock"]  # what packed_atomic does by itself
STEPS = 12  # that only_steps does
WATCHED = 60  # seconds that a guest stands still: watchdogs of its kernel bark after 20
TROUBLE = ("BUG:", "WARNING:", "soft lockup", "stall", "unstable")


@cache
def programs() -> dict[str, Path]:
    """The programs as static files that run on the host and in a guest."""
    folder = Path(mkdtemp(prefix="trapgate-test-"))
    for name in NAMES:
        source = kit.HERE / "linux" / f"{name}.c"
        command = ["gcc", "-g", "-O1", "-static", "-Wno-array-bounds", "-o", str(folder / name), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
    return {name: folder / name for name in NAMES}


def guest(series: str) -> Guest:
    return guest_with(series, programs())


def symbols(name: str) -> Symbols:
    return read_symbols(str(programs()[name]))


def named(addresses: list[str], name: str) -> list[str]:
    """The functions of a program that hold the byte in front of each address: where the instruction is that ended there."""
    found = [symbols(name).find(int(address, 16) - 1) for address in addresses]
    return [place[0] if place else "nowhere" for place in found]


def reports(output: str, name: str) -> list[str]:
    """The addresses in the kernel's bus-lock lines on a program."""
    return re.findall(DETECTION + rf"#DB: {name}/\d+ took a bus_lock trap at address: (0x[0-9a-f]+)", output)


def printed(output: str, first: str) -> list[str]:
    """What programs printed, from a line that begins so on."""
    lines = program_output(output).splitlines()
    begin = next(n for n, line in enumerate(lines) if line.startswith(first))
    return lines[begin : next(n for n, line in enumerate(lines) if line.startswith(DONE))]


@BOTH
def test_what_a_program_sees_of_its_own_debug_exceptions(cpu: str) -> None:
    """The same as on a machine of its own. On Intel this kernel takes the first #DB of a boot for a bus lock: another has it.

    The host is not asked: as a virtual machine it may come to no end where TF meets a bus lock.
    """
    output, status = guest("6.1").output(cpu, "trapgate.run=only_steps;sigtraps")
    assert "\n".join(printed(output, "int3 ")) + "\n" == (kit.HERE / "linux" / "sigtraps.txt").read_text()
    assert status == 0


@pytest.mark.parametrize(
    ("series", "cpu", "false"), [("6.1", INTEL, 1), ("6.1", AMD, 0), ("backports", INTEL, 0), ("backports", AMD, 0)]
)
def test_steps_are_no_bus_locks(series: str, cpu: str, false: int) -> None:
    """Kernels before 6.16 take the first #DB of a boot for one, on Intel: they write 0 into DR6 at their start."""
    output, status = guest(series).output(cpu, "trapgate.run=only_steps;only_steps")
    assert len(reports(output, "only_steps")) == false
    assert re.findall(r"^steps (\d+)$", program_output(output), re.MULTILINE) == [str(STEPS)] * 2
    assert status == 0


@BOTH
def test_null_selectors_of_a_program_lose_their_rpl(cpu: str) -> None:
    output, _ = guest("6.1").output(cpu, "trapgate.run=user_selectors")
    assert "es 0 ds 0 gs 0" in output


@pytest.mark.parametrize("series", ["6.1", "vmlinuz-rt"])
def test_each_atomic_access_across_a_line_is_told(series: str) -> None:
    output, status = guest(series).output(INTEL, "trapgate.run=packed_atomic")
    assert named(reports(output, "packed_atomic"), "packed_atomic") == LOCKED
    assert "sent 3, references 1, done; 0" in output
    assert f"{DONE}0" in output
    assert status == 0


@pytest.mark.parametrize("series", ["6.1", "vmlinuz-rt"])
def test_the_first_is_fatal_where_it_is_to_be(series: str) -> None:
    output, _ = guest(series).output(INTEL, "split_lock_detect=fatal trapgate.run=packed_atomic")
    assert reports(output, "packed_atomic") == []
    assert re.search("^sent", output, re.MULTILINE) is None
    assert f"{DONE}135" in output  # SIGBUS


def test_so_many_a_second() -> None:
    output, _ = guest("6.1").output(INTEL, "split_lock_detect=ratelimit:5 trapgate.run=packed_atomic,28")
    took = re.search(r"sent 28, references 1, in (\d+) ms", output)
    assert took is not None, output[-2000:]
    assert int(took[1]) > 4000  # 30 bus locks, of which five a second are free


@pytest.mark.parametrize(("series", "cpu"), [("6.1", INTEL), ("6.1", AMD), ("vmlinuz-6.12", INTEL)])
def test_reports_of_ours_name_functions(series: str, cpu: str) -> None:
    """And who called, and who it was, of a program that lies in the guest alone; this kernel has moved itself."""
    more = ("--bus-locks", "report:user", "--symbols", str(programs()["packed_atomic"]))
    with guest(series).boot(f"{cpu},-bus-lock-detect", "trapgate.run=packed_atomic", *more) as console:
        assert console.finish() == 0
        told = console.errors
    who = "" if series == "6.1" else r".*  by packed_atomic\[\d+\]\n"  # processes are known from Linux 6.4 on
    stack = r"CPL 3\n" + who + r".*  #0  {} at .*packed_atomic\.c:\d+\n.*  #1  main at .*packed_atomic\.c:\d+\n"
    assert all(re.search(stack.format(name), told) for name in LOCKED), told
    found = re.findall(r"bus lock at 0x[0-9a-f]+ \((\w+)\+0x[0-9a-f]+, packed_atomic\.c:\d+\): \d bytes .*CPL 3", told)
    assert found == list(dict.fromkeys(LOCKED)), told
    assert re.search(r"5 bus locks at 3 places\n.* 3 x 0x[0-9a-f]+ \(message_sent", told)


@pytest.mark.skipif(shutil.which("gdb") is None, reason="needs gdb")
def test_reports_of_ours_tell_who_called_in_the_kernel(tmp_path: Path) -> None:
    """gdb lends a function of the kernel an operand across a line: by nothing else does this kernel lock the bus so.

    And with two CPUs the second one locks memory that is not write-back, before it has turned its cache on.
    """
    program, place = programs()["packed_atomic"], tmp_path / "gdb"
    options = ("--cpus", "2", "--bus-locks", "report", "--gdb", f"unix:{place}", "--wait")
    with guest("vmlinuz-6.12").boot(f"{INTEL},-bus-lock-detect", "trapgate.run=packed_atomic", *options) as console:
        while not place.exists():
            time.sleep(0.1)
        commands = [
            "set remotetimeout 200", f"target remote {place}", "hbreak take_reference", "continue", "delete",
            "file target:/vmlinux", "hbreak _raw_spin_lock", "continue", "info symbol *(long *)$rsp",
            "set $at = ((long)$rsp & -64) - 1024 + 61", "set *(int *)$at = 0", "set $rdi = $at", "delete", "detach",
        ]  # fmt: skip
        words = [word for command in commands for word in ("-ex", command)]
        done = subprocess.run(
            ["gdb", "-nx", "-batch", str(program), *words], capture_output=True, text=True, timeout=300, check=False
        )
        assert console.finish() == 0
        told = console.errors
    caller = re.search(r"^(\w+) \+ (\d+) in section", done.stdout, re.MULTILINE)
    assert caller is not None, done
    first = r"\(_raw_spin_lock\+0x[0-9a-f]+\): 4 bytes .* CPL 0.*\n.*  by .*\n.*  #0  _raw_spin_lock\+.*\n"
    assert re.search(first + rf".*  #1  {caller[1]}\+{int(caller[2]):#x} in the kernel\n.*  #2  \w+\+", told), told
    assert re.search(r"memory is not write-back, CPL 0, CPU 1\n.*  by swapper/1", told), told


@contextmanager
def stopped_in(name: str, function: str, *options: str, append: str = "") -> Iterator[tuple[Console, Client]]:
    """Linux under a debugger, stopped at a function of a program; kernel and program have no address of their own choice."""
    place = Path(mkdtemp(prefix="trapgate-test-")) / "gdb"
    address = next(a for a, n in zip(symbols(name)._addresses, symbols(name)._names, strict=True) if n == function)
    with guest("6.1").boot(INTEL, f"trapgate.run={name}{append}", "--gdb", f"unix:{place}", "--wait", *options) as console:
        for _ in range(600):
            if place.exists():
                break
            time.sleep(0.1)
        with Client(UnixAddress(str(place)), timeout=20) as client:
            client.insert(BreakKind.HARDWARE, address)
            stop = client.go(timeout=200)
            assert isinstance(stop, Stopped), stop
            assert client.register("rip") == address
            yield console, client


def seconds(output: str) -> float:
    """The kernel's last time stamp."""
    return float(re.findall(r"^\[ *(\d+\.\d+)\]", output, re.MULTILINE)[-1])


def test_a_long_stop_is_not_seen_by_the_kernel() -> None:
    with stopped_in("packed_atomic", "take_reference") as (console, client):
        console.listen(0.5)
        before = seconds(console.output)
        time.sleep(WATCHED)
        client.detach()
        assert console.finish() == 0
        assert f"{DONE}0" in console.output
        assert seconds(console.output) - before < WATCHED / 2
        assert not [word for word in TROUBLE if word in console.output]


def test_where_a_kernel_has_moved_itself_can_be_read() -> None:
    """With KASLR: LSTAR is the kernel's entry for system calls, by the same name in its own list of symbols."""
    with stopped_in("packed_atomic", "try_lock", append=";grep,-w,entry_SYSCALL_64,/proc/kallsyms") as (console, client):
        entry = client.register("lstar")
        assert f"{entry:x}" in client.monitor("info system").replace("0x", "").lower()
        client.detach()
        assert console.finish() == 0
        assert f"{entry:016x} T entry_SYSCALL_64" in console.output


@pytest.mark.skipif(shutil.which("gdb") is None, reason="needs gdb")
def test_gdb_shows_the_line_that_locks_the_bus(tmp_path: Path) -> None:
    program, place = programs()["packed_atomic"], tmp_path / "gdb"
    options = ("--bus-locks", "stop:user", "--gdb", f"unix:{place}", "--wait")
    with guest("6.1").boot(AMD, "trapgate.run=packed_atomic", *options) as console:
        while not place.exists():
            time.sleep(0.1)
        commands = [f"target remote {place}", "continue", "frame", "kill"]
        words = [word for command in commands for word in ("-ex", command)]
        done = subprocess.run(
            ["gdb", "-nx", "-batch", str(program), *words], capture_output=True, text=True, timeout=300, check=False
        )
        assert "message_sent" in done.stdout, done
        assert re.search(r"packed_atomic\.c:\d+", done.stdout), done
        assert console.finish() == 0
