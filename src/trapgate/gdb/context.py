"""Remembers what belongs to one gdb connection between packets, and reads the arguments of packets for every answer."""

import re
from collections.abc import Callable
from dataclasses import field
from enum import Enum

from trapgate.arch.registers import Register
from trapgate.gdb.architecture import Architecture, alone
from trapgate.gdb.description import LAYOUTS, WIDE, Layout, size
from trapgate.gdb.target import BreakKind, Killed, Resume, Stop, Stopped, Target, Way, Why
from trapgate.values import dataclass


class State(Enum):
    """STOPPED: gdb may ask anything. RUNNING: it waits for a stop reply. DISCONNECTED: nothing is said any more.

    ENDED: the guest is gone, and a client of the extended protocol stays, for it may start it again.
    """

    STOPPED = "stopped"
    RUNNING = "running"
    ENDED = "ended"
    DISCONNECTED = "disconnected"


class Malformed(Exception):
    """A packet whose arguments make no sense; answered with E22 (EINVAL)."""


MALFORMED = b"E22"
UNMAPPED = b"E14"
OK = b"OK"


@dataclass(slots=True)
class Context:
    """The state of one connection. Thread 0 stands for "any", -1 for "all"."""

    target: Target
    state: State = State.STOPPED
    general_thread: int = 0
    resume_thread: int = 0
    last_stop: Stop = field(default_factory=lambda: Stopped(1))
    features: frozenset[str] = frozenset()
    acks: bool = True
    physical: bool = False
    """Whether addresses of memory packets are guest-physical."""
    extended: bool = False
    """Whether the client may outlive the guest and start it again."""
    tell: Callable[[str], None] = lambda line: None
    """Takes a line for the user, beside what the client shows."""
    outbox: list[bytes] = field(default_factory=list)
    threads_left: list[int] = field(default_factory=list)
    conditions: dict[tuple[BreakKind, int], tuple[bytes, ...]] = field(default_factory=dict)
    opened: dict[int, bytes] = field(default_factory=dict)
    """Contents of the files that the client has open, by descriptor."""
    actions: list[Resume] = field(default_factory=list)
    backwards: bool = False
    """Whether the target went back when it was let go last."""
    described: Architecture | None = None
    """What the client has been told that the guest is."""
    lldb: bool = False
    error_strings: bool = False
    """Whether the client reads the text of an error behind its number (lldb)."""
    _layout: Layout | None = None

    def describe(self) -> Architecture:
        """Settle, for the register packets too, what the guest is described as from now on."""
        self.described = self.target.architecture()
        if self.lldb:  # it does not choose among several
            self.described = alone(self.described, self.target.mode())
        self._layout = LAYOUTS[self.described, self.avx]
        return self.described

    @property
    def layout(self) -> Layout:
        """The registers as the client numbers them.

        A client that could read our description and did not has one of its own, as gdb after `set tdesc filename`; it is of the
        architecture that would have been described, or that the CPU is running where that is several. Others get the widest.
        """
        if self._layout is None:
            own = alone(self.target.architecture(), self.target.mode())
            self._layout = LAYOUTS[own, self.avx] if self.own_description else WIDE
        return self._layout

    @property
    def avx(self) -> bool:
        """Whether the CPU has the upper halves of YMM registers."""
        return self.target.get_register(self.thread(), "ymm0h") is not None

    @property
    def own_description(self) -> bool:
        """Whether the client knows registers from elsewhere, of which nobody knows the last."""
        return self.described is None and "xmlRegisters" in self.features

    def thread(self) -> int:
        """The thread that register and memory packets mean."""
        if self.general_thread > 0:
            return self.general_thread
        return self.last_stop.thread if isinstance(self.last_stop, Stopped) else self.target.threads()[0]

    def check_thread(self, thread: int) -> int:
        """The thread itself; Malformed when there is none such."""
        if thread > 0 and thread not in self.target.threads():
            raise Malformed(f"no thread {thread}")
        return thread

    def say(self, text: str) -> None:
        """Console output for the user, as O packets; gdb takes them during qRcmd and while it waits for a stop, never else."""
        data = text.encode("utf-8", "replace")
        for at in range(0, len(data), 8192):
            self.outbox.append(b"O" + data[at : at + 8192].hex().encode())

    def resume(self, actions: list[Resume]) -> None:
        """Let the target go: nothing but an interrupt is expected until it stops."""
        self.target.resume(actions)
        self.actions, self.backwards = actions, False
        self.state = State.RUNNING

    def back(self, way: Way) -> None:
        """Let the target go back; the conditions of breakpoints are asked for on the way."""
        self.target.back(way)
        self.backwards = True
        self.state = State.RUNNING

    def end(self, stop: Stop) -> None:
        """The guest is gone."""
        self.last_stop = stop
        self.state = State.ENDED if self.extended else State.DISCONNECTED

    def failure(self, code: bytes, text: str) -> bytes:
        """An error reply; with its text when the client said that it can read one, gdb's way or lldb's."""
        words = text.encode("ascii", "replace")
        if self.error_strings:
            return code + b";" + words.hex().encode()
        return b"E." + words if "error-message" in self.features else code


