"""Files that hold code we will execute: in a directory that is ours alone, checked at every load, replaced whole or not at all."""

import hashlib
import mmap
import os
import stat
from pathlib import Path

DIGEST_BYTES = 32
KEPT = 6  # files of one kind


class CacheError(Exception):
    """The cache directory cannot be trusted: it belongs to another user, or others may write to it."""


def default_directory() -> Path:
    """$TRAPGATE_CACHE, else $XDG_CACHE_HOME/trapgate, else ~/.cache/trapgate."""
    if chosen := os.environ.get("TRAPGATE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trapgate"


class Cache:
    """A directory of files by key. Without a usable directory everything still works, only nothing is kept: `notes` says why."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or default_directory()
        self.notes: list[str] = []
        self._usable = self._prepare()

    def _prepare(self) -> bool:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = os.lstat(self.directory)
        except OSError as error:
            self.notes.append(f"cache {self.directory} cannot be used, nothing will be kept: {error.strerror}")
            return False
        if not stat.S_ISDIR(status.st_mode):
            raise CacheError(
                f"cache {self.directory} is not a directory (a link is not followed): set TRAPGATE_CACHE to another place"
            )
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise CacheError(
                f"cache {self.directory} may be written by others: it holds code to execute; chmod 700 it, or set TRAPGATE_CACHE"
            )
        return True

    def load(self, key: str) -> memoryview | None:
        """What was stored under a key; None when there is nothing, or the file is damaged (it is removed, with a note).

        It is the file itself, mapped: `store` replaces files, and never changes one.
        """
        if not self._usable:
            return None
        path = self.directory / key
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            with os.fdopen(descriptor, "rb"):
                size = os.fstat(descriptor).st_size
                data = memoryview(mmap.mmap(descriptor, size, prot=mmap.PROT_READ) if size else b"")
        except FileNotFoundError:
            return None
        except OSError as error:
            self.notes.append(f"cache file {path} cannot be read: {error.strerror}")
            return None
        if size < DIGEST_BYTES or hashlib.sha256(data[DIGEST_BYTES:]).digest() != data[:DIGEST_BYTES]:
            self.notes.append(f"cache file {path} is damaged; it is built again")
            path.unlink(missing_ok=True)
            return None
        return data[DIGEST_BYTES:]

    def store(self, key: str, data: bytes) -> bool:
        """Keep data under a key, atomically; False (with a note) when the disk refuses."""
        if not self._usable:
            return False
        import tempfile  # few runs have something to store

        temporary = None
        try:
            descriptor, temporary = tempfile.mkstemp(dir=self.directory, prefix=f".{key}.")
            with os.fdopen(descriptor, "wb") as file:
                file.write(hashlib.sha256(data).digest())
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.directory / key)
            self._prune(key.split("-")[0])
        except OSError as error:
            self.notes.append(f"cache {self.directory} could not be written: {error.strerror}")
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
            return False
        return True

    def _prune(self, kind: str) -> None:
        """Older versions leave files that nobody will ask for again: the newest few of a kind stay."""
        found = [path for path in self.directory.iterdir() if path.name.startswith(f"{kind}-")]
        for path in sorted(found, key=lambda one: one.stat().st_mtime)[:-KEPT]:
            path.unlink(missing_ok=True)
