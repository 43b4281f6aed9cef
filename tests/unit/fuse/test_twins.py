"""Random calls of programs, through FUSE and on a twin of the folder: the same errors, and trees that are the same to the byte."""

import errno
import os
import random
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from trapgate.fuse import protocol
from trapgate.fuse.protocol import Operation
from trapgate.fuse.share import Share
from unit.fuse.guest import Guest, descriptors, tree

NAMES = ("file", "empty", "directory", "out", "pipe", "a", "b", "c")
PLACES = ("", "directory", "directory/inner", "a", "b/c")
CALLS = 600


def rows(folder: Path) -> list[tuple[object, ...]]:
    """All that is in a folder: names, kinds, modes, links, sizes, content, and which are the same file."""
    seen: dict[int, int] = {}
    found: list[tuple[object, ...]] = []
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content: object = None
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        size = None if stat.S_ISDIR(status.st_mode) else status.st_size
        same = seen.setdefault(status.st_ino, len(seen))
        found.append((str(path.relative_to(folder)), oct(status.st_mode), status.st_nlink, size, same, content))
    return found


def outcome(call: Callable[[], object]) -> str:
    """The name of the errno that a call fails with."""
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


class Program:
    """What a program asks for, of the guest's kernel: paths, which become nodes."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    def send(self, operation: int, body: bytes = b"", node: int = 1) -> bytes:
        error, data = self.guest.send(operation, body, node)
        if error:
            raise OSError(error, os.strerror(error))
        return data

    def node(self, path: str) -> int:
        number = 1
        for name in filter(None, path.split("/")):
            number = protocol.ENTRY.unpack_from(self.send(Operation.LOOKUP, name.encode() + b"\0", number))[0]
            if not number:
                raise FileNotFoundError(errno.ENOENT, path)
        return number

    def at(self, path: str) -> tuple[int, bytes]:
        head, _, tail = path.rpartition("/")
        number = self.node(head)
        if not stat.S_ISDIR(self.guest.status(number)[9]):
            raise OSError(errno.ENOTDIR, path)
        return number, tail.encode() + b"\0"

    def known(self, path: str) -> None:
        """A kernel looks a name up before it changes what has it."""
        self.node(path)

    def mkdir(self, path: str, mode: int) -> None:
        node, name = self.at(path)
        self.send(Operation.MKDIR, protocol.MKDIR.pack(mode, 0) + name, node)

    def mknod(self, path: str, mode: int) -> None:
        node, name = self.at(path)
        self.send(Operation.MKNOD, protocol.MKNOD.pack(mode, 0, 0, 0) + name, node)

    def symlink(self, target: str, path: str) -> None:
        node, name = self.at(path)
        self.send(Operation.SYMLINK, name + target.encode() + b"\0", node)

    def link(self, path: str, other: str) -> None:
        number = self.node(path)
        node, name = self.at(other)
        self.send(Operation.LINK, protocol.LINK.pack(number) + name, node)

    def rename(self, path: str, other: str) -> None:
        (source, old), (target, new) = self.at(path), self.at(other)
        self.known(path)
        self.send(Operation.RENAME2, protocol.RENAME2.pack(target, 0, 0) + old + new, source)

    def unlink(self, path: str) -> None:
        self.known(path)
        node, name = self.at(path)
        self.send(Operation.UNLINK, name, node)

    def rmdir(self, path: str) -> None:
        self.known(path)
        node, name = self.at(path)
        self.send(Operation.RMDIR, name, node)

    def chmod(self, path: str, mode: int) -> None:
        error, _ = self.guest.change(self.node(path), mode=mode)
        if error:
            raise OSError(error, path)

    def write(self, path: str, offset: int, data: bytes) -> None:
        node, name = self.at(path)
        created = self.send(Operation.CREATE, protocol.CREATE.pack(os.O_WRONLY, 0o644, 0, 0) + name, node)
        number, handle = protocol.ENTRY.unpack_from(created)[0], protocol.OPEN_ANSWER.unpack(created[protocol.ENTRY.size :])[0]
        self.guest.write(number, handle, offset, data)
        self.guest.close(number, handle)

    def truncate(self, path: str, size: int) -> None:
        error, _ = self.guest.change(self.node(path), size=size)
        if error:
            raise OSError(error, path)


class Twin:
    """The same calls on the host, below a folder. What a kernel says before it asks a file system is said here as well."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, path: str) -> str:
        """A path of the host, which leads through no symlink: those are for the guest's kernel to follow."""
        place = self.folder
        for name in path.split("/")[:-1]:
            place /= name
            if not stat.S_ISDIR(place.lstat().st_mode):
                raise OSError(errno.ENOTDIR, path)
        return str(self.folder / path)

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self(path))
        os.chmod(self(path), mode)

    def mknod(self, path: str, mode: int) -> None:
        os.mknod(self(path), mode)
        os.chmod(self(path), stat.S_IMODE(mode))

    def symlink(self, target: str, path: str) -> None:
        os.symlink(target, self(path))

    def link(self, path: str, other: str) -> None:
        os.lstat(place := self(path))
        os.link(place, self(other), follow_symlinks=False)

    def rename(self, path: str, other: str) -> None:
        os.rename(self(path), self(other))

    def unlink(self, path: str) -> None:
        os.unlink(self(path))

    def rmdir(self, path: str) -> None:
        os.rmdir(self(path))

    def chmod(self, path: str, mode: int) -> None:
        if os.path.islink(self(path)):
            raise OSError(errno.EOPNOTSUPP, path)
        os.chmod(self(path), mode)

    def _open(self, path: str, flags: int) -> int:
        place = self(path)
        if os.path.lexists(place) and not stat.S_ISREG(kind := os.lstat(place).st_mode):
            raise OSError(errno.EISDIR if stat.S_ISDIR(kind) else errno.EACCES, path)
        return os.open(place, flags, 0o644)

    def write(self, path: str, offset: int, data: bytes) -> None:
        descriptor = self._open(path, os.O_WRONLY | os.O_CREAT)
        os.pwrite(descriptor, data, offset)
        os.close(descriptor)

    def truncate(self, path: str, size: int) -> None:
        descriptor = self._open(path, os.O_WRONLY)
        os.ftruncate(descriptor, size)
        os.close(descriptor)


