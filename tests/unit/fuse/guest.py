"""A guest's side of FUSE, by hand: requests with any numbers, answers taken apart."""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trapgate.fuse import protocol
from trapgate.fuse.protocol import ANSWER, ENTRY, HEADER, Change, Changes, Operation
from trapgate.fuse.session import Session
from trapgate.fuse.share import Share

ROOM = 1 << 20
ALL = 0xFFFF_FFFF


class Refused(AssertionError):
    """An answer with an error that the test did not expect."""


class Pieces:
    """A message and the room for its answer, in pieces as guests have them."""

    def __init__(self, message: bytes, room: int) -> None:
        self._message, self._place = message, bytearray(room)
        self.room = room

    @contextmanager
    def fill(self, length: int) -> Iterator[list[memoryview]]:
        view = memoryview(self._place)[:length]
        yield [view[at : at + 2000] for at in range(0, len(view), 2000)]

    @contextmanager
    def look(self, offset: int, length: int) -> Iterator[list[memoryview]]:
        view = memoryview(self._message).toreadonly()[offset : offset + length]
        yield [view[at : at + 2000] for at in range(0, len(view), 2000)]

    def filled(self, length: int) -> bytes:
        return bytes(self._place[:length])


class Guest:
    """A guest that has a share, mounted at once."""

    def __init__(self, share: Share, features: int = ALL) -> None:
        self.share, self.session, self.unique = share, Session(share), 0
        self.features = features
        self.mount()

    def mount(self) -> bytes:
        return self.ask(Operation.INIT, protocol.INIT.pack(7, 41, 1 << 17, self.features) + bytes(48), node=0)

    def send(
        self, operation: int, body: bytes = b"", node: int = 1, *, room: int = ROOM, uid: int = 0, gid: int = 0
    ) -> tuple[int, bytes]:
        """The error, above 0, of a request and what its answer brings."""
        self.unique += 2
        message = HEADER.pack(HEADER.size + len(body), operation, self.unique, node, uid, gid, 1, 0, 0) + body
        pieces = Pieces(message, room)
        answer, filled = self.session.answer(message, pieces)
        if not answer:
            return 0, b""
        length, error, unique = ANSWER.unpack_from(answer)
        assert (length, unique) == (len(answer) + filled, self.unique)
        assert not filled or len(answer) == ANSWER.size
        assert len(answer) + filled <= ANSWER.size + max(room, ENTRY.size)
        return -error, answer[ANSWER.size :] + pieces.filled(filled)

    def ask(self, operation: int, body: bytes = b"", node: int = 1, **more: int) -> bytes:
        """What the answer to a request brings, which is no error."""
        error, data = self.send(operation, body, node, **more)
        if error:
            raise Refused(f"{Operation(operation).name}: {errno.errorcode.get(error, error)}")
        return data

    def error(self, operation: int, body: bytes = b"", node: int = 1, **more: int) -> str:
        """The error's name of a request that is refused."""
        error, data = self.send(operation, body, node, **more)
        assert error, data
        assert not data
        return errno.errorcode[error]

    # What guests do all the time

    def look_up(self, path: str, node: int = 1) -> int:
        """The node at the end of a path."""
        for name in path.split("/"):
            node = self.entry(self.ask(Operation.LOOKUP, os.fsencode(name) + b"\0", node))
        return node

    @staticmethod
    def entry(data: bytes) -> int:
        number = int(ENTRY.unpack_from(data)[0])
        assert number, "there is no such name"
        return number

    def open(self, node: int, flags: int = os.O_RDONLY, operation: int = Operation.OPEN) -> int:
        return int(protocol.OPEN_ANSWER.unpack(self.ask(operation, protocol.OPEN.pack(flags, 0), node))[0])

    def close(self, node: int, handle: int) -> None:
        self.ask(Operation.RELEASE, protocol.RELEASE.pack(handle, 0, 0, 0), node)

    def read(self, node: int, offset: int, size: int, handle: int = 0) -> bytes:
        return self.ask(Operation.READ, protocol.READ.pack(handle, offset, size, 0, 0, 0, 0), node, room=size)

    def write(self, node: int, handle: int, offset: int, data: bytes) -> int:
        body = protocol.WRITE.pack(handle, offset, len(data), 0, 0, 0, 0) + data
        return int(protocol.WRITE_ANSWER.unpack(self.ask(Operation.WRITE, body, node))[0])

    def create(self, name: str, mode: int = 0o644, flags: int = os.O_RDWR, node: int = 1, **who: int) -> tuple[int, int]:
        """The node and the handle of a new file."""
        body = protocol.CREATE.pack(flags, stat.S_IFREG | mode, 0, 0) + os.fsencode(name) + b"\0"
        data = self.ask(Operation.CREATE, body, node, **who)
        return self.entry(data), protocol.OPEN_ANSWER.unpack(data[ENTRY.size :])[0]

    def change(self, node: int, **fields: int) -> tuple[int, bytes]:
        """SETATTR of what is named, as fields of `Changes`; those with _now are flags."""
        valid = Change(0)
        for field in fields:
            if not field.endswith("_ns"):
                valid |= Change[field.upper()]
        values = Changes(valid, *(fields.get(name, 0) for name in Changes._fields[1:]))
        return self.send(Operation.SETATTR, protocol.SETATTR.pack(*values), node)

    def status(self, node: int) -> Sequence[int]:
        """number, size, blocks, three times' seconds and ns, mode, links, owner and group, device, size of a block, flags."""
        return protocol.ATTRIBUTES.unpack(self.ask(Operation.GETATTR, protocol.GETATTR.pack(0, 0, 0), node))[2:]

    def names(self, node: int, size: int = 4096, *, plus: bool = False, handle: int | None = None) -> list[tuple[bytes, int, int]]:
        """The (name, kind, node) of all that is in a directory, in pieces of an answer's size."""
        if handle is None and not self.share.writable:
            handle = 0
        opened = self.open(node, operation=Operation.OPENDIR) if handle is None else handle
        found, offset = [], 0
        operation = Operation.READDIRPLUS if plus else Operation.READDIR
        while data := self.ask(operation, protocol.READ.pack(opened, offset, size, 0, 0, 0, 0), node, room=size):
            assert len(data) <= size
            while data:
                number, data = (ENTRY.unpack_from(data)[0], data[ENTRY.size :]) if plus else (0, data)
                _, offset, length, kind = protocol.DIRENT.unpack_from(data)
                name = data[24 : 24 + length]
                data = data[protocol.dirent_size(name) :]
                found.append((name, kind, number))
        if handle is None:
            self.ask(Operation.RELEASEDIR, protocol.RELEASE.pack(opened, 0, 0, 0), node)
        return found


def descriptors() -> int:
    """How many this process has."""
    return len(os.listdir("/proc/self/fd"))


def tree(folder: Path) -> None:
    """Some files of each kind."""
    (folder / "file").write_bytes(bytes(range(256)) * 40)
    (folder / "empty").touch(0o600)
    (folder / "directory" / "inner").mkdir(parents=True)
    (folder / "directory" / "inner" / "deep").write_text("deep")
    (folder / "out").symlink_to("/etc/passwd")
    (folder / "up").symlink_to("../..")
    os.mkfifo(folder / "pipe")
    os.link(folder / "file", folder / "directory" / "again")
    os.utime(folder / "file", ns=(-1, (1 << 33) * 10**9 + 5))


__all__ = ["Guest", "Refused", "descriptors", "tree"]
