"""The stub on a real machine: the run loop, stops in gdb's words, breakpoints that are stepped over, ends and detaching."""

import errno
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from engine import TestEngine
from gdb.pretend_vcpu import UNMAPPED, PretendVcpu
from gdb.test_real_gdb import run_gdb
from trapgate.debug.buslock import Mode
from trapgate.gdb.address import Address, TcpAddress
from trapgate.gdb.client import Client, ClientError
from trapgate.gdb.host import DebugHost
from trapgate.gdb.target import SIGABRT, SIGINT, SIGSEGV, BreakKind, Exited, Killed, Stopped, Why
from trapgate.hostcall import HostError
from trapgate.machine import Machine, MachineConfig
from trapgate.stops import ExitKind, MachineExit

# 1000: nop; inc rax; mov [rdi],al; mov cl,[rdi]; 1008: nop; 1009: jmp 1000
LOOP = bytes.fromhex("90 48ffc0 8807 8a0f 90 ebf5")


class Rig:
    """A machine with a stub on a thread of its own."""

    def __init__(self, code: bytes, wait: bool, **config: Any) -> None:
        self.machine = Machine(MachineConfig(memory=1 << 20, **config), TestEngine(PretendVcpu))
        self.machine.ram.write(0x1000, code)
        vcpu = self.machine.vcpu
        assert isinstance(vcpu, PretendVcpu)
        self.vcpu = vcpu
        self.stops: list[int] = []  # RIP at each stop that a debugger saw
        self.host = DebugHost(self.machine, TcpAddress("127.0.0.1", 0), wait=wait, seen=lambda: self.stops.append(vcpu.regs["rip"]))
        self.end: MachineExit | BaseException | None = None
        self.thread = threading.Thread(target=self._main, daemon=True)
        self.thread.start()

    @property
    def address(self) -> Address:
        return self.host.address

    @property
    def stub(self) -> DebugHost:
        """So that `run_gdb` takes it for a pretend machine."""
        return self.host

    def _main(self) -> None:
        try:
            self.end = self.host.run()
        except BaseException as error:
            self.end = error

    def join(self) -> MachineExit | BaseException | None:
        self.thread.join(10)
        assert not self.thread.is_alive()
        return self.end

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.005)


Make = Callable[..., Rig]


@pytest.fixture
def rig() -> Iterator[Make]:
    rigs: list[Rig] = []

    def make(code: bytes = LOOP, wait: bool = True, **config: Any) -> Rig:
        rigs.append(Rig(code, wait, **config))
        return rigs[-1]

    yield make
    for one in rigs:
        if one.thread.is_alive():
            one.host.post(one.host.target.kill)
        one.join()
        one.machine.close()
        assert not isinstance(one.end, BaseException), one.end


def test_waits_for_the_debugger_and_runs_after_it(rig: Make) -> None:
    one = rig()
    time.sleep(0.05)
    assert one.vcpu.regs["rax"] == 0
    with Client(one.address) as client:
        assert client.step() == Stopped(1)
        assert one.vcpu.regs["rip"] == 0x1001
        assert one.stops == [0x1001]
    one.until(lambda: one.vcpu.regs["rax"] > 100)


def test_a_running_guest_stops_for_the_debugger(rig: Make) -> None:
    one = rig(wait=False)
    with Client(one.address) as client:
        first = client.register("rax")
        time.sleep(0.02)
        assert client.register("rax") == first > 0
        client.resume()
        client.interrupt()
        assert client.wait() == Stopped(1, SIGINT)
        client.detach()
    one.until(lambda: one.vcpu.regs["rax"] > first + 1000)


def test_breakpoints_of_each_kind_and_going_on_from_them(rig: Make) -> None:
    one = rig()
    with Client(one.address) as client:
        for kind, why in ((BreakKind.SOFTWARE, Why.SOFTWARE), (BreakKind.HARDWARE, Why.HARDWARE)):
            client.insert(kind, 0x1008)
            before = client.register("rax")
            for turn in range(1, 4):
                assert client.go().why is why  # type: ignore[union-attr]
                assert (client.register("rip"), client.register("rax")) == (0x1008, before + turn)
            client.step()
            assert client.register("rip") == 0x1009
            client.remove(kind, 0x1008)
        for kind, rips in ((BreakKind.WRITE, (0x1006,)), (BreakKind.READ, (0x1008,)), (BreakKind.ACCESS, (0x1006, 0x1008))):
            client.insert(kind, 0x1FFE, 5)
            for rip in rips:
                assert client.go() == Stopped(1, why=Why[kind.name], address=0x1FFE)
                assert client.register("rip") == rip
            client.remove(kind, 0x1FFE, 5)
        assert one.vcpu.ram.read(0x1000, len(LOOP)) == LOOP


