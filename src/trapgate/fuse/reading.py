"""What a guest may ask of every share: names, attributes, and what is in files and directories."""

import errno
import os
import stat
from contextlib import AbstractContextManager
from struct import Struct
from typing import Any, Protocol

from trapgate.fuse import protocol
from trapgate.fuse.handles import Handles, Name
from trapgate.fuse.nodes import Node, Nodes, failure
from trapgate.fuse.protocol import OpenFlag, Operation
from trapgate.fuse.share import Share, path_of
from trapgate.values import dataclass

FOR_EVER = 10 * 365 * 86400  # s
LONG, SHORT = 60, 1  # s that names and attributes are believed: of a share that only the host changes, and of one that both do
LONGEST_NAME = 255
INODES = (1 << 62) - 1  # numbers of inodes; the bits above are for an overlay to tell layers apart by (Linux, overlayfs.rst, xino)
_SEEKS = (os.SEEK_DATA, os.SEEK_HOLE)


class Buffers(Protocol):
    """Where a request's data is, and where that of its answer goes: no more pieces than one call of the host takes (IOV_MAX)."""

    room: int
    """Bytes for an answer, behind its ANSWER."""

    def fill(self, length: int) -> AbstractContextManager[list[memoryview]]:
        """The first bytes of that room, as far as it goes."""
        ...

    def look(self, offset: int, length: int) -> AbstractContextManager[list[memoryview]]:
        """Bytes of the request, as far as it goes."""
        ...


@dataclass(slots=True)
class Request:
    """Whose request it is, about which node, and what follows its fields."""

    number: int
    uid: int
    gid: int
    rest: bytes
    buffers: Buffers


Answer = bytes | int
"""What an operation brings, or how many bytes of it are where they belong already."""
Table = dict[int, tuple[Struct, Any]]
"""The fields of an operation, and what does it: called with its Request and the fields, it returns an Answer or raises OSError."""


