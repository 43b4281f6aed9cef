"""Answers file packets: a debugger may open one file, which is none of the host's but made of the guest's names (`Target.names`).

Replies and numbers are those of gdb's File-I/O protocol (gdb manual, Host I/O Packets and Protocol-specific Representation).
"""

import struct

from trapgate.gdb.context import Context, data_of_hex, number, numbers, split
from trapgate.gdb.framing import PAYLOAD_SIZE
from trapgate.gdb.names import FILE
from trapgate.gdb.target import TargetError

NOT_FOUND, BAD_DESCRIPTOR, TOO_MANY = 2, 9, 24  # ENOENT, EBADF, EMFILE
MOST_OPEN = 16
_PATIENCE = 0.6  # s of looking for names: what follows takes as long again
_LONGEST_READ = PAYLOAD_SIZE // 2 - 32  # every byte may need an escape; and the words in front
_STAT = struct.Struct(">7I3Q3I")
_REGULAR, _READABLE = 0o100000, 0o444
_BLOCK = 512


def executable(context: Context, annex: str) -> bytes | None:
    """The path of what the guest runs: debuggers that have no file open it.

    They ask as they connect, and wait two seconds: on a host that is too busy for that, the user asks for the file by its name.
    """
    try:
        context.target.names(within=_PATIENCE)
    except TargetError:
        return None
    return FILE.encode()


def file_system(context: Context, arguments: bytes) -> bytes:
    """vFile:setfs: whose files they are makes no difference."""
    return b"F0"


def parse_open(text: bytes) -> str:
    """Name, flags, mode: of which the name counts, as the only file can only be read."""
    name, _, _ = split(text, b",", b",")
    return data_of_hex(name).decode("utf-8", "replace")


def open_file(context: Context, name: str) -> bytes:
    """vFile:open."""
    if name != FILE:
        return _failed(NOT_FOUND)
    if len(context.opened) >= MOST_OPEN:
        return _failed(TOO_MANY)
    try:
        data = context.target.names().file()
    except TargetError:
        return _failed(NOT_FOUND)
    descriptor = next(free for free in range(MOST_OPEN) if free not in context.opened)
    context.opened[descriptor] = data
    return b"F%x" % descriptor


parse_read = numbers(b",", b",")


def read_file(context: Context, arguments: list[int]) -> bytes:
    """vFile:pread descriptor, count, offset."""
    descriptor, count, offset = arguments
    data = context.opened.get(descriptor)
    if data is None:
        return _failed(BAD_DESCRIPTOR)
    piece = data[offset : offset + min(count, _LONGEST_READ)]
    return b"F%x;" % len(piece) + piece


def file_status(context: Context, descriptor: int) -> bytes:
    """vFile:fstat."""
    data = context.opened.get(descriptor)
    return _failed(BAD_DESCRIPTOR) if data is None else _status(data)


def parse_path(text: bytes) -> str:
    """A file's name."""
    return data_of_hex(text).decode("utf-8", "replace")


def path_status(context: Context, name: str) -> bytes:
    """vFile:stat, by name."""
    try:
        return _status(context.target.names().file()) if name == FILE else _failed(NOT_FOUND)
    except TargetError:
        return _failed(NOT_FOUND)


def close_file(context: Context, descriptor: int) -> bytes:
    """vFile:close."""
    return _failed(BAD_DESCRIPTOR) if context.opened.pop(descriptor, None) is None else b"F0"


parse_descriptor = number


def _status(data: bytes) -> bytes:
    blocks = -(-len(data) // _BLOCK)
    stat = _STAT.pack(0, 0, _REGULAR | _READABLE, 1, 0, 0, 0, len(data), _BLOCK, blocks, 0, 0, 0)
    return b"F%x;" % len(stat) + stat


def _failed(errno: int) -> bytes:
    return b"F-1,%x" % errno
