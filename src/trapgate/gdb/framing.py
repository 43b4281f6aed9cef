"""Frames gdb's remote protocol: a pure function from bytes to one event, and its inverse.

A frame is `$payload#cc`: cc is the sum of the payload's bytes modulo 256 in hex. In a payload `}` escapes the next byte (xor 20h).
Replies may be run-length coded: `x*n` repeats x another ord(n) - 29 times; requests never are, a `*` in them stands for itself
(gdb manual, Remote Protocol, Overview and Binary Data). Outside frames there are `+`, `-` and 03h.
"""

import re

from trapgate.values import dataclass

PACKET_SIZE = 0x20000
"""The longest frame that is accepted, `$`, `#` and checksum included: what qSupported advertises. One `m` reads 64 KiB."""

PAYLOAD_SIZE = PACKET_SIZE - 4

_RUN_BASE = 29
_LONGEST_RUN = 126 - _RUN_BASE
_HEX = b"0123456789abcdefABCDEF"


@dataclass(frozen=True, slots=True)
class Packet:
    """A whole frame whose checksum is right; escapes are undone."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Ack:
    """`+`: the other side has the last packet."""


@dataclass(frozen=True, slots=True)
class Nack:
    """`-`: the other side wants the last packet again."""


@dataclass(frozen=True, slots=True)
class Interrupt:
    """03h outside a frame: stop the guest."""


@dataclass(frozen=True, slots=True)
class Damaged:
    """A frame that its sender should repeat: a wrong checksum."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A frame that repeating would not mend: too long, or coded wrongly."""

    reason: str


@dataclass(frozen=True, slots=True)
class Junk:
    """Bytes outside any frame that mean nothing."""

    data: bytes


Event = Packet | Ack | Nack | Interrupt | Damaged | Refused | Junk

_SINGLE: dict[int, Event] = {ord("+"): Ack(), ord("-"): Nack(), 3: Interrupt()}
_JUNK = re.compile(rb"[^+\-$\x03]+")


class BadCoding(Exception):
    """An escape or a run length that cannot be."""


def parse(data: bytes | bytearray, *, runs: bool = False, limit: int = PACKET_SIZE) -> tuple[Event | None, int]:
    """The first event in `data` and how many bytes it took; (None, n) when more bytes are needed after dropping n.

    `runs` undoes run-length coding: for replies only. A frame that reaches `limit` bytes without its end is Refused at once,
    so that nobody waits for a `#` that never comes; what is left of it is for `Reader` to skip.
    """
    if not data:
        return None, 0
    if data[0] in _SINGLE:
        return _SINGLE[data[0]], 1
    if data[0] != ord("$"):
        junk = _JUNK.match(data)
        assert junk is not None
        return Junk(junk.group()), junk.end()
    end = data.find(b"#", 1, limit - 2)
    restart = data.rfind(b"$", 1, end + 3 if end >= 0 else min(len(data), limit))
    if restart > 0:
        return Junk(bytes(data[:restart])), restart  # a `$` is escaped in a payload, and no digit: this is a new frame
    if end < 0:
        if len(data) >= limit:
            return Refused(f"packet longer than {limit:#x} bytes"), limit
        return None, 0
    if len(data) < end + 3:
        return None, 0
    return _frame(bytes(data[1:end]), bytes(data[end + 1 : end + 3]), runs), end + 3


def _frame(raw: bytes, checksum: bytes, runs: bool) -> Event:
    if not all(digit in _HEX for digit in checksum) or int(checksum, 16) != sum(raw) & 0xFF:
        return Damaged("wrong checksum")
    try:
        return Packet(unescape(expand_runs(raw) if runs else raw))
    except BadCoding as error:
        return Refused(str(error))


class Reader:
    """Collects bytes and yields events; holds one unfinished frame at the most."""

    def __init__(self, *, runs: bool = False, limit: int = PACKET_SIZE) -> None:
        self._data = bytearray()
        self._runs = runs
        self._limit = limit
        self._skipping = False

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete."""
        self._data += data
        events: list[Event] = []
        while self._skip():
            event, used = parse(self._data, runs=self._runs, limit=self._limit)
            del self._data[:used]
            if event is None:
                break
            self._skipping = isinstance(event, Refused) and used == self._limit
            events.append(event)
        return events

    def _skip(self) -> bool:
        """Drop the rest of a refused frame: up to its `#cc`, or to the `$` of the next. False while that has not come."""
        if not self._skipping:
            return True
        end = re.search(rb"\$|#[^$]{2}", self._data)
        if end is None:
            del self._data[: max(0, len(self._data) - 2)]
            return False
        del self._data[: end.start() if end.group() == b"$" else end.end()]
        self._skipping = False
        return True


def frame(payload: bytes) -> bytes:
    """A payload (escapes not yet made) as a frame. Runs are not coded: that takes longer than to send them as they are."""
    raw = escape(payload)
    return b"$%b#%02x" % (raw, sum(raw) & 0xFF)


def escape(payload: bytes) -> bytes:
    """Escape the bytes that have a meaning in frames: `#`, `$`, `}` and `*`."""
    return re.sub(rb"[#$}*]", lambda match: bytes((0x7D, match.group()[0] ^ 0x20)), payload)


def unescape(raw: bytes) -> bytes:
    """Undo `escape`; BadCoding when the last byte is a lone `}`."""
    parts = re.split(rb"\}(.?)", raw, flags=re.DOTALL)
    if not all(parts[1::2]):
        raise BadCoding("escape at the end of a packet")
    parts[1::2] = [bytes((byte[0] ^ 0x20,)) for byte in parts[1::2]]
    return b"".join(parts)


def expand_runs(raw: bytes, limit: int = 8 * PACKET_SIZE) -> bytes:
    """Undo the coding of runs; BadCoding for a run of nothing, a count that is none, or more than `limit` bytes."""
    out = bytearray()
    at = 0
    while (star := raw.find(b"*", at)) >= 0:
        out += raw[at:star]
        count = raw[star + 1] - _RUN_BASE if star + 1 < len(raw) else 0
        if not out or not 3 <= count <= _LONGEST_RUN:
            raise BadCoding("bad run length")
        out += out[-1:] * count
        if len(out) > limit:
            raise BadCoding("runs expand beyond the limit")
        at = star + 2
    return bytes(out + raw[at:])
