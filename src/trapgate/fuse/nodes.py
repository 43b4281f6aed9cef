"""Files that a guest has looked up: by number, found again by directory and name, so that they take no descriptors.

A name is one component, and directories are opened one by one, no link followed: nothing outside the share is ever reached. What
the host has put in a file's place meanwhile is not it: ESTALE, at which Linux looks its name up again. All methods raise OSError.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from trapgate.fuse.protocol import ROOT
from trapgate.fuse.share import Share, path_of

DEEPEST = 2048  # directories in each other: what the longest path has room for
MOST = 1 << 22  # nodes that a guest may have looked up: a host with more files than that has no end of them
CACHED = 256  # directories and files at most that are kept open
NODE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_OPENED = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def failure(number: int) -> OSError:
    """The errno that a guest's call fails with."""
    return OSError(number, os.strerror(number))


class Node:
    """What a guest has looked up: where it was found last, which file it is (st_dev, st_ino), of which kind (S_IFMT).

    `key` is what it is known by; `closed` says that it is of a file system that guests find empty.
    """

    __slots__ = ("closed", "identity", "key", "kind", "lookups", "name", "number", "parent")

    def __init__(self, number: int, parent: "Node | None", name: bytes, status: os.stat_result) -> None:
        self.number, self.parent, self.name = number, parent, name
        self.identity = status.st_dev, status.st_ino
        self.kind = stat.S_IFMT(status.st_mode)
        self.key: tuple[object, ...] = self.identity
        self.closed, self.lookups = False, 0

    def is_at(self, parent: "Node", name: bytes) -> bool:
        """Whether it was found last by this name."""
        return self.parent is parent and self.name == name


