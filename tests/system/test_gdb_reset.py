"""Real gdb: `monitor reset` and `run` put a guest back to its start, with breakpoints kept and nothing left of before."""

import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kvm.guest import KVM
from system.gdb_session import FLAGS, PLAIN, SOURCES, GuestUnderGdb, image
from trapgate.gdb.client import Client
from trapgate.gdb.target import BreakKind, Exited, Stopped, Why
from trapgate.machine import ClockKind

pytestmark = pytest.mark.skipif(shutil.which("gdb") is None or shutil.which("gcc") is None, reason="needs gdb and gcc")
BOTH_ENGINES = pytest.mark.parametrize("engine", ["soft", pytest.param("kvm", marks=KVM)])
TRAPGATE = str(Path(sys.executable).with_name("trapgate"))
TSC = 0x10


@BOTH_ENGINES
def test_monitor_reset_keeps_breakpoints_and_nothing_else(engine: str) -> None:
    with GuestUnderGdb(engine=engine, path=image(plain=True), file=image(plain=True)) as guest:
        text = guest.gdb(
            "break guest_main", "hbreak twice", "continue", "continue", "continue", "p counter", "set var table[3] = 77",
            "set *(long *)0x180000 = 5", "set $r15 = 9", "set $xmm3.uint128 = 7", "set $dr0 = 0x1000",
            "monitor reset", "maintenance flush register-cache", "p/x $pc", "p counter", "p table[3]", "p *(long *)0x180000",
            "p $r15", "p/x $xmm3.uint128", "p/x $dr0", "p/x $efer",
            "continue", "continue", "continue", "p counter", "monitor reset", "continue", "info breakpoints", "kill",
        )  # fmt: skip
    assert re.findall(r"\$\d+ = (\S+)", text) == ["1", "0x100000", "0", "0", "0", "0", "0x0", "0x0", "0x0", "1"], text
    assert text.count("Breakpoint 1, guest_main") == 3
    assert text.count("Breakpoint 2, twice") == 4
    assert re.findall(r"breakpoint already hit (\d+) time", text) == ["3", "4"]


@BOTH_ENGINES
def test_no_breakpoint_is_seen_in_physical_memory(engine: str) -> None:
    """Nor lost by looking: KVM has them as bytes in RAM, where there are more than its four registers take."""
    with GuestUnderGdb(engine=engine, path=image(plain=True)) as guest, Client(guest.host.address) as client:
        address = symbol("add", image(plain=True))
        before = client.read_memory(address, 16)
        for number in range(4):
            client.insert(BreakKind.SOFTWARE, 0x1F0000 + number)
        for _ in range(2):
            client.insert(BreakKind.SOFTWARE, address)
            assert client.go() == Stopped(1, why=Why.SOFTWARE)
            assert before.hex(" ") in client.monitor(f"physical {address:x} 10")
            client.ask(b"Qqemu.PhyMemMode:1")
            assert client.read_memory(address, 16) == before
            client.write_memory(address, before)
            client.ask(b"Qqemu.PhyMemMode:0")
        assert client.go() == Stopped(1, why=Why.SOFTWARE)


def test_a_watchpoint_outlasts_a_reset_and_gdb_remembers_the_value_of_before() -> None:
    with GuestUnderGdb() as guest:
        text = guest.gdb("watch counter", "continue", "monitor reset", "set var counter = 0", "continue", "kill")
    assert len(re.findall(r"Old value = 0\n+New value = 1\n", text)) == 2, text


@BOTH_ENGINES
def test_edit_run_debug(engine: str, tmp_path: Path) -> None:
    """`run` goes back to the start at any time, with what the image is by then."""
    built = tmp_path / "guest.elf"
    built.write_bytes(Path(image(plain=True)).read_bytes())
    (tmp_path / "main.c").write_text((SOURCES / "main.c").read_text().replace("return 3;", "return 5;"))
    (tmp_path / "start.S").write_text((SOURCES / "start.S").read_text())
    make = f"shell gcc {FLAGS} {PLAIN} -o {built} {tmp_path}/start.S {tmp_path}/main.c"
    with GuestUnderGdb(engine=engine, path=str(built), file=str(built)) as guest:
        text = guest.gdb(
            "break guest_main", "continue", "delete", "set var rounds = -2", "continue",  # it ends: 3 * 2 + 1
            "break twice", "run", "p rounds", "set var rounds = 10", "run", "p rounds",
            make, "delete", "break guest_main", "run", "set var rounds = -2", "delete", "continue", "info threads", "run &",
            "kill", "monitor help", target="extended-remote",
        )  # fmt: skip
    assert "exited with code 07" in text, text
    assert len(re.findall(r"Breakpoint \d, twice", text)) == 2
    assert re.findall(r"\$\d+ = (\S+)", text) == ["0", "0"]
    assert "exited with code 013" in text  # 5 * 2 + 1
    assert "No threads" in text
    assert "connection closed" not in text


