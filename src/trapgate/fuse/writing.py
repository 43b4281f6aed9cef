"""Answers what a guest may ask of a share that it may change."""

import errno
import os
import stat
import time
from contextlib import ExitStack, suppress

from trapgate.fuse import protocol
from trapgate.fuse.handles import Handles
from trapgate.fuse.nodes import Node, Nodes, failure
from trapgate.fuse.protocol import SECOND, Change, Changes, OpenFlag, Operation
from trapgate.fuse.reading import Answer, Reading, Request, Table, names, one_name
from trapgate.fuse.share import Share, path_of
from trapgate.hostcall import fallocate, renameat2

NO_REPLACE, EXCHANGE = 1 << 0, 1 << 1  # flags of RENAME2, as those of renameat2(2)
KINDS = frozenset((stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK))
"""What MKNOD makes: nothing that leads to a device."""
OTHERS_RIGHTS = stat.S_ISUID | stat.S_ISGID
"""What a guest gives no file: who runs it on the host would have its owner's rights."""
LONGEST_TARGET = 4095  # bytes of a symlink's text
MOST_COPIED = 1 << 26  # bytes at a time
_MADE = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC


class Writing:
    """Operations that change something, in what `reading` reads."""

    def __init__(self, share: Share, nodes: Nodes, handles: Handles, reading: Reading) -> None:
        self._share, self._nodes, self._handles, self._reading = share, nodes, handles, reading
        self._owns = os.geteuid() == 0  # the guest's users own what they make

    def table(self) -> Table:
        """All of them, in front of those that would change nothing."""
        return {
            Operation.SETATTR: (protocol.SETATTR, self._setattr),
            Operation.SYMLINK: (protocol.NOTHING, self._symlink),
            Operation.MKNOD: (protocol.MKNOD, self._mknod),
            Operation.MKDIR: (protocol.MKDIR, self._mkdir),
            Operation.UNLINK: (protocol.NOTHING, self._unlink),
            Operation.RMDIR: (protocol.NOTHING, self._rmdir),
            Operation.RENAME: (protocol.RENAME, self._rename),
            Operation.RENAME2: (protocol.RENAME2, self._rename2),
            Operation.LINK: (protocol.LINK, self._link),
            Operation.WRITE: (protocol.WRITE, self._write),
            Operation.CREATE: (protocol.CREATE, self._create),
            Operation.TMPFILE: (protocol.CREATE, self._tmpfile),
            Operation.FALLOCATE: (protocol.FALLOCATE, self._fallocate),
            Operation.COPY_FILE_RANGE: (protocol.COPY_FILE_RANGE, self._copy_file_range),
            Operation.FSYNC: (protocol.FSYNC, self._fsync),
            Operation.FSYNCDIR: (protocol.FSYNC, self._fsyncdir),
        }

    # What is made

    def _directory(self, request: Request) -> tuple[Node, int]:
        parent = self._nodes[request.number]
        return parent, self._nodes.directory(parent)

    def _symlink(self, request: Request) -> Answer:
        name, zero, target = request.rest.partition(b"\0")
        name = one_name(name + zero)
        if not target.endswith(b"\0") or b"\0" in target[:-1] or len(target) == 1:
            raise failure(errno.EINVAL)
        if len(target) > LONGEST_TARGET + 1:
            raise failure(errno.ENAMETOOLONG)
        parent, directory = self._directory(request)
        os.symlink(target[:-1], name, dir_fd=directory)
        return self._made(request, parent, name)

    def _mknod(self, request: Request, mode: int, *_: int) -> Answer:
        name, kind = one_name(request.rest), stat.S_IFMT(mode) or stat.S_IFREG
        if kind not in KINDS:
            raise failure(errno.EPERM)
        parent, directory = self._directory(request)
        os.mknod(name, kind | _rights(mode), dir_fd=directory)
        return self._made(request, parent, name, mode)

    def _mkdir(self, request: Request, mode: int, _: int) -> Answer:
        name = one_name(request.rest)
        parent, directory = self._directory(request)
        os.mkdir(name, stat.S_IMODE(mode), dir_fd=directory)
        return self._made(request, parent, name, mode)

    def _made(self, request: Request, parent: Node, name: bytes, mode: int | None = None) -> bytes:
        """The entry of what was made; it belongs to who asked for it, and has the mode that was asked for, if the host lets it."""
        with self._nodes.finding(parent, name, self._status(parent, name)) as node, self._nodes.opened(node) as place:
            self._give(request, place, parent, mode)
            return self._reading.entry(node, os.fstat(place))

    def _status(self, parent: Node, name: bytes) -> os.stat_result:
        return os.stat(name, dir_fd=self._nodes.directory(parent), follow_symlinks=False)

    def _give(self, request: Request, place: int, parent: Node, mode: int | None) -> None:
        path = path_of(place)
        inherited = self._nodes.status(parent).st_mode & stat.S_ISGID
        if self._owns:
            with suppress(OSError):
                os.chown(path, request.uid, -1 if inherited else request.gid)
        if mode is not None:
            with suppress(OSError):
                now = os.fstat(place).st_mode
                wanted = _rights(mode, True) | (inherited if stat.S_ISDIR(now) else 0)
                if stat.S_IMODE(now) != wanted:
                    os.chmod(path, wanted)

    def _create(self, request: Request, flags: int, mode: int, *_: int) -> Answer:
        name, access = one_name(request.rest), flags & os.O_ACCMODE
        self._handles.check()
        parent, directory = self._directory(request)
        try:
            descriptor = os.open(name, _MADE | access, _rights(mode), dir_fd=directory)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            with self._nodes.finding(parent, name, self._status(parent, name)) as node:
                descriptor = self._nodes.file(node, access | flags & os.O_TRUNC)
                return self._reading.entry(node, os.fstat(descriptor)) + self._opened(descriptor)
        with ExitStack() as stack:
            stack.callback(os.close, descriptor)
            self._give(request, descriptor, parent, mode)
            status = os.fstat(descriptor)
            node = self._nodes.found(parent, name, status)
            stack.pop_all()
        return self._reading.entry(node, status) + self._opened(descriptor)

    def _opened(self, descriptor: int) -> bytes:
        return protocol.OPEN_ANSWER.pack(self._handles.add(descriptor), OpenFlag.NONE, 0)

    def _tmpfile(self, request: Request, flags: int, mode: int, *_: int) -> Answer:
        self._handles.check()
        parent, directory = self._directory(request)
        access = flags & os.O_ACCMODE
        descriptor = os.open(".", os.O_TMPFILE | access | os.O_CLOEXEC | flags & os.O_EXCL, _rights(mode), dir_fd=directory)
        with ExitStack() as stack:
            stack.callback(os.close, descriptor)
            self._give(request, descriptor, parent, mode)
            node = self._nodes.nameless(os.dup(descriptor))
            stack.pop_all()
        return self._reading.entry(node, os.fstat(descriptor)) + self._opened(descriptor)

    def _link(self, request: Request, number: int) -> Answer:
        name, node = one_name(request.rest), self._nodes[number]
        parent = self._nodes[request.number]
        with self._nodes.opened(node) as place:
            os.link(path_of(place), name, dst_dir_fd=self._nodes.directory(parent), follow_symlinks=True)
        status = self._status(parent, name)
        return self._reading.entry(self._nodes.found(parent, name, status), status)

    # What goes, and what gets another name

    def _unlink(self, request: Request) -> Answer:
        name, (parent, _) = one_name(request.rest), self._directory(request)
        with self._nodes.losing(self._nodes.at(parent, name)):
            os.unlink(name, dir_fd=self._nodes.directory(parent))
        return b""

    def _rmdir(self, request: Request) -> Answer:
        name, (parent, _) = one_name(request.rest), self._directory(request)
        with self._nodes.losing(self._nodes.at(parent, name)):
            os.rmdir(name, dir_fd=self._nodes.directory(parent))
        return b""

    def _rename(self, request: Request, number: int) -> Answer:
        return self._rename2(request, number, 0, 0)

    def _rename2(self, request: Request, number: int, flags: int, _: int) -> Answer:
        if flags not in (0, NO_REPLACE, EXCHANGE):
            raise failure(errno.EINVAL)
        (old, new), nodes = names(request.rest, 2), self._nodes
        source, target = nodes[request.number], nodes[number]
        moved, lost = nodes.at(source, old), None
        with suppress(FileNotFoundError):
            lost = nodes.at(target, new)
        with ExitStack() as stack:
            here = os.dup(nodes.directory(source))
            stack.callback(os.close, here)
            if flags != EXCHANGE and lost is not moved:
                stack.enter_context(nodes.losing(lost))
            renameat2(here, old, nodes.directory(target), new, flags)
        if moved is not None:
            nodes.moved(moved, target, new)
        if flags == EXCHANGE and lost is not None:
            nodes.moved(lost, source, old)
        return b""

    # What is in files

    def _write(self, request: Request, handle: int, offset: int, size: int, *_: int) -> Answer:
        descriptor = self._handles.file(handle)
        if size > protocol.LONGEST:
            raise failure(errno.EINVAL)
        with request.buffers.look(protocol.HEADER.size + protocol.WRITE.size, size) as pieces:
            if sum(map(len, pieces)) != size:
                raise failure(errno.EINVAL)
            return protocol.WRITE_ANSWER.pack(os.pwritev(descriptor, pieces, offset) if pieces else 0)

    def _fallocate(self, request: Request, handle: int, offset: int, length: int, mode: int, _: int) -> Answer:
        fallocate(self._handles.file(handle), mode, offset, length)
        return b""

    def _copy_file_range(
        self, request: Request, handle: int, offset: int, number: int, other: int, there: int, length: int, flags: int
    ) -> Answer:
        if flags:
            raise failure(errno.EINVAL)
        source, target = self._handles.file(handle), self._handles.file(other)
        return protocol.WRITE_ANSWER.pack(os.copy_file_range(source, target, min(length, MOST_COPIED), offset, there))

    def _fsync(self, request: Request, handle: int, flags: int, _: int) -> Answer:
        (os.fdatasync if flags & protocol.FSYNC_DATA else os.fsync)(self._handles.file(handle))
        return b""

    def _fsyncdir(self, request: Request, *_: int) -> Answer:
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._directory(request)[1])
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return b""

    # Attributes

    def _setattr(self, request: Request, *fields: int) -> Answer:
        wanted, node = Changes(*fields), self._nodes[request.number]
        if node.closed:
            raise failure(errno.EACCES)
        with self._nodes.opened(node) as place:
            path = path_of(place)
            if wanted.valid & (Change.UID | Change.GID):
                uid, gid = (wanted.uid if wanted.valid & Change.UID else -1), (wanted.gid if wanted.valid & Change.GID else -1)
                os.chown(path, _id(uid), _id(gid))
            if wanted.valid & Change.MODE:
                os.chmod(path, _rights(wanted.mode, node.kind == stat.S_IFDIR))
            if wanted.valid & Change.SIZE:
                self._truncate(node, wanted)
            if wanted.valid & (Change.ATIME | Change.MTIME):
                os.utime(path, ns=_times(wanted, os.fstat(place)))
            return self._reading.attributes(os.fstat(place))

    def _truncate(self, node: Node, wanted: Changes) -> None:
        if wanted.valid & Change.HANDLE:
            os.ftruncate(self._handles.file(wanted.handle), wanted.size)
            return
        descriptor = self._nodes.file(node, os.O_WRONLY)
        try:
            os.ftruncate(descriptor, wanted.size)
        finally:
            os.close(descriptor)


def _rights(mode: int, directory: bool = False) -> int:
    """The permissions in a file's mode, and those of a directory that mean something there. EPERM: more than those."""
    if mode & OTHERS_RIGHTS and not directory:
        raise failure(errno.EPERM)
    return stat.S_IMODE(mode) & ~stat.S_ISUID


def _id(number: int) -> int:
    """A user or group; the highest number means none."""
    return -1 if number == protocol.U32 else number


def _times(wanted: Changes, status: os.stat_result) -> tuple[int, int]:
    """The times that a file is to have, in ns."""
    now = time.time_ns()
    rows = (
        (Change.ATIME, Change.ATIME_NOW, wanted.atime, wanted.atime_ns, status.st_atime_ns),
        (Change.MTIME, Change.MTIME_NOW, wanted.mtime, wanted.mtime_ns, status.st_mtime_ns),
    )
    found = []
    for given, current, seconds, ns, before in rows:
        if wanted.valid & current:
            found.append(now)
        elif wanted.valid & given:
            if ns >= SECOND:
                raise failure(errno.EINVAL)
            found.append((seconds - (seconds >> 63 << 64)) * SECOND + ns)
        else:
            found.append(before)
    return found[0], found[1]