def test_a_breakpoint_stepped_onto_is_not_reported_twice(rig: Make) -> None:
    one = rig()
    with Client(one.address) as client:
        client.insert(BreakKind.SOFTWARE, 0x1001)
        assert client.step() == Stopped(1)
        assert client.go("r1001,1008") == Stopped(1)
        assert client.register("rip") == 0x1008
        assert client.register("rax") == 1
        assert client.go() == Stopped(1, why=Why.SOFTWARE)
        assert client.register("rax") == 1


def test_lifting_and_planting_the_same_breakpoints_arms_nothing_anew(rig: Make) -> None:
    one = rig()
    with Client(one.address) as client:
        for _ in range(5):
            client.insert(BreakKind.SOFTWARE, 0x1008)
            client.insert(BreakKind.WRITE, 0x3000, 8)
            assert client.go() == Stopped(1, why=Why.SOFTWARE)
            client.remove(BreakKind.SOFTWARE, 0x1008)
            client.remove(BreakKind.WRITE, 0x3000, 8)
        assert one.vcpu.arms <= 2
        client.detach()
    one.until(lambda: one.vcpu.software == [] and one.vcpu.breakpoints == [])


def test_a_debugger_that_dies_leaves_no_breakpoints(rig: Make) -> None:
    one = rig()
    with Client(one.address) as client:
        client.insert(BreakKind.SOFTWARE, 0x1008)
        client.insert(BreakKind.WRITE, 0x2000, 1)
        assert client.go().why is Why.WRITE  # type: ignore[union-attr]
        client.resume("s")
    one.until(lambda: one.vcpu.regs["rax"] > 1000)
    assert (one.vcpu.software, one.vcpu.breakpoints) == ([], [])


def test_range_stepping_goes_on_inside_the_range_only(rig: Make) -> None:
    one = rig()
    with Client(one.address) as client:
        client.set_register("rip", 0x1009)
        assert client.go("r1000,1001") == Stopped(1)
        assert client.register("rip") == 0x1001
        client.resume("r0,ffff")
        client.interrupt()
        assert client.wait() == Stopped(1, SIGINT)


def test_ends(rig: Make) -> None:
    one = rig(bytes.fromhex("48ffc0 e6f4"))
    with Client(one.address) as client:
        assert client.go() == Exited(3)
    assert one.join() == MachineExit(ExitKind.EXIT_PORT, 3)


@pytest.mark.parametrize(("code", "signal", "kind"), [("0f0b", SIGSEGV, ExitKind.SHUTDOWN), ("f4", SIGABRT, ExitKind.DEAD)])
def test_a_dying_guest_is_shown_before_it_ends(rig: Make, code: str, signal: int, kind: ExitKind) -> None:
    one = rig(bytes.fromhex(code))
    one.vcpu.regs["rflags"] = 2
    with Client(one.address) as client:
        assert client.go() == Stopped(1, signal)
        assert "the machine ends when you continue" in client.console
        assert client.register("rip") >= 0x1000
        assert isinstance(client.go(), Exited)
    end = one.join()
    assert isinstance(end, MachineExit)
    assert end.kind is kind


def test_kill_and_quit(rig: Make) -> None:
    for end in ("kill", "quit", "vKill"):
        one = rig()
        with Client(one.address) as client:
            if end == "kill":
                client.resume()
                client.kill()
            elif end == "quit":
                assert "ends" in client.monitor("quit")
            else:
                assert client.ask(b"vKill;1") == b"OK"
        assert one.join() == MachineExit(ExitKind.STOPPED, 0, "ended by the debugger")


@pytest.mark.parametrize("running", [True, False])
def test_a_thread_that_fails_ends_the_session(rig: Make, running: bool) -> None:
    """Whether the guest runs or stands: the debugger is told, or its connection ends; it does not wait for an answer."""
    one, error = rig(), HostError("a thread", errno.EAGAIN)
    with Client(one.address) as client:
        if running:
            threading.Timer(0.1, one.machine.fail, [error]).start()
            assert isinstance(client.go(), Killed)
            assert "trapgate: the host refused a thread: Resource temporarily unavailable" in client.console
        else:
            client.register("rip")
            one.machine.fail(error)
            with pytest.raises(ClientError):
                client.register("rip")
    assert one.join() is error
    one.end = None


