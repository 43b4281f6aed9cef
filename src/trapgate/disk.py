"""Holds the sectors of a disk: a file of the host, or what a guest has written over it, in memory."""

import errno
import fcntl
import os
import shlex
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

from trapgate.diskformats import format_of
from trapgate.errors import TrapgateError
from trapgate.hostcall import HostError, asking
from trapgate.state import U64, Length, State, require
from trapgate.values import dataclass

SECTOR = 512
BLOCK = 4096  # bytes that are kept in memory together
ZEROS = bytes(1 << 20)


class DiskError(TrapgateError):
    """A file that cannot be a disk."""


@dataclass(frozen=True, slots=True)
class DiskState(State):
    """The size of a disk, and what was written over its file, by number of block (None: to the file). The file is none of it."""

    size: U64
    written: tuple[tuple[U64, Annotated[bytes, Length(BLOCK)]], ...] | None


class Disk:
    """A raw image. With `snapshot` the file stays as it is, and what is written is forgotten with the disk.

    An image of another format is refused by its name, but with `raw`: a guest may have written anything into the sectors of a disk.
    It has `least` bytes at least: behind the end of a smaller file are zeros, and what is written there makes it longer.
    DiskError: there is no such file, it is not raw, or another process has it in use. The file is locked (flock) as long as it is
    open. Methods raise HostError.
    """

    def __init__(
        self, path: str | Path, *, read_only: bool = False, snapshot: bool = False, raw: bool = False, least: int = 0
    ) -> None:
        self.name, self.read_only = os.fspath(path), read_only
        self._overlay: dict[int, bytearray] | None = {} if snapshot else None
        changing = not read_only and not snapshot
        try:
            self._descriptor = os.open(path, (os.O_RDWR if changing else os.O_RDONLY) | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            raise DiskError(f"{self.name}: {os.strerror(error.errno or errno.EIO)}") from error
        try:
            self._lock(changing)
            self._stored = os.lseek(self._descriptor, 0, os.SEEK_END)
            if not raw:
                self._refuse_other_formats()
            self.size = max(self._stored, least) // SECTOR * SECTOR
        except BaseException:
            os.close(self._descriptor)
            raise

    def _lock(self, changing: bool) -> None:
        kind = os.fstat(self._descriptor).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
            raise DiskError(f"{self.name}: neither a file nor a block device")
        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_EX if changing else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DiskError(f"{self.name}: another program has it in use") from error

    def _refuse_other_formats(self) -> None:
        with asking(f"access to {self.name}"):
            found = format_of(lambda offset, length: os.pread(self._descriptor, length, offset), self._stored)
        if found is not None:
            words = ("qemu-img", "convert", "-f", found.word, "-O", "raw", self.name, f"{os.path.splitext(self.name)[0]}.raw")
            raise DiskError(f"{self.name}: a {found.name} disk image; disks are raw here: {shlex.join(words)}")

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def read_into(self, offset: int, places: Sequence[memoryview]) -> None:
        """Fill places, one after the other, with what begins at an offset."""
        if self._overlay is None:
            self._read(offset, places)
            return
        for place in places:
            for at, number, within, size in _blocks(offset, len(place)):
                place[at : at + size] = self._block(number)[within : within + size]
            offset += len(place)

    def write_from(self, offset: int, places: Sequence[memoryview]) -> None:
        """Store places, one after the other, from an offset on."""
        if self._overlay is None:
            self._whole(os.pwritev, offset, places)
            self._stored = max(self._stored, offset + sum(map(len, places)))
            return
        for place in places:
            for at, number, within, size in _blocks(offset, len(place)):
                block = self._overlay.setdefault(number, self._block(number))
                block[within : within + size] = place[at : at + size]
            offset += len(place)

    def zero(self, offset: int, length: int) -> None:
        """Store zeros."""
        while length:
            size = min(length, len(ZEROS))
            self.write_from(offset, [memoryview(ZEROS)[:size]])
            offset, length = offset + size, length - size

    def flush(self) -> None:
        """What was written to the file lasts."""
        if self._overlay is None and not self.read_only:
            with asking(f"to write back {self.name}"):
                os.fdatasync(self._descriptor)

    def save(self) -> DiskState:
        """What is in memory of it."""
        written = None if self._overlay is None else tuple((number, bytes(one)) for number, one in sorted(self._overlay.items()))
        return DiskState(self.size, written)

    def load(self, state: DiskState) -> None:
        """What is in memory of it. StateError: a disk of another size, or one that keeps what is written elsewhere."""
        require(state.size == self.size, f"a disk of {state.size} bytes is not {self.name}, which has {self.size}")
        require((state.written is None) == (self._overlay is None), f"{self.name}: what was written is kept elsewhere")
        for number, _ in state.written or ():
            require(number * BLOCK < self.size, f"{self.name} has no block {number}")
        if state.written is not None:
            self._overlay = {number: bytearray(data) for number, data in state.written}

    def _block(self, number: int) -> bytearray:
        """A block as the guest sees it."""
        assert self._overlay is not None
        if (block := self._overlay.get(number)) is None:
            block = bytearray(BLOCK)
            length = min(BLOCK, self.size - number * BLOCK)
            self._read(number * BLOCK, [memoryview(block)[:length]])
        return block

    def _read(self, offset: int, places: Sequence[memoryview]) -> None:
        """Fill places from the file, and with zeros behind its end."""
        if self.size <= self._stored:
            self._whole(os.preadv, offset, places)
            return
        for place in places:
            there = min(max(self._stored - offset, 0), len(place))
            self._whole(os.preadv, offset, [place[:there]])
            place[there:] = bytes(len(place) - there)
            offset += len(place)

    def _whole(self, call: "Callable[[int, Sequence[memoryview], int], int]", offset: int, places: Sequence[memoryview]) -> None:
        """Read or write all of some places, however little the host does at a time."""
        left = [place for place in places if len(place)]
        with asking(f"access to {self.name}"):
            while left:
                done = call(self._descriptor, left, offset)
                if not done:
                    raise HostError(f"access to {self.name}: the file has become shorter", errno.EIO)
                offset += done
                while left and done >= len(left[0]):
                    done -= len(left.pop(0))
                if left:
                    left[0] = left[0][done:]


def _blocks(offset: int, length: int) -> Iterator[tuple[int, int, int, int]]:
    """(place in the bytes, number of the block, place in that, size) of each part of [offset, offset + length)."""
    at = 0
    while at < length:
        number, within = divmod(offset + at, BLOCK)
        size = min(BLOCK - within, length - at)
        yield at, number, within, size
        at += size