def on_wire(register: Register, value: int) -> bytes:
    """A register's value as `g`, `p` and stop replies carry it."""
    return (value & ((1 << register.gdb_bits) - 1)).to_bytes(size(register), "little")


def stop_reply(context: Context, stop: Stop) -> bytes:
    """T, W or X: why the guest stopped, in the words that the client said it knows."""
    if isinstance(stop, Killed):
        return b"X%02x" % stop.signal
    if not isinstance(stop, Stopped):
        return b"W%02x" % (stop.status & 0xFF)
    reply = f"T{stop.signal:02x}thread:{stop.thread:x};"
    for index, register in () if context.own_description else context.layout.expedited:
        value = context.target.get_register(stop.thread, register.name)
        if value is not None:
            reply += f"{index:02x}:{on_wire(register, value).hex()};"
    if stop.why in (Why.WRITE, Why.READ, Why.ACCESS):
        reply += f"{stop.why.value}:{stop.address:x};"
    elif stop.why in (Why.BEGIN, Why.END):
        reply += f"{stop.why.value};"
    elif stop.why is not Why.PLAIN and stop.why.value in context.features:
        reply += f"{stop.why.value}:;"
    return reply.encode()


_NUMBER = re.compile(rb"[0-9a-fA-F]{1,16}\Z")


def number(text: bytes) -> int:
    """An unsigned hex number of at most 64 bits."""
    if not _NUMBER.match(text):
        raise Malformed(f"{text[:20]!r} is no hex number")
    return int(text, 16)


def thread_id(text: bytes) -> int:
    """A thread: hex, 0 for any, -1 for all."""
    return -1 if text == b"-1" else number(text)


def data_of_hex(text: bytes) -> bytes:
    """Bytes coded as hex digit pairs."""
    try:
        if re.search(rb"[^0-9a-fA-F]", text):
            raise ValueError
        return bytes.fromhex(text.decode("ascii"))
    except ValueError:
        raise Malformed("bad hex data") from None


def split(text: bytes, *separators: bytes) -> list[bytes]:
    """`text` cut at each separator in turn; Malformed when one is missing."""
    parts = []
    for separator in separators:
        head, found, text = text.partition(separator)
        if not found:
            raise Malformed(f"missing {separator!r}")
        parts.append(head)
    return [*parts, text]


def numbers(*separators: bytes) -> Callable[[bytes], list[int]]:
    """A reader of hex numbers with these separators between them."""
    return lambda text: [number(part) for part in split(text, *separators)]


def nothing(text: bytes) -> None:
    """A packet without arguments; Malformed when it has any."""
    if text:
        raise Malformed("unexpected arguments")


def anything(text: bytes) -> bytes:
    """The arguments as they are."""
    return text
