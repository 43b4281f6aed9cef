"""Says which files a process may still open, by Linux's Landlock. Source: Linux, Documentation/userspace-api/landlock.rst.

A rule set holds for the thread that takes it and for those that it starts, for good.
"""

import errno
import os
import stat
import struct
from collections.abc import Iterable
from enum import IntFlag
from pathlib import Path

from trapgate.sandbox.kernel import call

_VERSION, _PATH_BENEATH = 1, 1


class Right(IntFlag):
    """What can be asked of a file or a directory."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


READ = Right.READ_FILE | Right.READ_DIR
KEEP = READ | Right.WRITE_FILE | Right.MAKE_REG | Right.REMOVE_FILE | Right.TRUNCATE
"""What a directory of files that are read, replaced and removed takes."""
WRITABLE = KEEP | Right.REMOVE_DIR | Right.MAKE_DIR | Right.MAKE_SOCK | Right.MAKE_FIFO | Right.MAKE_SYM | Right.REFER
"""What a directory takes in which a guest may do as it likes, but make devices."""
DEVICE = Right.READ_FILE | Right.WRITE_FILE | Right.IOCTL_DEV
_OF_FILES = Right.EXECUTE | Right.WRITE_FILE | Right.READ_FILE | Right.TRUNCATE | Right.IOCTL_DEV
_SINCE = {Right.REFER: 2, Right.TRUNCATE: 3, Right.IOCTL_DEV: 5}  # ABI; all others: 1
_NET, _NET_SINCE = 0b11, 4  # binding and connecting TCP sockets
_SCOPE, _SCOPE_SINCE = 0b11, 6  # abstract UNIX sockets and signals, beyond the threads that share the rule set


def version() -> int:
    """The ABI of the kernel's Landlock, 1 or above; OSError where there is none (ENOSYS, EOPNOTSUPP) or it is denied (EPERM)."""
    return call("landlock_create_ruleset", 0, 0, _VERSION)


def handled(abi: int) -> Right:
    """The rights that a kernel of this ABI can withhold."""
    return Right(sum(right for right in Right if _SINCE.get(right, 1) <= abi))


def restrict(allowed: Iterable[tuple[Path, Right]]) -> int:
    """From now on this thread opens what is `allowed` below each path, and nothing else; the ABI. OSError where that cannot be had.

    A path may come more than once; those that are not there are left out. TCP connections, signals to other processes and abstract
    UNIX sockets are refused where the kernel knows how.
    """
    abi = version()
    rights = handled(abi)
    net, scope = _NET * (abi >= _NET_SINCE), _SCOPE * (abi >= _SCOPE_SINCE)
    attributes = struct.pack("<QQQ", rights, net, scope)  # an older kernel takes zeros for what it does not know
    ruleset = call("landlock_create_ruleset", attributes, len(attributes), 0)
    try:
        for path, wanted in allowed:
            _allow(ruleset, path, wanted & rights)
        call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)
    return abi


def _allow(ruleset: int, path: Path, rights: Right) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
            return  # then there is nothing to be opened
        raise
    try:
        mine = rights if stat.S_ISDIR(os.fstat(place).st_mode) else rights & _OF_FILES
        call("landlock_add_rule", ruleset, _PATH_BENEATH, struct.pack("<Qi", mine, place), 0)
    finally:
        os.close(place)
