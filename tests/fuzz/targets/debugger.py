"""A debugger on a real machine: whatever it sends while the small guest stands or runs, the guest ends as it would alone.

Lines are those of `stub`. What is not meant to be unseen, a write to a register, say, only has to be answered.
"""

import gc
import re
from collections.abc import Callable

from fuzz.guest import CODE, PRINTED
from fuzz.target import Target
from fuzz.targets import stub as pretend
from trapgate.boot import BootOptions, Image, plan_boot
from trapgate.build import make_machine, put_guest
from trapgate.clock import Timer
from trapgate.gdb import adapter, stub
from trapgate.gdb.address import TcpAddress
from trapgate.gdb.framing import PACKET_SIZE, Junk, Packet, Reader, frame
from trapgate.gdb.host import DebugHost
from trapgate.machine import ClockKind, MachineConfig
from trapgate.stops import ExitKind

BETWEEN, LAST = 40, 20_000  # instructions between two lines of a client, and after the last
MOST_LINES = 30
_UNSEEN = re.compile(
    rb"qRcmd,(?:%s)[0-9a-f]*|(?!qRcmd)[gpmxTHzZD?!qQ].*|vCont.*|vMust.*|[cs]|[CS][0-9a-f]{1,2}"
    % b"|".join(words.hex().encode() for words in (b"help", b"info", b"translate", b"physical"))
)


class Line:
    """In place of the stub's server: what it would send is read here."""

    last: "Line"

    def __init__(self, address: TcpAddress, connection: stub.Stub, *rest: object) -> None:
        self.address, self.connection = address, connection
        self._reader = Reader(runs=True)
        Line.last = self

    def send(self, data: bytes) -> None:
        """Read it."""
        assert len(data) <= 8 * PACKET_SIZE
        for event in self._reader.feed(data):
            assert not isinstance(event, Junk)
            assert not isinstance(event, Packet) or len(frame(event.payload)) <= PACKET_SIZE

    def hang_up(self) -> None:
        """Nothing: the script goes on, and is not heard."""

    def nudge(self) -> None:
        """Nothing: nobody sleeps."""

    def wait(self, idle: Callable[[], bool]) -> None:
        """The script always has something to say while the guest stands."""
        raise AssertionError("nobody would end this")

    def take_back(self) -> None:
        """Nothing: no thread is lent."""

    def close(self) -> None:
        """Nothing."""


stub.__dict__["Server"] = Line


class Script:
    """In place of the host's queue of calls: a client that says its next line when the guest stands, or has run for a while."""

    def __init__(self, lines: list[bytes], host: DebugHost) -> None:
        self._lines, self._host, self._wire = iter(lines), host, Line.last
        self._ready = False
        self._timer: Timer | None = None
        self._wire.connection.connected()

    def empty(self) -> bool:
        """Whether the client is quiet: it never is while the guest stands."""
        return self._host.target.going and not self._ready

    def put(self, call: Callable[[], None]) -> None:
        """For a failure of the machine, which ends it anyhow."""

    def get(self) -> Callable[[], None]:
        """The next thing that is done to the stub."""
        if self._timer is not None:
            self._timer.cancel()
        self._ready = False
        line = next(self._lines, None)
        return self._leave if line is None else lambda: self._say(line)

    def _say(self, line: bytes) -> None:
        self._wire.connection.received(line)
        self._wait(BETWEEN, self._hear)

    def _leave(self) -> None:
        self._wire.connection.disconnected()
        self._wait(LAST, self._host.target.kill)
        if not self._host.target.going:
            self._host.target.kill()

    def _wait(self, instructions: int, then: Callable[[], None]) -> None:
        if self._host.target.going:
            clock = _machine.clock
            self._timer = clock.at(clock.now() + instructions, then)

    def _hear(self) -> None:
        self._ready = True
        _machine.post(self._host._take_calls)


_printed: list[bytes] = []
_machine = make_machine(MachineConfig(memory=1 << 20, clock=ClockKind.INSTRUCTIONS, serial=_printed.append))
_plan = plan_boot(Image(CODE, "guest"), BootOptions(tuple(_machine.ram.regions()), load_address=0x7C00))


def _restart() -> int:
    _machine.power_cycle()
    gc.collect(1)  # the CPU of before refers to itself
    put_guest(_machine, _plan)
    return _plan.code


def wire(line: bytes) -> bytes:
    """What a line is on the wire."""
    if line.startswith(b"~"):
        return line[1:]
    if line == b"^":
        return b"\x03"
    word = b"monitor "
    return frame(b"qRcmd," + line[len(word) :].hex().encode() if line.startswith(word) else line)


def unseen(line: bytes) -> bool:
    """Whether a line must not make any difference for the guest."""
    sent = wire(line)
    return line == b"^" or (not line.startswith(b"~") and _UNSEEN.fullmatch(sent[1:-3]) is not None)


def run(data: bytes) -> str:
    """A whole run of the guest under a debugger."""
    lines = data.split(b"\n")[:MOST_LINES]
    _printed.clear()
    _restart()
    host = DebugHost(_machine, TcpAddress("", 0), wait=True, reset=_restart, code=_plan.code)
    host.__dict__["_inbox"] = Script([wire(line) for line in lines], host)
    end = host.run()
    if all(map(unseen, lines)) and not host.target.killed:
        assert (end.kind, end.status) == (ExitKind.EXIT_PORT, 1), f"the guest ended by {end.kind.value}, {end.status}: {end.story}"
        printed = b"".join(_printed)
        assert printed == PRINTED, f"it printed {printed!r}"
    return end.kind.value


def plant() -> None:
    """A debugger that reads an odd number of bytes loses DX for the guest."""
    right = adapter.MachineTarget.read_memory

    def read_memory(self: adapter.MachineTarget, thread: int, address: int, length: int) -> bytes:
        if length % 2:
            _machine.vcpu.set("rdx", 0)
        return right(self, thread, address, length)

    adapter.MachineTarget.read_memory = read_memory  # type: ignore[method-assign]


SESSIONS = (
    b"qSupported:xmlRegisters=i386;swbreak+;hwbreak+;error-message+\nvCont?\nqXfer:features:read:target.xml:0,fff\n?\ng\nvCont;c",
    b"Z0,7c3d,1\nc\n?\ns\nc\nm7c00,10\ns\ns\nc\nqC\nc\nmonitor info breakpoints\ns\ns\ns",
    b"Z0,7c21,1\nc\ns\nZ1,7c2b,1\nc\nm7c00,40\ns\nz0,7c21,1\nz1,7c2b,1\nc\n^\n?",
    b"Z2,500,4\nc\ng\nc\nZ4,500,2\nZ3,7bfc,4\nc\nc\nvCont;r7c00,7c30:1\nD",
    b"Z0,7c2b,1;X3,220127X1,27\nc\n^\nZ1,7c54,1;X6,220a22030527\nc\nx7bf0,10\nqSearch:memory:7c00;100;\xcc",
    b"P0=00000000\nG" + b"00" * 40 + b"\nM500,4:01020304\nX500,1:a\nc7c21\nmonitor msr 1d9 3\nmonitor reset\nc",
    b"monitor info registers\nmonitor translate 7c00\nmonitor physical 7c00 40\nmonitor info breakpoints\np20\nc\n^\n^",
    b"c\nR00\nc\nk\nvKill;1\nmonitor quit",
)

TARGET = Target(run, SESSIONS, plant, lines=True, words=pretend.WORDS, memory=32 << 30, short=50)
