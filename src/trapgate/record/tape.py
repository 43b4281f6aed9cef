"""Keeps a recording in a file: the machine as it was (`snapshot`), then what happened to it, a record at a time, as it happens.

A record is its length and checksum, and its content: a byte for its kind and the event as `encoding` has it; how far the guest has
come is two numbers. A process that is killed leaves the records that it has written, and of the last one perhaps a part, which is
left out. So each input is in the file before the guest sees it, and how far the guest has come before anybody sees what it says.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Annotated, BinaryIO

from trapgate import hostcpu, snapshot
from trapgate.debug.buslock import Mode
from trapgate.encoding import decode, encode
from trapgate.machine import Machine
from trapgate.record.events import KINDS, Branch, Event
from trapgate.record.recording import Moment, RecordError
from trapgate.state import U8, U32, U64, OneOf, State, StateError
from trapgate.values import dataclass

VERSION = 2
_RECORD, _REACHED = struct.Struct("<II"), struct.Struct("<QQ")
_IS_REACHED = 0xFF  # the kind of a record that says how far the guest has come
LONGEST = 1 << 26  # bytes of a record


@dataclass(frozen=True, slots=True)
class Head(State):
    """What else a machine must be to replay it: by which `trapgate` it was recorded, on a host with which CPU features (`host`).

    `code` as `BootPlan.code`; `rng`: whether it has an entropy device; what is done about bus locks, and at which levels.
    """

    version: U32
    trapgate: str
    host: U32
    code: U8
    rng: bool
    bus_locks: Annotated[str, OneOf(tuple(mode.value for mode in Mode))]
    bus_lock_limit: U64
    bus_lock_levels: tuple[U8, ...]

    @classmethod
    def of(cls, machine: Machine, code: int, rng: bool) -> "Head":
        """That of this one, here."""
        config = machine.config
        levels = tuple(config.bus_lock_levels)
        return cls(VERSION, release(), host(), code, rng, config.bus_locks.value, config.bus_lock_limit, levels)


def release() -> str:
    """The version of trapgate that runs, as its package says."""
    try:
        return metadata.version("trapgate")
    except metadata.PackageNotFoundError:
        return "unknown"


def host() -> int:
    """What tells one kind of host CPU from another, for what guests can see of it."""
    found = hostcpu.fields()
    return zlib.crc32("\n".join(found.get(name, "") for name in ("vendor_id", "model", "flags")).encode())


class Tape:
    """A file that a recording is written to. RecordError where it cannot be; the machine is between two runs."""

    def __init__(self, machine: Machine, path: str | Path, head: Head) -> None:
        self.path = os.fspath(path)
        machine.begin()
        snapshot.save(machine, path)
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except OSError as error:
            raise self._failed(error) from error
        self._put(encode(head))

    def write(self, event: Event) -> None:
        """Something happens to the guest."""
        self._put(bytes([KINDS.index(type(event))]) + encode(event))

    def reached(self, moment: Moment) -> None:
        """The guest has come so far."""
        self._put(bytes([_IS_REACHED]) + _REACHED.pack(*moment))

    def close(self) -> None:
        """No more is written."""
        os.close(self._file)

    def _put(self, content: bytes) -> None:
        record = _RECORD.pack(len(content), zlib.crc32(content)) + content
        try:
            while record:
                record = record[os.write(self._file, record) :]
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> RecordError:
        return RecordError(f"{self.path}: the recording cannot be written: {error.strerror}")


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a file holds behind its machine: the events, and the last moment that the guest is known to have reached."""

    head: Head
    events: tuple[Event, ...]
    end: Moment


def read(path: str | Path) -> Recorded:
    """A recording. RecordError, SnapshotError: it is none, it is damaged, or another version of trapgate wrote it."""
    with snapshot.behind(path) as file:
        records = _records(file, os.fspath(path))
        head = _head(next(records, None), path)
        if (head.version, head.trapgate) != (VERSION, release()):
            raise RecordError(f"{path}: recorded by trapgate {head.trapgate}, which alone replays it; this is {release()}")
        events, end = list[Event](), (0, 0)
        for content in records:
            if content[0] == _IS_REACHED:
                end = max(end, _reached(content, path))
                continue
            event = _event(content, path)
            if isinstance(event, Branch):
                events, end = [one for one in events if one.moment <= event.moment], event.moment
            else:
                events.append(event)
                end = max(end, event.moment)
    return Recorded(head, tuple(sorted(events, key=lambda event: event.moment)), end)


def _records(file: BinaryIO, path: str) -> Iterator[bytes]:
    """The contents of the records that are whole."""
    while len(begin := file.read(_RECORD.size)) == _RECORD.size:
        length, checksum = _RECORD.unpack(begin)
        place = file.tell()
        content = file.read(length) if 0 < length <= LONGEST else b""
        cut = len(content) < length and not file.read(1)
        if length > LONGEST or not length or (not cut and zlib.crc32(content) != checksum):
            raise RecordError(f"{path}: the recording is damaged at byte {place}")
        if cut:
            return
        yield content


def _head(content: bytes | None, path: str | Path) -> Head:
    if content is None:
        raise RecordError(f"{path}: a machine that was saved, without a recording; trapgate run --restore goes on with it")
    try:
        return decode(content, Head)
    except StateError as error:
        raise RecordError(f"{path}: another version of trapgate has recorded it, and can replay it: {error}") from error


def _event(content: bytes, path: str | Path) -> Event:
    if content[0] >= len(KINDS):
        raise RecordError(f"{path}: the recording is damaged: an event of kind {content[0]}")
    try:
        return decode(content[1:], KINDS[content[0]])
    except StateError as error:
        raise RecordError(f"{path}: the recording is damaged: {error}") from error


def _reached(content: bytes, path: str | Path) -> Moment:
    if len(content) != 1 + _REACHED.size:
        raise RecordError(f"{path}: the recording is damaged: a moment of {len(content)} bytes")
    executed, now = _REACHED.unpack(content[1:])
    return executed, now