class Reading:
    """Operations that change nothing. Where a share is read, directories come without handles; where it lasts, files as well."""

    def __init__(self, share: Share, nodes: Nodes, handles: Handles) -> None:
        self.share, self.nodes, self.handles = share, nodes, handles
        self.validity = FOR_EVER if share.lasting else SHORT if share.writable else LONG
        self._devices: dict[int, int] = {}

    def table(self) -> Table:
        """All of them."""
        return {
            Operation.LOOKUP: (protocol.NOTHING, self._lookup),
            Operation.GETATTR: (protocol.GETATTR, self._getattr),
            Operation.READLINK: (protocol.NOTHING, self._readlink),
            Operation.OPEN: (protocol.OPEN, self._open),
            Operation.READ: (protocol.READ, self._read),
            Operation.STATFS: (protocol.NOTHING, self._statfs),
            Operation.RELEASE: (protocol.RELEASE, self._release),
            Operation.OPENDIR: (protocol.OPEN, self._opendir),
            Operation.READDIR: (protocol.READ, self._readdir),
            Operation.READDIRPLUS: (protocol.READ, self._readdirplus),
            Operation.RELEASEDIR: (protocol.RELEASE, self._release),
            Operation.FSYNC: (protocol.FSYNC, self._fsync),
            Operation.FSYNCDIR: (protocol.FSYNC, self._fsync),
            Operation.ACCESS: (protocol.ACCESS, self._access),
            Operation.LSEEK: (protocol.LSEEK, self._lseek),
        }

    # What others ask for

    def entry(self, node: Node, status: os.stat_result) -> bytes:
        """A node as the answer to its lookup."""
        valid = self.validity
        return protocol.ENTRY.pack(node.number, 0, valid, valid, 0, 0, *protocol.attributes_of(status, self.inode(status)))

    def attributes(self, status: os.stat_result) -> bytes:
        """The attributes of a file."""
        return protocol.ATTRIBUTES.pack(self.validity, 0, *protocol.attributes_of(status, self.inode(status)))

    def inode(self, status: os.stat_result) -> int:
        """What the guest sees as an inode's number: other file systems below the share have others."""
        return status.st_ino + (self._devices.setdefault(status.st_dev, len(self._devices)) << 48) & INODES

    def file(self, request: Request, handle: int) -> int:
        """The descriptor of a file to read."""
        return self.nodes.recent_file(self.nodes[request.number]) if self.share.lasting else self.handles.file(handle)

    # Names and attributes

    def _lookup(self, request: Request) -> Answer:
        parent, name = self.nodes[request.number], one_name(request.rest)
        try:
            if parent.closed:
                raise failure(errno.ENOENT)
            status = os.stat(name, dir_fd=self.nodes.directory(parent), follow_symlinks=False)
        except FileNotFoundError:
            return protocol.ENTRY.pack(0, 0, self.validity, *bytes(19))  # that it is not there, for as long
        return self.entry(self.nodes.found(parent, name, status), status)

    def _getattr(self, request: Request, flags: int, _: int, handle: int) -> Answer:
        if flags & protocol.GETATTR_HANDLE and not self.share.lasting:
            return self.attributes(os.fstat(self.handles.file(handle)))
        return self.attributes(self.nodes.status(self.nodes[request.number]))

    def _readlink(self, request: Request) -> Answer:
        node = self.nodes[request.number]
        if node.kind != stat.S_IFLNK:
            raise failure(errno.EINVAL)
        with self.nodes.opened(node) as link:
            return os.readlink(b"", dir_fd=link)

    def _access(self, request: Request, mask: int, _: int) -> Answer:
        if mask & os.W_OK and not self.share.writable:
            raise failure(errno.EROFS)
        with self.nodes.opened(self.nodes[request.number]) as file:
            if not os.access(path_of(file), mask & (os.R_OK | os.W_OK | os.X_OK)):
                raise failure(errno.EACCES)
        return b""

    def _statfs(self, request: Request) -> Answer:
        with self.nodes.opened(self.nodes[request.number]) as file:
            found = os.statvfs(file)
        sizes = found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree
        return protocol.STATFS_ANSWER.pack(*sizes, found.f_bsize & protocol.U32, found.f_namemax, found.f_frsize & protocol.U32)

    # Files

    def _open(self, request: Request, flags: int, _: int) -> Answer:
        mode = flags & os.O_ACCMODE
        if not self.share.writable and mode != os.O_RDONLY:
            raise failure(errno.EROFS)
        if self.share.lasting:
            raise failure(errno.ENOSYS)  # so that no file has to be opened
        self.handles.check()
        handle = self.handles.add(self.nodes.file(self.nodes[request.number], mode))
        return protocol.OPEN_ANSWER.pack(handle, OpenFlag.NONE if self.share.writable else OpenFlag.KEEP_CACHE, 0)

    def _read(self, request: Request, handle: int, offset: int, size: int, *_: int) -> Answer:
        descriptor = self.file(request, handle)
        with request.buffers.fill(min(size, protocol.LONGEST)) as places:
            return os.preadv(descriptor, places, offset) if places else 0

    def _lseek(self, request: Request, handle: int, offset: int, whence: int, _: int) -> Answer:
        if whence not in _SEEKS:
            raise failure(errno.EINVAL)
        return protocol.LSEEK_ANSWER.pack(os.lseek(self.file(request, handle), offset, whence))

    def _release(self, request: Request, handle: int, *_: int) -> Answer:
        self.handles.close(handle)
        return b""

    def _fsync(self, request: Request, *_: int) -> Answer:
        return b""  # nothing was written

    # Directories

    def _opendir(self, request: Request, *_: int) -> Answer:
        if not self.share.writable:
            raise failure(errno.ENOSYS)  # so that no directory has to be opened
        node = self.nodes[request.number]
        if not node.closed:
            self.nodes.directory(node)
        return protocol.OPEN_ANSWER.pack(self.handles.open_directory(node), OpenFlag.NONE, 0)

    def _names(self, request: Request, handle: int, offset: int) -> tuple[Node, list[Name]]:
        node = self.nodes[request.number]
        return node, self.handles.names(handle, offset) if self.share.writable else self.handles.names_unopened(node, offset)

    def _readdir(self, request: Request, handle: int, offset: int, size: int, *_: int) -> Answer:
        names = self._names(request, handle, offset)[1]
        room, answer = min(size, request.buffers.room, protocol.LONGEST), bytearray()
        for at in range(offset, len(names)):
            name, number, kind = names[at]
            if len(answer) + protocol.dirent_size(name) > room:
                break
            answer += protocol.dirent(number, at + 1, kind, name)
        return bytes(answer)

    def _readdirplus(self, request: Request, handle: int, offset: int, size: int, *_: int) -> Answer:
        node, names = self._names(request, handle, offset)
        room, answer = min(size, request.buffers.room, protocol.LONGEST), bytearray()
        for at in range(offset, len(names)):
            name, number, kind = names[at]
            if len(answer) + protocol.ENTRY.size + protocol.dirent_size(name) > room:
                break
            entry, mode = self._looked_up(node, name) or (bytes(protocol.ENTRY.size), kind)
            answer += entry + protocol.dirent(number, at + 1, mode, name)
        return bytes(answer)

    def _looked_up(self, parent: Node, name: bytes) -> tuple[bytes, int] | None:
        """An entry and its mode; None where the guest has to look it up itself if it wants to."""
        if name in (b".", b".."):
            return None
        try:
            status = os.stat(name, dir_fd=self.nodes.directory(parent), follow_symlinks=False)
            return self.entry(self.nodes.found(parent, name, status), status), status.st_mode
        except OSError:
            return None


def names(rest: bytes, count: int) -> list[bytes]:
    """So many names, each with a zero behind it. EINVAL: they are not there, or one would lead elsewhere. ENAMETOOLONG."""
    found = rest.split(b"\0")
    if len(found) != count + 1 or found.pop():
        raise failure(errno.EINVAL)
    for name in found:
        if name in (b"", b".", b"..") or b"/" in name:
            raise failure(errno.EINVAL)
        if len(name) > LONGEST_NAME:
            raise failure(errno.ENAMETOOLONG)
    return found


def one_name(rest: bytes) -> bytes:
    """The one name that a request ends with. As `names`."""
    return names(rest, 1)[0]
