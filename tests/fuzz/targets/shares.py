"""FUSE messages of a guest to a share in memory, read or written: whatever it asks, an answer, and nothing beside the share.

A line is a message: `r` or `w` for the share that is read or written, its operation and its node in hex, and its body in hex after
that. `~N` in a body is the N-th node or handle that an answer has brought, of eight bytes.
"""

import os
import re
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fuzz.target import Target
from trapgate.fuse import protocol
from trapgate.fuse.protocol import ANSWER, ENTRY, HEADER, OPEN_ANSWER, Operation
from trapgate.fuse.reading import Buffers
from trapgate.fuse.session import Session
from trapgate.fuse.share import Share

MOST_MESSAGES = 60
ROOM = 4096
_LINE = re.compile(rb"([rw]) ([0-9a-f]{1,8}) ([0-9a-f]{1,16}|~[0-9a-f]) ?((?:[0-9a-f]{2}|~[0-9a-f])*)")
_PIECE = re.compile(rb"~([0-9a-f])|((?:[0-9a-f]{2})+)")
_SILENT = (Operation.FORGET, Operation.BATCH_FORGET, Operation.INTERRUPT)
_MAKING = (Operation.CREATE, Operation.MKDIR, Operation.MKNOD, Operation.SYMLINK, Operation.LINK, Operation.TMPFILE)
BESIDE = b"beside the share"
LARGEST = 8 << 20  # bytes of a file: they are in memory


class Pieces:
    """A message and room for its answer."""

    def __init__(self, message: bytes) -> None:
        self._message, self.place = message, bytearray(ROOM)
        self.room = ROOM

    @contextmanager
    def fill(self, length: int) -> Iterator[list[memoryview]]:
        yield [memoryview(self.place)[:length]]

    @contextmanager
    def look(self, offset: int, length: int) -> Iterator[list[memoryview]]:
        yield [memoryview(self._message).toreadonly()[offset : offset + length]]


class Bench:
    """Two shares beside a file that is in neither."""

    def __init__(self) -> None:
        memory = "/dev/shm"
        self.folder = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
        self.descriptors = len(os.listdir("/proc/self/fd"))
        (self.folder / "secret").write_bytes(BESIDE)
        shares = []
        for name in ("r", "w"):
            place = self.folder / name
            (place / "d" / "e").mkdir(parents=True)
            (place / "f").write_bytes(b"content")
            (place / "s").symlink_to("../secret")
            (place / "u").symlink_to("..")
            os.mkfifo(place / "p")
            shares.append(Share(place, writable=name == "w"))
        self.shares = dict(zip((b"r", b"w"), shares, strict=True))
        self.sessions = {name: Session(share) for name, share in self.shares.items()}
        self.known = [1]
        for one in self.sessions:
            self.send(one, Operation.INIT, 0, protocol.INIT.pack(7, 38, 0, 0xFFFF_FFFF))

    def send(self, name: bytes, operation: int, node: int, body: bytes) -> int:
        """One message; the error of its answer."""
        message = HEADER.pack(HEADER.size + len(body), operation, 2, node & protocol.U64, 1, 1, 1, 0, 0) + body
        pieces = Pieces(message)
        answer, filled = self.sessions[name].answer(message, pieces)
        if operation in _SILENT:
            assert (answer, filled) == (b"", 0)
            return 0
        length, error, unique = ANSWER.unpack_from(answer)
        assert (length, unique) == (len(answer) + filled, 2)
        assert -200 < error <= 0, error
        assert not error or length == ANSWER.size
        assert BESIDE not in answer
        assert BESIDE not in pieces.place
        data = answer[ANSWER.size :]
        if operation in (Operation.LOOKUP, *_MAKING) and not error:
            self.known.append(ENTRY.unpack_from(data)[0])
            data = data[ENTRY.size :]
        if operation in (Operation.OPEN, Operation.OPENDIR, Operation.CREATE, Operation.TMPFILE) and not error:
            self.known.append(OPEN_ANSWER.unpack_from(data)[0])
        return int(-error)

    def line(self, line: bytes) -> int:
        """One line; what is no message is none."""
        match = _LINE.fullmatch(line)
        if match is None:
            return 0
        name, operation, node, body = match.groups()
        number = self._known(node[1:]) if node.startswith(b"~") else int(node, 16)
        return self.send(name, int(operation, 16), number, b"".join(map(self._piece, _PIECE.finditer(body))))

    def _piece(self, piece: "re.Match[bytes]") -> bytes:
        return self._known(piece[1]).to_bytes(8, "little") if piece[1] else bytes.fromhex(piece[2].decode())

    def _known(self, digit: bytes) -> int:
        return self.known[-1 - int(digit, 16) % len(self.known)]

    def close(self) -> None:
        """What was beside the shares is as it was, what is read too, and nothing is left open."""
        for one in self.sessions.values():
            one.close()
        for share in self.shares.values():
            share.close()
        assert len(os.listdir("/proc/self/fd")) == self.descriptors
        assert sorted(os.listdir(self.folder)) == ["r", "secret", "w"]
        assert (self.folder / "secret").read_bytes() == BESIDE
        read = self.folder / "r"
        assert sorted(str(path.relative_to(read)) for path in read.rglob("*")) == ["d", "d/e", "f", "p", "s", "u"]
        assert (read / "f").read_bytes() == b"content"
        for path in (self.folder / "w").rglob("*"):
            mode = path.lstat().st_mode
            assert not mode & 0o4000, "a file with its owner's rights"
            assert path.is_dir() or path.is_symlink() or path.is_file() or path.is_fifo() or path.is_socket()


