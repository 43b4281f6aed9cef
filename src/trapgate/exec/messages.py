"""Says in bytes what passes between the host and the guest's first program: our half of guests/init/talk.h. No I/O."""

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum

from trapgate.exec.errors import ExecError
from trapgate.values import dataclass

ENTROPY = 64  # bytes
LIMITS = 16  # resources with a limit
MOST_GROUPS = 1024
LONGEST = 8 << 20  # bytes of a request
TERMIOS = 36  # bytes of struct termios as the kernel has it: four words of modes, the line discipline, 19 characters
_REQUEST = struct.Struct(f"<4Q{2 * LIMITS}Q{ENTROPY}s11I4H{TERMIOS}sQ4s4s4sI")
_ORDER = struct.Struct("<2I")
_REPORT = struct.Struct("<3I")
_USED = struct.Struct("<Q")
MOST_TOLD = 1 << 16  # bytes of one report


class Port(IntEnum):
    """Of the console device. Port 0 is the kernel's."""

    CONTROL = 1
    STDIN = 2
    STDOUT = 3
    STDERR = 4
    TERMINAL = 5


class Where(IntEnum):
    """Where a standard stream of the program leads."""

    PORT = 0
    TERMINAL = 1
    NOWHERE = 2  # /dev/null
    STDOUT = 3  # of standard error: where standard output leads
    CLOSED = 4  # it is not open


@dataclass(frozen=True, slots=True)
class Size:
    """Of a terminal, in characters."""

    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Network:
    """What the guest's network device is set to: IPv4 addresses in words; `resolver` is for /etc/resolv.conf, empty: as it is."""

    address: str
    netmask: str
    gateway: str
    mtu: int
    resolver: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """What to run, and as whom. Strings are bytes without a NUL.

    `ignored` and `blocked` are signals, `limits` (soft, hard) of each resource in the kernel's order. `writes` are the directories
    of the guest at which the shares write0 and so on are mounted. `modes` is the struct termios of a terminal, if there is one.
    """

    arguments: Sequence[bytes]
    environment: Sequence[bytes]
    directory: bytes
    host: bytes
    uid: int
    gid: int
    groups: Sequence[int]
    umask: int
    limits: Sequence[tuple[int, int]]
    ignored: frozenset[int] = frozenset()
    blocked: frozenset[int] = frozenset()
    streams: tuple[Where, Where, Where] = (Where.PORT, Where.PORT, Where.PORT)
    share: bool = True
    writes: Sequence[bytes] = ()
    size: Size = Size(24, 80)
    modes: bytes = bytes(TERMIOS)
    network: Network | None = None

    def encode(self, now: int) -> bytes:
        """The message, `now` in ns since 1970. ExecError: it is too long."""
        network = self.network or Network("0.0.0.0", "0.0.0.0", "0.0.0.0", 0, b"")
        texts = [self.host, network.resolver, self.directory, *self.writes, *self.arguments, *self.environment]
        assert all(b"\0" not in text for text in texts), "a NUL in a string of the kernel's"
        assert len(self.limits) == LIMITS, len(self.limits)
        groups = list(self.groups)[:MOST_GROUPS]
        behind = struct.pack(f"<{len(groups)}I", *groups) + b"".join(text + b"\0" for text in texts)
        length = _REQUEST.size + len(behind)
        if length > LONGEST:
            raise ExecError(f"the arguments and the environment have {length} bytes; {LONGEST} are most")
        head = _REQUEST.pack(
            length,
            *divmod(now, 1_000_000_000),
            _mask(self.ignored),
            *(number & (1 << 64) - 1 for pair in self.limits for number in pair),
            os.urandom(ENTROPY),
            self.uid,
            self.gid,
            self.umask,
            len(groups),
            len(self.writes),
            len(self.arguments),
            len(self.environment),
            *self.streams,
            int(self.share),
            self.size.rows,
            self.size.columns,
            0,
            0,
            self.modes,
            _mask(self.blocked),
            *map(socket.inet_aton, (network.address, network.netmask, network.gateway)),
            network.mtu,
        )
        return head + behind


def _mask(signals: frozenset[int]) -> int:
    return sum(1 << number - 1 for number in signals)


def signal(number: int) -> bytes:
    """The program is to get a signal."""
    return _ORDER.pack(1, number)


def signal_group(number: int) -> bytes:
    """The program's process group is to get a signal."""
    return _ORDER.pack(2, number)


def resize(size: Size) -> bytes:
    """The terminal has another size."""
    return _ORDER.pack(3, size.rows << 16 | size.columns)


def unread(port: Port) -> bytes:
    """Nobody reads a stream any more: who writes there is to get SIGPIPE."""
    return _ORDER.pack(4, port)


@dataclass(frozen=True, slots=True)
class Started:
    """The program runs."""


@dataclass(frozen=True, slots=True)
class Exited:
    """The program has ended, with this status."""

    status: int


@dataclass(frozen=True, slots=True)
class Killed:
    """A signal has ended the program."""

    signal: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """A signal has stopped the program; SIGCONT lets it go on."""

    signal: int


@dataclass(frozen=True, slots=True)
class NotStarted:
    """There is no such program, or it cannot be executed: an errno."""

    errno: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The guest could not do its part: what it was about, an errno."""

    what: str
    errno: int


@dataclass(frozen=True, slots=True)
class Used:
    """So many bytes of standard input has the program taken."""

    count: int


Report = Started | Exited | Killed | Stopped | NotStarted | Failed | Used


class Nonsense(Exception):
    """What came from the guest is no report."""


class Reports:
    """Makes reports of the bytes that come from the guest, in any pieces. None of them is believed."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[Report]:
        """What there is to report so far. Nonsense."""
        self._held += data
        while len(self._held) >= _REPORT.size:
            kind, value, size = _REPORT.unpack_from(self._held)
            if size > MOST_TOLD:
                raise Nonsense(f"a report of {size} bytes")
            end = _REPORT.size + size
            if len(self._held) < end:
                return
            behind = bytes(self._held[_REPORT.size : end])
            del self._held[:end]
            yield _report(kind, value, behind)


def _report(kind: int, value: int, behind: bytes) -> Report:
    match kind:
        case 1:
            return Started()
        case 2:
            return Exited(value & 0xFF)
        case 3:
            return Killed(value & 0x7F)
        case 4:
            return Stopped(value & 0x7F)
        case 5:
            return NotStarted(value & 0xFFF)
        case 6:
            return Failed(behind.decode(errors="replace"), value & 0xFFF)
        case 7 if len(behind) == _USED.size:
            return Used(_USED.unpack(behind)[0])
    raise Nonsense(f"a report of kind {kind}")