class Recent:
    """Descriptors of the nodes that were used last, so many at most."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._descriptors: dict[Node, int] = {}

    def get(self, node: Node) -> int | None:
        """The descriptor of a node, if there is one."""
        descriptor = self._descriptors.pop(node, None)
        if descriptor is not None:
            self._descriptors[node] = descriptor
        return descriptor

    def put(self, node: Node, descriptor: int) -> None:
        """Keep one. The one that was not used for longest is closed, if they are too many."""
        self.drop(node)
        if len(self._descriptors) >= self._most:
            self.drop(next(iter(self._descriptors)))
        self._descriptors[node] = descriptor

    def drop(self, node: Node) -> None:
        """Close the descriptor of a node, if there is one."""
        descriptor = self._descriptors.pop(node, None)
        if descriptor is not None:
            os.close(descriptor)

    def clear(self) -> None:
        """Close all."""
        for node in list(self._descriptors):
            self.drop(node)


class Nodes:
    """All nodes of a guest, the root among them, which is never forgotten."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self._next = ROOT
        self._known: dict[tuple[object, ...], Node] = {}
        self._numbered: dict[int, Node] = {}
        most = max(share.descriptors // 8, 2)
        self._directories, self._files = Recent(min(most, CACHED)), Recent(min(most, CACHED))
        self._held = Recent(most)  # what has no name any more
        self._closed: dict[int, bool] = {}
        self.root = self._new(None, b"", os.fstat(share.root))

    def clear(self) -> None:
        """Close all descriptors; the nodes are of no use any more."""
        self._directories.clear()
        self._files.clear()
        self._held.clear()

    def __len__(self) -> int:
        return len(self._numbered)

    def __getitem__(self, number: int) -> Node:
        """A node by its number. ESTALE: the guest has not looked it up."""
        try:
            return self._numbered[number]
        except KeyError:
            raise failure(errno.ESTALE) from None

    # Lookups

    def _new(self, parent: Node | None, name: bytes, status: os.stat_result, *more: object) -> Node:
        if len(self._numbered) >= MOST:
            raise failure(errno.ENFILE)
        node = Node(self._next, parent, name, status)
        if more:
            node.key = *node.identity, *more
        node.closed = self._is_closed(parent, node)
        self._next += 1
        self._known[node.key] = self._numbered[node.number] = node
        return node

    def _is_closed(self, parent: Node | None, node: Node) -> bool:
        device = node.identity[0]
        if parent is None or parent.identity[0] == device:
            return parent is not None and parent.closed
        if node.kind == stat.S_IFDIR or device not in self._closed:  # of files overlayfs says other devices than of directories
            self._closed[device] = self._share.made_up(device)
        return self._closed[device]

    def found(self, parent: Node, name: bytes, status: os.stat_result) -> Node:
        """What the guest has looked up by this name, which counts as one lookup."""
        node = self._known.get((status.st_dev, status.st_ino))
        if node is None or node.kind != stat.S_IFMT(status.st_mode):  # the latter: the number of another file that was removed
            node = self._new(parent, name, status)
        elif not node.is_at(parent, name):
            node = self._elsewhere(node, parent, name, status)
        node.lookups += 1
        return node

    @contextmanager
    def finding(self, parent: Node, name: bytes, status: os.stat_result) -> Iterator[Node]:
        """As `found`, but for a guest that hears of it only if nothing fails."""
        node = self.found(parent, name, status)
        try:
            yield node
        except BaseException:
            self.forget(node.number, 1)
            raise

    def _elsewhere(self, node: Node, parent: Node, name: bytes, status: os.stat_result) -> Node:
        """A known file by another name: a link, or it was renamed; a directory that is in two places is two."""
        if node.kind == stat.S_IFDIR and self._is_there(node):
            other = self._known.get((*node.identity, parent.number, name))
            if other is None or not other.is_at(parent, name):
                other = self._new(parent, name, status, parent.number, name)
            return other
        self.moved(node, parent, name)
        return node

    def _is_there(self, node: Node) -> bool:
        try:
            self.status(node)
        except OSError:
            return False
        return True

    def forget(self, number: int, lookups: int) -> None:
        """The guest forgets so many lookups of a node."""
        node = self._numbered.get(number)
        if node is None or node is self.root:
            return
        node.lookups -= lookups
        if node.lookups <= 0:
            del self._numbered[number]
            if self._known.get(node.key) is node:
                del self._known[node.key]
            self._directories.drop(node)
            self._files.drop(node)
            self._held.drop(node)

    # Names that the guest changes

    def at(self, parent: Node, name: bytes) -> Node | None:
        """The node that is known by a name, if what has the name now is known by it."""
        status = os.stat(name, dir_fd=self.directory(parent), follow_symlinks=False)
        node = self._known.get((status.st_dev, status.st_ino))
        return node if node is not None and node.is_at(parent, name) else None

    def moved(self, node: Node, parent: Node, name: bytes) -> None:
        """It is found by another name from now on."""
        node.parent, node.name = parent, name
        self._held.drop(node)

    @contextmanager
    def losing(self, node: Node | None) -> Iterator[None]:
        """Something is done that takes the name from a node: a descriptor keeps it, if that succeeds."""
        if node is None:
            yield
            return
        descriptor = self._open(node)
        try:
            yield
        except BaseException:
            os.close(descriptor)
            raise
        node.parent = None
        self._held.put(node, descriptor)

    def nameless(self, descriptor: int) -> Node:
        """A file that is made without a name, by a descriptor of it, which is kept; counts as one lookup."""
        node = self._new(None, b"", os.fstat(descriptor))
        node.lookups = 1
        self._held.put(node, descriptor)
        return node

    # What a node leads to

    def _kept(self, node: Node) -> int | None:
        """A descriptor of a directory, of O_PATH, that is open already."""
        if node is self.root:
            return self._share.root
        kept = self._directories.get(node)
        return kept if kept is not None else self._held.get(node)

    def directory(self, node: Node) -> int:
        """A descriptor of a directory, of O_PATH, until the next call. ENOTDIR; EACCES: guests find it empty."""
        if node.kind != stat.S_IFDIR:
            raise failure(errno.ENOTDIR)
        if node.closed:
            raise failure(errno.EACCES)
        descriptor = self._kept(node)
        if descriptor is not None:
            return descriptor
        way = [node]
        while (descriptor := self._kept(_parent(way[-1]))) is None:
            if len(way) >= DEEPEST:
                raise failure(errno.ESTALE)  # or they are in each other, which only names that are no more can be
            way.append(_parent(way[-1]))
        for one in reversed(way):
            descriptor = _opened(one, descriptor)
            self._directories.put(one, descriptor)
        return descriptor

    def _open(self, node: Node) -> int:
        kept = self._kept(node)
        if kept is not None:
            return os.dup(kept)
        return _opened(node, self.directory(_parent(node)))

    @contextmanager
    def opened(self, node: Node) -> Iterator[int]:
        """A descriptor of it, of O_PATH."""
        descriptor = self._open(node)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def status(self, node: Node) -> os.stat_result:
        """What the host knows of it now."""
        kept = self._kept(node)
        if kept is not None:
            return os.fstat(kept)
        directory = self.directory(_parent(node))
        with _there():
            return _checked(node, os.stat(node.name, dir_fd=directory, follow_symlinks=False))

    def file(self, node: Node, flags: int) -> int:
        """A new descriptor of a file, opened with flags of open(2). EACCES: it is no regular one, which is never opened."""
        if node.kind != stat.S_IFREG or node.closed:
            raise failure(errno.EISDIR if node.kind == stat.S_IFDIR else errno.EACCES)
        with self.opened(node) as place:
            return os.open(path_of(place), flags | _OPENED)

    def recent_file(self, node: Node) -> int:
        """A descriptor of a file to read, until the next call."""
        descriptor = self._files.get(node)
        if descriptor is None:
            descriptor = self.file(node, os.O_RDONLY)
            self._files.put(node, descriptor)
        return descriptor


def _parent(node: Node) -> Node:
    if node.parent is None:
        raise failure(errno.ESTALE)
    return node.parent


@contextmanager
def _there() -> Iterator[None]:
    """What a node was found by is asked for: ESTALE where it is no more."""
    try:
        yield
    except FileNotFoundError:
        raise failure(errno.ESTALE) from None


def _checked(node: Node, status: os.stat_result) -> os.stat_result:
    """What is known of a node's file, if it is that one. ESTALE."""
    if (status.st_dev, status.st_ino) != node.identity or stat.S_IFMT(status.st_mode) != node.kind:
        raise failure(errno.ESTALE)
    return status


def _opened(node: Node, directory: int) -> int:
    """A descriptor of a node, of O_PATH, which is in a directory. ESTALE."""
    with _there():
        descriptor = os.open(node.name, NODE, dir_fd=directory)
    try:
        _checked(node, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
