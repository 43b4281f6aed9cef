"""Keeps files of code that we will execute: in a directory that is ours alone, checked at every load, replaced whole."""

import contextlib
import hashlib
import io
import json
import mmap
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from trapgate.errors import TrapgateError
from trapgate.hostcall import SCARCE, HostError

DIGEST_BYTES = 32
KEPT = 6  # files of one kind
LARGEST = 1 << 30  # bytes of a file that is read
LARGE_PAGE = 2 << 20
LITTER = 24 * 3600  # seconds until a file that nobody finished writing is taken for one that nobody will

T = TypeVar("T")


class CacheError(TrapgateError):
    """The cache directory cannot be trusted: it belongs to another user, or others may write to it."""


class WrongContent(Exception):
    """What a file of the cache holds is not what its kind holds."""


def default_directory() -> Path:
    """$TRAPGATE_CACHE, else $XDG_CACHE_HOME/trapgate, else ~/.cache/trapgate; /tmp/trapgate-UID for a user without a home."""
    if chosen := os.environ.get("TRAPGATE_CACHE"):
        return Path(chosen)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "trapgate"
    try:
        return Path.home() / ".cache" / "trapgate"
    except RuntimeError:  # neither $HOME nor an entry in the user database, as in some containers
        return Path(f"/tmp/trapgate-{os.geteuid()}")


def pack(head: object, body: bytes | memoryview) -> bytes:
    """What JSON can express, and plain bytes behind it."""
    text = json.dumps(head, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + body


def unpack(data: bytes | memoryview) -> tuple[Any, memoryview]:
    """What `pack` was given; WrongContent when these bytes are no such thing. Whoever asks checks what came out."""
    data = memoryview(data)
    start = 8 + int.from_bytes(data[:8], "little")
    if start > len(data):
        raise WrongContent
    try:
        return json.loads(bytes(data[8:start])), data[start:]
    except (ValueError, RecursionError) as error:
        raise WrongContent from error


class Cache:
    """A directory of files by key. Without a usable directory everything still works, only nothing is kept: `notes` says why.

    Any number of processes may use it at once.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or default_directory()
        self.notes: list[str] = []
        self._usable = self._prepare()
        if self._usable:
            self._sweep()

    def _prepare(self) -> bool:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = os.lstat(self.directory)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self.notes.append(f"cache {self.directory} cannot be used, nothing will be kept: {reason}")
            return False
        if not stat.S_ISDIR(status.st_mode):
            raise CacheError(
                f"cache {self.directory} is not a directory (a link is not followed): set TRAPGATE_CACHE to another place"
            )
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise CacheError(
                f"cache {self.directory} may be written by others: it holds code to execute; chmod 700 it, or set TRAPGATE_CACHE"
            )
        return True

    def load(self, key: str) -> memoryview | None:
        """What was stored under a key; None when there is nothing, or the file is damaged (it is removed, with a note).

        It is read, not mapped: code is cut out of it for as long as the process lives, whatever is copied over the file meanwhile.
        Whatever else has its name, a pipe, a link, a file of somebody else's, is not touched, and nobody is waited for. HostError:
        no descriptor or memory is left.
        """
        if not self._usable:
            return None
        path = self.directory / key
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._unreadable(path, error)
            return None
        try:
            with os.fdopen(descriptor, "rb", buffering=0) as file:
                status = os.fstat(descriptor)
                if not _is_ours(status):
                    self.notes.append(f"cache file {path} is not used: it is no plain file of this user alone; remove it")
                    return None
                data = _whole(file, status.st_size) if status.st_size <= LARGEST else memoryview(b"")
        except OSError as error:
            self._unreadable(path, error)
            return None
        if len(data) < DIGEST_BYTES or _digest(key, data[DIGEST_BYTES:]) != data[:DIGEST_BYTES]:
            self._remove(path, "is damaged")
            return None
        return data[DIGEST_BYTES:]

    def read(self, key: str, reader: Callable[[memoryview], T]) -> T | None:
        """What `reader` makes of what was stored; None also when it raises WrongContent: such a file is removed, with a note."""
        data = self.load(key)
        if data is None:
            return None
        try:
            return reader(data)
        except WrongContent:
            self._remove(self.directory / key, "does not hold what it should")
            return None

    def _unreadable(self, path: Path, error: OSError) -> None:
        if error.errno in SCARCE:  # then it cannot be built again either, and not for want of trying
            raise HostError(f"to open {path}", error.errno) from error
        self.notes.append(f"cache file {path} cannot be read: {error.strerror}")

    def _remove(self, path: Path, why: str) -> None:
        try:
            path.unlink(missing_ok=True)
            self.notes.append(f"cache file {path} {why}; it is built again")
        except OSError as error:
            self.notes.append(f"cache file {path} {why}, and cannot be removed: {error.strerror}; it is built again at each start")

    def store(self, key: str, data: bytes) -> bool:
        """Keep data under a key, atomically; False (with a note) when the disk refuses."""
        if not self._usable:
            return False
        import tempfile  # few runs have something to store

        temporary = None
        try:
            descriptor, temporary = tempfile.mkstemp(dir=self.directory, prefix=f".{key}.")
            with os.fdopen(descriptor, "wb") as file:
                file.write(_digest(key, data))
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.directory / key)
            temporary = None
        except OSError as error:
            self.notes.append(f"cache {self.directory} could not be written: {error.strerror}")
            return False
        finally:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
        self._prune(key.split("-")[0])
        return True

    def _prune(self, kind: str) -> None:
        """Older versions leave files that nobody will ask for again: the newest few of a kind stay."""
        found = [(status.st_mtime, path) for path, status in self._files() if path.name.startswith(f"{kind}-")]
        for _, path in sorted(found)[:-KEPT]:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what processes that were killed left half-written."""
        before = time.time() - LITTER
        for path, status in self._files():
            if path.name.startswith(".") and "-" in path.name and status.st_mtime < before:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        """Files of ours in the directory; other processes may remove some meanwhile."""
        found = []
        with contextlib.suppress(OSError):
            for name in os.listdir(self.directory):
                with contextlib.suppress(OSError):
                    status = os.lstat(self.directory / name)
                    if _is_ours(status):
                        found.append((self.directory / name, status))
        return found


def _whole(file: io.FileIO, size: int) -> memoryview:
    """What a file holds, in large pages where it is large: the translations of a boot are 8,000 small ones, each a fault.

    Private memory, of whole large pages: Linux gives shared memory none as it is set up by default, and begins no other size of
    memory on their boundary (from 6.7 on; before, the first and the last one are small).
    """
    if size < LARGE_PAGE:
        return memoryview(file.readall())
    memory = mmap.mmap(-1, -(-size // LARGE_PAGE) * LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError, ValueError):  # a host without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    view, done = memoryview(memory)[:size], 0
    while done < size and (count := file.readinto(view[done:])):
        done += count
    return view[:done].toreadonly()


def _is_ours(status: os.stat_result) -> bool:
    """A plain file of this user, under one name only, that nobody else may write to. It has none when it was just replaced."""
    plain = stat.S_ISREG(status.st_mode) and status.st_nlink <= 1
    return plain and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _digest(key: str, data: bytes | memoryview) -> bytes:
    """Of content and name: what is right under one name is not under another."""
    total = hashlib.sha256(key.encode() + b"\0")
    total.update(data)
    return total.digest()