def test_an_image_that_cannot_be_read_any_more_leaves_the_guest_as_it_is(tmp_path: Path) -> None:
    built = tmp_path / "guest.elf"
    built.write_bytes(Path(image()).read_bytes())
    words = [TRAPGATE, "run", str(built), "--gdb", f"unix:{tmp_path}/gdb", "--wait"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        run.stderr.readline()
        ask = [
            "break twice", "continue", f"shell rm {built}", "monitor reset", "p/x $pc == twice || $pc > (long)twice", "finish",
            "run", "set args quiet", "run", "p rounds", "kill",
        ]  # fmt: skip
        arguments = [part for one in ("set confirm off", f"target extended-remote {tmp_path}/gdb", *ask) for part in ("-ex", one)]
        done = subprocess.run(
            ["gdb", "-nx", "-batch", *arguments, image()], capture_output=True, text=True, timeout=60, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        run.wait(20)
        assert "does not exist" in done.stderr
        assert "$1 = 0x1" in done.stdout
        assert "Value returned is $2 = 0" in done.stdout
        assert "Running the default executable on the remote target failed" in done.stderr
        assert run.stderr.read().splitlines()[-3:-1] == [
            f"trapgate: gdb cannot start the guest again: {built} does not exist",
            "trapgate: gdb cannot start the guest again: a guest is given its words when trapgate is started: --append, --module",
        ]
        assert run.returncode == 0


def test_a_run_that_counts_instructions_repeats_itself() -> None:
    with GuestUnderGdb(clock=ClockKind.INSTRUCTIONS) as guest, Client(guest.host.address) as client:
        seen = []
        for _ in range(2):
            client.insert(BreakKind.HARDWARE, symbol("add"))
            stops = [client.go() for _ in range(3)]
            assert stops == [Stopped(1, why=Why.HARDWARE)] * 3
            seen.append((guest.machine.clock.now(), guest.machine.vcpu.read_msr(TSC), client.registers()))
            assert guest.machine.vcpu.read_msr(TSC) > 0
            client.remove(BreakKind.HARDWARE, symbol("add"))
            client.monitor("reset")
            assert (guest.machine.clock.now(), guest.machine.vcpu.read_msr(TSC)) == (0, 0)
        assert seen[0] == seen[1]


def symbol(name: str, file: str | None = None) -> int:
    done = subprocess.run(["nm", file or image()], capture_output=True, text=True, check=True)
    lines = (line.split() for line in done.stdout.splitlines())
    return next(int(value, 16) for value, _, other in lines if other == name)


@BOTH_ENGINES
def test_many_resets_cost_nothing_that_stays(engine: str) -> None:
    with GuestUnderGdb(engine=engine, path=image(plain=True)) as guest, Client(guest.host.address) as client:
        address = symbol("add", image(plain=True))
        client.insert(BreakKind.SOFTWARE, address)
        held = []
        for _ in range(12):
            assert client.go() == Stopped(1, why=Why.SOFTWARE)
            client.monitor("reset")
            pages = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
            held.append((pages >> 20, len(list(Path("/proc/self/fd").iterdir())), len(list(Path("/proc/self/task").iterdir()))))
        assert held[-1][1:] == held[2][1:]
        assert held[-1][0] <= held[2][0] + 8, held


def test_a_client_of_the_plain_protocol_ends_with_the_guest() -> None:
    with GuestUnderGdb() as guest, Client(guest.host.address) as client:
        client.insert(BreakKind.SOFTWARE, symbol("guest_main"))
        client.go()
        client.write_memory(symbol("rounds"), (-1).to_bytes(4, "little", signed=True))
        client.remove(BreakKind.SOFTWARE, symbol("guest_main"))
        assert client.go() == Exited(7)
        guest.thread.join(10)
        assert not guest.thread.is_alive()