def run(data: bytes) -> str:
    """Send some messages."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST, resource.RLIM_INFINITY))
    bench = Bench()
    try:
        errors = {bench.line(line) for line in data.split(b"\n")[:MOST_MESSAGES]}
        bench.close()
    finally:
        for path in bench.folder.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
        shutil.rmtree(bench.folder)
    return f"{len(errors)} errors"


def plant() -> None:
    """Nodes were expected to have small numbers."""
    right = Session.answer

    def answer(self: Session, message: bytes, buffers: Buffers) -> tuple[bytes, int]:
        assert HEADER.unpack_from(message)[3] < 256, "a node that nobody has"
        return right(self, message, buffers)

    Session.answer = answer  # type: ignore[method-assign]


def _starts() -> list[bytes]:
    """A guest at work: each operation with what it takes."""

    def row(operation: Operation, body: str = "", node: str = "1", share: str = "w") -> bytes:
        return f"{share} {operation:x} {node} {body}\n".encode()

    f, d, e, s, n = (f"{ord(name):02x}00" for name in "fdesn")
    zero, four = "0" * 16, "0" * 8
    reading = [
        row(Operation.LOOKUP, f, share="r"),
        row(Operation.GETATTR, four * 2 + zero, "~0", "r"),
        row(Operation.OPEN, four * 2, "~0", "r"),
        row(Operation.READ, "~0" + zero + "00100000" + four + zero + four * 2, "~1", "r"),
        row(Operation.LSEEK, "~0" + zero + "03000000" + four, "~1", "r"),
        row(Operation.RELEASE, "~0" + four * 2 + zero, "~1", "r"),
        row(Operation.LOOKUP, s, share="r"),
        row(Operation.READLINK, "", "~0", "r"),
        row(Operation.STATFS, share="r"),
        row(Operation.ACCESS, "04000000" + four, share="r"),
    ]
    names = [
        row(Operation.OPENDIR, four * 2, share="r"),
        row(Operation.READDIRPLUS, "~0" + zero + "00100000" + four + zero + four * 2, "1", "r"),
        row(Operation.READDIR, "~0" + zero + "40000000" + four + zero + four * 2, "1", "r"),
        row(Operation.FSYNCDIR, "~0" + four * 2, share="r"),
        row(Operation.RELEASEDIR, "~0" + four * 2 + zero, "1", "r"),
        row(Operation.FORGET, "0100000000000000", "2", "r"),
        row(Operation.BATCH_FORGET, "01000000" + four + "0200000000000000" + "0100000000000000", "0", "r"),
        row(Operation.DESTROY, share="r"),
        row(Operation.INIT, "0700000029000000" + "00000200" + "ffffffff", "0", "r"),
    ]
    making = [
        row(Operation.CREATE, "02000000" + "a4810000" + four * 2 + n),
        row(Operation.WRITE, "~0" + zero + "04000000" + four + zero + four * 2 + "61626364", "~1"),
        row(Operation.FALLOCATE, "~0" + zero + "0010000000000000" + four * 2, "~1"),
        row(Operation.COPY_FILE_RANGE, "~0" + zero + "~1" + "~0" + "0020000000000000" + "0400000000000000" + zero, "~1"),
        row(Operation.SETATTR, "fe010000" + four + zero + "0500000000000000" + zero * 4 + four * 3 + "a4810000" + four * 4, "~1"),
        row(Operation.SETATTR, "31000000" + four + zero * 6 + four * 3 + "a4810000" + four * 4, "~1"),
        row(Operation.FSYNC, "~0" + "01000000" + four, "~1"),
        row(Operation.LINK, "~1" + "6c00"),
        row(Operation.RENAME2, "~1" + "02000000" + four + n + f),
        row(Operation.RENAME2, "0100000000000000" + "01000000" + four + n + "7a00"),
        row(Operation.UNLINK, "7a00"),
        row(Operation.UNLINK, f),
        row(Operation.GETATTR, four * 2 + zero, "~1"),
        row(Operation.READ, "~0" + zero + "00100000" + four + zero + four * 2, "~1"),
    ]
    directories = [
        row(Operation.MKDIR, "ed410000" + four + n),
        row(Operation.MKNOD, "a4110000" + four * 3 + "7100", "~0"),
        row(Operation.SYMLINK, "6c00" + "2e2e2f2e2e00", "~0"),
        row(Operation.LOOKUP, d),
        row(Operation.RENAME, "~0" + n + "6d00"),
        row(Operation.RMDIR, e, "~0"),
        row(Operation.TMPFILE, "02000000" + "a4810000" + four * 2 + "2300"),
        row(Operation.LINK, "~1" + "7400"),
        row(Operation.FSYNCDIR, "~0" + four * 2),
    ]
    return [b"".join(rows) for rows in (reading, names, making, directories)]


TARGET = Target(
    run,
    _starts(),
    plant,
    lines=True,
    words=(
        *(f"{share} {operation:x} ~0 ".encode() for share in "rw" for operation in Operation),
        *(name.hex().encode() + b"00" for name in (b"f", b"d", b"e", b"s", b"u", b"p", b"n", b"..", b".", b"../secret")),
        *(b"~0", b"~1", b"~2", b"ffffffff", b"0000000000000080", b"ffffffffffffffff"),
    ),
    short=250,
)