def calls(random: random.Random) -> Iterator[tuple[str, tuple[object, ...]]]:
    def path() -> str:
        place = random.choice(PLACES)
        return f"{place}/{random.choice(NAMES)}" if place else random.choice(NAMES)

    for _ in range(CALLS):
        mode = random.choice((0o644, 0o755, 0o700, 0o1777))
        yield random.choice(
            (
                ("mkdir", (path(), mode)),
                ("mknod", (path(), random.choice((stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK)) | mode)),
                ("symlink", (random.choice(("a", "/etc", "..")), path())),
                ("link", (path(), path())),
                ("rename", (path(), path())),
                ("rename", (path(), path())),
                ("unlink", (path(),)),
                ("rmdir", (path(),)),
                ("chmod", (path(), mode)),
                ("write", (path(), random.randrange(5000), random.randbytes(random.randrange(9000)))),
                ("truncate", (path(), random.randrange(9000))),
            )
        )


@pytest.mark.parametrize("seed", range(5))
def test_the_same_calls_do_the_same(tmp_path: Path, seed: int) -> None:
    shared, twin = tmp_path / "shared", tmp_path / "twin"
    for folder in (shared, twin):
        folder.mkdir()
        tree(folder)
    before = descriptors()
    share = Share(shared, writable=True)
    guest = Guest(share)
    program, host = Program(guest), Twin(twin)
    done = 0
    umask = os.umask(0o022)
    try:
        for name, arguments in calls(random.Random(seed)):
            expected, found = (outcome(partial(getattr(one, name), *arguments)) for one in (host, program))
            assert found == expected, (name, arguments)
            done += expected == "done"
    finally:
        os.umask(umask)
    assert done > CALLS // 20
    assert rows(shared) == rows(twin)
    guest.session.close()
    share.close()
    assert descriptors() == before
