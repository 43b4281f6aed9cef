"""Keeps a machine in one file, and puts it back: every state, and RAM without its zero pages, compressed.

The file begins with a fixed head: what it is, and the lengths and a checksum of the three texts behind it (`encoding`): what kind
of machine it was, its state, and the table of the pieces of RAM, whose bytes follow. Pieces are compressed with zlib, at its
fastest, on all CPUs: it is in every Python, and a faster library would save a part of a second for each 100 MiB. A file is
written beside the one that it replaces, which is there, whole, until the new one is.

A *plain* file is for a machine that is put back often: blocks of RAM lie in it as they are, on page boundaries, and are
mapped, so that only those are read which the guest touches. They have no checksum: that would read them all.
"""

import contextlib
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, BinaryIO

from trapgate.arch.models import CpuModel
from trapgate.cpustate import Between, model_text
from trapgate.encoding import UnknownState, decode, encode
from trapgate.errors import TrapgateError
from trapgate.hostcall import NotAFile, open_file
from trapgate.machine import ClockKind, Machine, MachineConfig, MachineState
from trapgate.memory import PAGE_SIZE, Extent, Ram, RamState
from trapgate.state import U32, U64, OneOf, Range, State, StateError, require
from trapgate.turns import MOST
from trapgate.values import dataclass

MAGIC, PLAIN, VERSION = b"trapgate machine", b"trapgate mapping", 3
_HEAD = struct.Struct("<16sIIQQQ")  # MAGIC, VERSION, checksum of the texts, their lengths
PIECE = 1 << 20  # bytes of RAM at most
FASTEST = 1  # of zlib's levels
BLOCK = 2 << 20  # bytes of RAM that are kept together in a plain file: a large page
LONGEST = 1 << 28  # bytes of a text: far more than a machine has to say


class SnapshotError(TrapgateError):
    """A file that is no machine's, is damaged, or does not fit; or one that cannot be read or written."""


@dataclass(frozen=True, slots=True)
class About(State):
    """What a machine must be to be the one that was saved. `cpu` as `CpuModel.parse` reads it."""

    memory: Annotated[int, Range(1, 1 << 52)]
    cpus: Annotated[int, Range(1, MOST)]
    cpu: str
    clock: Annotated[str, OneOf(tuple(kind.value for kind in ClockKind))]

    @classmethod
    def of(cls, machine: Machine) -> "About":
        """What this one is."""
        cpu = model_text(machine.processors[0].vcpu.model)  # less what the host cannot give
        return cls(machine.config.memory, machine.config.cpus, cpu, machine.config.clock.value)


@dataclass(frozen=True, slots=True)
class PieceState(State):
    """A piece of RAM: where it lies, its bytes, how many of the file it takes, and their checksum."""

    address: U64
    size: Annotated[int, Range(1, PIECE)]
    stored: Annotated[int, Range(1, 2 * PIECE)]
    checksum: U32


@dataclass(frozen=True, slots=True)
class PiecesState(State):
    """All of RAM that is not zero, in the order in which the pieces lie in the file."""

    pieces: tuple[PieceState, ...]


@dataclass(frozen=True, slots=True)
class PlainState(State):
    """Blocks of RAM in a row, as they lie in a plain file: where in RAM, how many bytes, how far behind the texts."""

    address: U64
    size: U64
    offset: U64


@dataclass(frozen=True, slots=True)
class PlainsState(State):
    """All blocks of RAM that are not zero."""

    parts: tuple[PlainState, ...]


def save(machine: Machine, path: str | Path) -> None:
    """Write a machine to a file, in place of the one that is there. Between two runs. SnapshotError; StateError, EngineError."""
    state, ram = machine.save(), machine.ram.save()
    parts = [(one.address + at, one.data[at : at + PIECE]) for one in ram.extents for at in range(0, len(one.data), PIECE)]
    with _workers() as workers:
        packed = list(workers.map(lambda part: zlib.compress(part[1], FASTEST), parts))
    table = PiecesState(
        tuple(PieceState(at, len(data), len(one), zlib.crc32(one)) for (at, data), one in zip(parts, packed, strict=True))
    )
    texts = [encode(About.of(machine)), encode(state), encode(table)]
    head = _HEAD.pack(MAGIC, VERSION, zlib.crc32(b"".join(texts)), *map(len, texts))
    _replace(Path(path), [head, *texts, *packed])


def save_plain(machine: Machine, path: str | Path) -> None:
    """Write a machine to a plain file. As `save`, but larger, and put back sooner."""
    found, at = list[PlainState](), 0
    for start, end in machine.ram.blocks(BLOCK):
        found.append(PlainState(start, end - start, at))
        at += end - start
    texts = [encode(About.of(machine)), encode(machine.save()), encode(PlainsState(tuple(found)))]
    head = _HEAD.pack(PLAIN, VERSION, zlib.crc32(b"".join(texts)), *map(len, texts))
    length = len(head) + sum(map(len, texts))
    views = [machine.ram.view(one.address, one.size) for one in found]
    _replace(Path(path), [head, *texts, bytes(-length % PAGE_SIZE), *views])


def about(path: str | Path) -> About:
    """What kind of machine a file holds: what `restore` has to be given. SnapshotError."""
    with _opened(path) as file:
        return _texts(file, path)[1]


def config_of(path: str | Path) -> MachineConfig:
    """A configuration of such a machine. SnapshotError."""
    found = about(path)
    return MachineConfig(memory=found.memory, cpus=found.cpus, cpu=found.cpu, clock=ClockKind(found.clock))


