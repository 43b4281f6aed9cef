"""Packs the cpio "newc" archive that Linux unpacks as its initramfs: directories, files, symbolic links and device nodes."""

import stat

from trapgate.values import dataclass

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Node:
    """One archive member: path without a leading slash, mode with the file type in it, contents (of a link: its target).

    `owner` is user and group.
    """

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)
    owner: tuple[int, int] = (0, 0)


def directory(path: str) -> Node:
    """A directory, rwxr-xr-x."""
    return Node(path, stat.S_IFDIR | 0o755)


def program(path: str, data: bytes) -> Node:
    """An executable file."""
    return Node(path, stat.S_IFREG | 0o755, data)


def file(path: str, data: bytes) -> Node:
    """A file, rw-r--r--."""
    return Node(path, stat.S_IFREG | 0o644, data)


def link(path: str, target: str) -> Node:
    """A symbolic link."""
    return Node(path, stat.S_IFLNK | 0o777, target.encode())


def character_device(path: str, major: int, minor: int) -> Node:
    """A character device node, rw-------."""
    return Node(path, stat.S_IFCHR | 0o600, device=(major, minor))


def archive(nodes: list[Node]) -> bytes:
    """The members as one archive. Times and inode numbers are fixed, so that equal members give equal bytes."""
    parts = [_member(number, node) for number, node in enumerate(nodes, start=1)]
    return b"".join(parts) + _member(0, Node(_TRAILER, 0))


def _member(inode: int, node: Node) -> bytes:
    """13 hexadecimal fields, the name and the data, each padded to 4 bytes (Linux, early-userspace/buffer-format)."""
    name = node.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(node.mode) else 1
    fields = (inode, node.mode, *node.owner, links, 0, len(node.data), 0, 0, *node.device, len(name), 0)
    header = _MAGIC + b"".join(b"%08X" % field for field in fields) + name
    return _padded(header) + _padded(node.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