def test_a_server_that_fails_ends_the_run(rig: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise MemoryError

    one = rig()
    with Client(one.address) as client:
        monkeypatch.setattr(one.host._stub._server, "_wait", broken)
        with pytest.raises(ClientError):  # what it waits in when it breaks ends first, and others answer meanwhile
            all(client.register("rip") is not None for _ in iter(int, 1))
    assert isinstance(one.join(), MemoryError)
    one.end = None


def test_the_guests_own_int1_is_delivered_while_a_debugger_steps(rig: Make) -> None:
    one = rig(bytes.fromhex("f1 90 ebfc"))
    with Client(one.address) as client:
        client.insert(BreakKind.SOFTWARE, 0x1002)
        assert client.go() == Stopped(1, why=Why.SOFTWARE)
        assert one.vcpu.delivered == [(0, 0, True)]


def test_bus_locks_stop_with_their_line(rig: Make) -> None:
    one = rig(bytes.fromhex("d7 90 ebfc"), bus_locks=Mode.STOP)
    with Client(one.address) as client:
        assert client.go() == Stopped(1)
        assert "bus lock at 0x1000: 4 bytes at 0x203e" in client.console
        client.detach()
    end = one.join()
    assert isinstance(end, MachineExit)
    assert end.kind is ExitKind.STOPPED


def test_errors_are_words(rig: Make) -> None:
    one = rig()
    with Client(one.address) as client:
        errors: tuple[tuple[Callable[[], object], str], ...] = (
            (lambda: client.set_register("cr0", 0), "PG without PE"),
            (lambda: client.set_register("xcr0", 0), "no register xcr0"),
            (lambda: client.insert(BreakKind.WRITE, 0, 1 << 18), "covers 1 to"),
            (
                lambda: client.write_memory(UNMAPPED - 1, b"ab"),
                f"{UNMAPPED:#x} is not mapped: its PML4E at 0x0 is not present: 0x0",
            ),
        )
        for action, words in errors:
            with pytest.raises(ClientError, match=words):
                action()
        assert "no MSR 5" in client.monitor("msr 5")
        assert "reserved bits" in client.monitor("msr debugctl 1")
        assert "cannot be reset" in client.monitor("reset")
        assert "reset" not in client.monitor("help")
        client.send(b"R")
        assert client.ask(b"?").startswith(b"T05")
        assert "is not RAM" in client.monitor("physical ffffff")
        assert "CPL 0" in client.monitor("info registers")
        assert "no breakpoints" in client.monitor("info breakpoints")
        client.insert(BreakKind.ACCESS, 0x3000, 8)
        assert "length 8" in client.monitor("info breakpoints")
        assert len(client.read_memory(UNMAPPED - 3, 16)) == 3


def test_reset_is_there_when_the_machine_has_one(rig: Make) -> None:
    one = rig()
    one.host.target._reset = lambda: one.vcpu.regs.update(rip=0x1000, rax=0) or 0
    with Client(one.address) as client:
        client.set_register("rax", 77)
        assert "monitor reset" in client.monitor("help")
        assert "is reset" in client.monitor("reset")
        assert client.register("rax") == 0


@pytest.mark.skipif(shutil.which("gdb") is None, reason="gdb is not installed")
def test_gdb_on_a_real_machine(rig: Make) -> None:
    one = rig()
    text = run_gdb(
        one,  # type: ignore[arg-type]
        "break *0x1008 if $rax == 40",
        "continue",
        "p $rax",
        "info threads",
        "delete",
        "watch *(char*)0x2000",
        "continue",
        "p/x $pc",
        "delete",
        "hbreak *0x1009",
        "continue",
        "stepi",
        "p/x $pc",
        "p $cr0",
        "p $xcr0",
        "info registers rip eflags efer",
        "monitor info system",
        "detach",
    )
    assert "$1 = 40" in text, text
    assert "long mode, CPL 0" in text
    assert "$2 = 0x1006" in text
    assert "Breakpoint 3, 0x0000000000001009" in text
    assert "$3 = 0x1000" in text
    assert "[ PE ET PG ]" in text
    assert "$5 = <unavailable>" in text
    assert "[ LME LMA ]" in text
    before = one.vcpu.regs["rax"]
    one.until(lambda: one.vcpu.regs["rax"] > before)
    assert one.vcpu.software == []


def test_who_comes_and_leaves_lets_no_waiting_guest_go(rig: Make) -> None:
    one = rig()
    assert isinstance(one.address, TcpAddress)
    for words in (b"", b"GET / HTTP/1.1\r\n\r\n", b"+\x03"):
        with socket.create_connection((one.address.host, one.address.port)) as connection:
            connection.sendall(words)
    with Client(one.address) as client:
        client.ask(b"?")
        assert one.vcpu.regs["rip"] == 0x1000