def restore(machine: Machine, path: str | Path) -> None:
    """Make a machine what the one in a file was. SnapshotError, and nothing is changed: it is none, or another kind of machine."""
    with _opened(path) as file:
        plain, was, state, table = _texts(file, path)
        mine = About.of(machine)
        if was.cpu != mine.cpu and CpuModel.parse(was.cpu).name == CpuModel.parse(mine.cpu).name:
            lacking = sorted(CpuModel.parse(was.cpu).enabled ^ CpuModel.parse(mine.cpu).enabled)
            words = f"{path}: its CPU and the one that this engine and host can give, both {machine.model.name}, differ in"
            raise SnapshotError(f"{words}: {', '.join(lacking)}")
        for name in ("memory", "cpus", "cpu", "clock"):
            if getattr(was, name) != getattr(mine, name):
                raise SnapshotError(f"{path}: its machine has {name} {getattr(was, name)}, this one {getattr(mine, name)}")
        try:
            amid = {one.vcpu.underway for one in machine.processors}
            saved = decode(state, MachineState, machine.save().classes() | amid | {Between})
            if plain:
                parts = _plain_parts(file, decode(table, PlainsState).parts, machine.ram)
                machine.load(saved)
                machine.ram.load_file(file.fileno(), parts)
                return
            extents = tuple(_unpacked(file, decode(table, PiecesState).pieces))
            machine.load(saved, RamState(was.memory, extents))
        except UnknownState as error:
            raise SnapshotError(f"{path}: {error}; it may be of another engine: --engine") from error
        except StateError as error:
            raise SnapshotError(f"{path}: {error}") from error


@contextlib.contextmanager
def behind(path: str | Path) -> Iterator[BinaryIO]:
    """A file that `save` has written, for reading what has been appended to it. SnapshotError, also for what goes wrong then."""
    with _opened(path) as file:
        plain, _, _, table = _texts(file, path)
        try:
            stored = 0 if plain else sum(piece.stored for piece in decode(table, PiecesState).pieces)
        except StateError as error:
            raise SnapshotError(f"{path}: {error}") from error
        file.seek(os.fstat(file.fileno()).st_size if plain else file.tell() + stored)
        yield file


def _plain_parts(file: BinaryIO, parts: Iterable[PlainState], ram: Ram) -> list[tuple[int, int, int]]:
    """What `Ram.load_file` takes. StateError: the file or RAM has not as much."""
    begin, size = -(-file.tell() // PAGE_SIZE) * PAGE_SIZE, os.fstat(file.fileno()).st_size
    found = [(one.address, one.size, begin + one.offset) for one in parts]
    for address, length, offset in found:
        require(length > 0 and not (address | length | offset) % PAGE_SIZE, f"RAM at {address:#x} begins or ends amid a page")
        require(ram.contains(address, length), f"{address:#x}+{length:#x} is not RAM")
        require(offset + length <= size, f"RAM at {address:#x}: the file is cut off")
    return found


def _texts(file: BinaryIO, path: str | Path) -> tuple[bool, About, bytes, bytes]:
    """Whether it is a plain one, and the three texts, the first of them read. SnapshotError."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size or not head.startswith((MAGIC, PLAIN)):
        raise SnapshotError(f"{path}: this is no machine that trapgate has saved or recorded")
    magic, version, checksum, *lengths = _HEAD.unpack(head)
    if version != VERSION:
        raise SnapshotError(f"{path}: a file of version {version}; this trapgate reads version {VERSION}")
    if max(lengths) > LONGEST or sum(lengths) > os.fstat(file.fileno()).st_size:
        raise SnapshotError(f"{path}: the file is damaged or cut off")
    texts = [file.read(length) for length in lengths]
    if zlib.crc32(b"".join(texts)) != checksum:
        raise SnapshotError(f"{path}: the file is damaged or cut off")
    try:
        return magic == PLAIN, decode(texts[0], About), texts[1], texts[2]
    except StateError as error:
        raise SnapshotError(f"{path}: {error}") from error


def _unpacked(file: BinaryIO, pieces: Iterable[PieceState]) -> Iterator[Extent]:
    """RAM, piece by piece. StateError where one is not what it was."""

    def unpack(piece: PieceState, data: bytes) -> Extent:
        if len(data) != piece.stored or zlib.crc32(data) != piece.checksum:
            raise StateError(f"RAM at {piece.address:#x}: the file is damaged or cut off")
        unpacking = zlib.decompressobj()
        try:
            found = unpacking.decompress(data, piece.size)
        except zlib.error as error:
            raise StateError(f"RAM at {piece.address:#x}: {error}") from error
        if len(found) != piece.size:
            raise StateError(f"RAM at {piece.address:#x} has {len(found)} bytes, not {piece.size}")
        return Extent(piece.address, found)

    with _workers() as workers:
        jobs = [workers.submit(unpack, piece, file.read(piece.stored)) for piece in pieces]
        yield from (job.result() for job in jobs)


def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), "trapgate snapshot")


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[BinaryIO]:
    try:
        with open(open_file(path), "rb") as file:
            yield file
    except (OSError, NotAFile) as error:
        raise SnapshotError(f"{path}: it cannot be read: {error.strerror or error}") from error


def _replace(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write a file beside its place, all of it to the disk, and give it the name. SnapshotError, and the old one is still there."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with open(beside, "xb", opener=lambda name, flags: os.open(name, flags | os.O_CLOEXEC, 0o600)) as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise SnapshotError(f"{path}: it cannot be written: {error.strerror or error}") from error
