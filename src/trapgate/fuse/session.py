"""Serves one guest's use of a share, from INIT to DESTROY: requests in, answers out."""

import errno

from trapgate.fuse import protocol
from trapgate.fuse.handles import Handles
from trapgate.fuse.nodes import Nodes, failure
from trapgate.fuse.protocol import Feature, Operation
from trapgate.fuse.reading import Answer, Buffers, Reading, Request, Table
from trapgate.fuse.share import Share
from trapgate.fuse.writing import Writing

PAGE = 4096
BACKGROUND, JAM = 64, 48  # requests that nobody waits for
CHANGING = frozenset(
    (
        *(
            Operation.SETATTR,
            Operation.SYMLINK,
            Operation.MKNOD,
            Operation.MKDIR,
            Operation.UNLINK,
            Operation.RMDIR,
            Operation.RENAME,
        ),
        *(Operation.LINK, Operation.WRITE, Operation.CREATE, Operation.FALLOCATE, Operation.RENAME2, Operation.COPY_FILE_RANGE),
        *(Operation.TMPFILE, Operation.SETXATTR, Operation.REMOVEXATTR),
    )
)
"""Operations that a share which is only read answers with EROFS."""
OFFERED = (
    Feature.ASYNC_READ
    | Feature.BIG_WRITES
    | Feature.AUTO_INVAL_DATA
    | Feature.DO_READDIRPLUS
    | Feature.READDIRPLUS_AUTO
    | Feature.ASYNC_DIO
    | Feature.PARALLEL_DIROPS
    | Feature.MAX_PAGES
    | Feature.CACHE_SYMLINKS
)


def offered(share: Share) -> Feature:
    """The features that a guest of a share may take."""
    directories = Feature(0) if share.writable else Feature.NO_OPENDIR_SUPPORT
    return OFFERED | directories | (Feature.NO_OPEN_SUPPORT if share.lasting else Feature(0))


class Session:
    """Answers to a guest's requests. `started` says whether it has the share mounted."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self.started = False
        self._begin()

    def _begin(self) -> None:
        self.nodes = Nodes(self._share)
        self.handles = Handles(self.nodes, self._share.descriptors // 2)
        reading = Reading(self._share, self.nodes, self.handles)
        self._table: Table = {
            Operation.INIT: (protocol.INIT, self._init),
            Operation.DESTROY: (protocol.NOTHING, self._destroy),
            **reading.table(),
        }
        if self._share.writable:
            self._table.update(Writing(self._share, self.nodes, self.handles, reading).table())

    def end(self) -> None:
        """Forget all that the guest has looked up and opened."""
        self.handles.clear()
        self.nodes.clear()
        self.started = False
        self._begin()

    def close(self) -> None:
        """As `end`, for good."""
        self.handles.clear()
        self.nodes.clear()

    def answer(self, message: bytes, buffers: Buffers) -> tuple[bytes, int]:
        """The answer to a request, empty where it has none; and how many bytes behind it are in the buffers already.

        `message` is all of the request but a WRITE's data.
        """
        _, operation, unique, number, uid, gid, *_ = protocol.HEADER.unpack_from(message)
        if operation in (Operation.FORGET, Operation.BATCH_FORGET, Operation.INTERRUPT):
            self._forget(operation, number, message[protocol.HEADER.size :])
            return b"", 0
        try:
            found = self._do(operation, message, number, uid, gid, buffers)
        except (OSError, OverflowError, MemoryError) as error:
            return protocol.ANSWER.pack(protocol.ANSWER.size, -_errno(error), unique), 0
        data, filled = (b"", found) if isinstance(found, int) else (found, 0)
        return protocol.ANSWER.pack(protocol.ANSWER.size + len(data) + filled, 0, unique) + data, filled

    def _do(self, operation: int, message: bytes, number: int, uid: int, gid: int, buffers: Buffers) -> Answer:
        fields, do = self._table.get(operation, (None, None))
        if fields is None or do is None:
            raise failure(errno.EROFS if operation in CHANGING and not self._share.writable else errno.ENOSYS)
        if not self.started and operation != Operation.INIT:
            raise failure(errno.EIO)
        rest = protocol.HEADER.size + fields.size
        if len(message) < rest:
            raise failure(errno.EINVAL)
        request = Request(number, uid, gid, message[rest:], buffers)
        found: Answer = do(request, *fields.unpack_from(message, protocol.HEADER.size))
        return found

    def _forget(self, operation: int, number: int, body: bytes) -> None:
        """Nobody is told what is wrong with these."""
        if operation == Operation.FORGET and len(body) >= protocol.FORGET.size:
            self.nodes.forget(number, *protocol.FORGET.unpack_from(body))
        elif operation == Operation.BATCH_FORGET and len(body) >= protocol.BATCH_FORGET.size:
            count, _ = protocol.BATCH_FORGET.unpack_from(body)
            size = protocol.FORGET_ONE.size
            there = (len(body) - protocol.BATCH_FORGET.size) // size
            for at in range(min(count, there)):
                self.nodes.forget(*protocol.FORGET_ONE.unpack_from(body, protocol.BATCH_FORGET.size + at * size))

    def _init(self, request: Request, major: int, minor: int, readahead: int, features: int) -> Answer:
        if major < protocol.MAJOR or (major == protocol.MAJOR and minor < protocol.OLDEST):
            raise failure(errno.EPROTO)
        taken = Feature(0)
        if major == protocol.MAJOR:  # a newer one looks at our version and asks again
            self.end()
            self.started = True
            taken = offered(self._share) & features
        version, longest = (protocol.MAJOR, protocol.MINOR), protocol.LONGEST
        return protocol.INIT_ANSWER.pack(*version, readahead, taken, BACKGROUND, JAM, longest, 1, longest // PAGE, 0, 0)

    def _destroy(self, request: Request) -> Answer:
        self.end()
        return b""


def _errno(error: OSError | OverflowError | MemoryError) -> int:
    """What the guest is told of an error."""
    match error:
        case OverflowError():  # a number that no call of the host takes
            return errno.EINVAL
        case MemoryError():
            return errno.ENOMEM
        case OSError(errno=errno.EMFILE):  # of this process, not of the guest's
            return errno.ENFILE
    return error.errno or errno.EIO
