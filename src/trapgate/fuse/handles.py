"""What a guest has open: descriptors of files, and lists of what is in directories, so many at most."""

import errno
import os
import stat

from trapgate.fuse.nodes import Node, Nodes, failure
from trapgate.fuse.share import path_of

MOST_LISTED = 1 << 22  # names in all lists
LISTS = 64  # of directories that the guest reads without opening them
Name = tuple[bytes, int, int]  # name, inode number, mode as far as it tells the kind (0: not known)


class Listing:
    """What was in a directory when it was read from its begin."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.names: list[Name] = []


class Handles:
    """Files and directories by the handles that the guest has of them. Methods raise OSError: EBADF, ENFILE."""

    def __init__(self, nodes: Nodes, most: int) -> None:
        self._nodes, self._most = nodes, most
        self._next = 1
        self._files: dict[int, int] = {}
        self._lists: dict[int, Listing] = {}
        self._unopened: dict[Node, Listing] = {}
        self._listed = 0

    def clear(self) -> None:
        """Close all."""
        for handle in list(self._files):
            self.close(handle)
        self._lists.clear()
        self._unopened.clear()
        self._listed = 0

    def __len__(self) -> int:
        return len(self._files) + len(self._lists)

    def check(self) -> None:
        """ENFILE: the guest has as much open as it can."""
        if len(self) >= self._most:
            raise failure(errno.ENFILE)

    def _number(self) -> int:
        self._next += 1
        return self._next - 1

    def add(self, descriptor: int) -> int:
        """A handle of a file, to which the descriptor belongs from now on."""
        if len(self) >= self._most:
            os.close(descriptor)
            raise failure(errno.ENFILE)
        handle = self._number()
        self._files[handle] = descriptor
        return handle

    def open_directory(self, node: Node) -> int:
        """A handle of a directory."""
        self.check()
        handle = self._number()
        self._lists[handle] = Listing(node)
        return handle

    def file(self, handle: int) -> int:
        """The descriptor of a file."""
        try:
            return self._files[handle]
        except KeyError:
            raise failure(errno.EBADF) from None

    def close(self, handle: int) -> None:
        """Forget a handle."""
        if handle in self._files:
            os.close(self._files.pop(handle))
        elif handle in self._lists:
            self._listed -= len(self._lists.pop(handle).names)
        else:
            raise failure(errno.EBADF)

    # Directories

    def names(self, handle: int, offset: int) -> list[Name]:
        """What is in a directory that is open; it is read anew where the guest begins."""
        listing = self._lists.get(handle)
        if listing is None:
            raise failure(errno.EBADF)
        return self._read(listing, offset)

    def names_unopened(self, node: Node, offset: int) -> list[Name]:
        """What is in a directory that the guest reads without having opened it."""
        listing = self._unopened.pop(node, None) or Listing(node)
        self._unopened[node] = listing
        if len(self._unopened) > LISTS:
            self._forget_one()
        return self._read(listing, offset)

    def _forget_one(self) -> None:
        self._listed -= len(self._unopened.pop(next(iter(self._unopened))).names)

    def _read(self, listing: Listing, offset: int) -> list[Name]:
        if offset == 0 or not listing.names:
            names = self._names(listing.node)
            more = len(names) - len(listing.names)
            while self._listed + more > MOST_LISTED and len(self._unopened) > 1:
                self._forget_one()
            if self._listed + more > MOST_LISTED:
                raise failure(errno.ENOMEM)
            self._listed += more
            listing.names = names
        return listing.names

    def _names(self, node: Node) -> list[Name]:
        parent = node.parent or node
        found = [(b".", node.identity[1], stat.S_IFDIR), (b"..", parent.identity[1], stat.S_IFDIR)]
        if node.closed:
            return found
        with os.scandir(path_of(self._nodes.directory(node)).encode()) as entries:
            found += [(one.name, one.inode(), _kind(one)) for one in entries]
        return found


def _kind(entry: "os.DirEntry[bytes]") -> int:
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    return stat.S_IFLNK if entry.is_symlink() else 0
