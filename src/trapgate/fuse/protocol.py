"""Declares the messages of FUSE, version 7.38, as a device is sent them and answers. Source: Linux, include/uapi/linux/fuse.h.

A request is HEADER, the fields of its operation, then names or data; an answer is ANSWER and what the operation brings.
"""

import os
import stat
from enum import IntEnum, IntFlag
from struct import Struct
from typing import NamedTuple

MAJOR, MINOR = 7, 38
OLDEST = 31  # minor version of the first Linux with virtio-fs, 5.4
HEADER = Struct("<IIQQIIIHH")  # length, operation, unique, node, uid, gid, pid, extensions, -
ANSWER = Struct("<IiQ")  # length, 0 or an errno below 0, unique
LONGEST = 1 << 20  # bytes of a read, of a write and of a list of names
ROOT = 1  # the node that a share begins with
U32, U64 = (1 << 32) - 1, (1 << 64) - 1
SECOND = 1_000_000_000  # ns


class Operation(IntEnum):
    """What is asked. Those without an answer are FORGET, BATCH_FORGET and INTERRUPT."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    REMOVEXATTR = 24
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    TMPFILE = 51


class Feature(IntFlag):
    """Flags of INIT, of both sides."""

    ASYNC_READ = 1 << 0
    BIG_WRITES = 1 << 5
    AUTO_INVAL_DATA = 1 << 12  # cached data goes when time of change or size are others
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24


INIT = Struct("<IIII")  # major, minor, readahead, features; newer kernels send more
INIT_ANSWER = Struct("<IIIIHHIIHHI28x")
"""major, minor, readahead, features, requests in the background, so many are a jam, longest write, ns that times step by, pages."""
FORGET = Struct("<Q")  # lookups
BATCH_FORGET, FORGET_ONE = Struct("<II"), Struct("<QQ")  # count, -; node, lookups
GETATTR = Struct("<IIQ")  # flags, -, handle
SETATTR = Struct("<I4xQQQQQQIIII4xII4x")
MKNOD = Struct("<IIII")  # mode, device, umask, -
MKDIR = Struct("<II")  # mode, umask
RENAME, RENAME2 = Struct("<Q"), Struct("<QII")  # new directory; flags, -
LINK = Struct("<Q")  # the node that gets another name
OPEN = Struct("<II")  # flags of open(2), others
CREATE = Struct("<IIII")  # flags of open(2), mode, umask, others
OPEN_ANSWER = Struct("<QII")  # handle, OpenFlag, -
RELEASE = Struct("<QIIQ")  # handle, flags, flags of releasing, owner of locks
READ = Struct("<QQIIQII")  # handle, offset, size, flags of reading, owner of locks, flags of the file, -
WRITE, WRITE_ANSWER = READ, Struct("<I4x")  # the same; size
FSYNC = Struct("<QII")  # handle, flags, -
ACCESS = Struct("<II")  # mask, -
FALLOCATE = Struct("<QQQII")  # handle, offset, length, mode, -
LSEEK, LSEEK_ANSWER = Struct("<QQII"), Struct("<Q")  # handle, offset, whence, -; offset
COPY_FILE_RANGE = Struct("<QQQQQQQ")  # handle, offset, other node, other handle, other offset, length, flags
NOTHING = Struct("")
STATFS_ANSWER = Struct("<QQQQQIII4x24x")  # blocks, free, available, files, free ones, size of a block, longest name, fragment
ATTRIBUTES = Struct("<QI4xQQQQQQIIIIIIIIII")  # validity in s and ns, then those of a file
ENTRY = Struct("<QQQQIIQQQQQQIIIIIIIIII")  # node, generation, validity of name and attributes in s, in ns, then those of a file
DIRENT = Struct("<QQII")  # inode number, offset of the next one, length of the name, type; the name comes behind it

GETATTR_HANDLE = 1 << 0  # flag of GETATTR: by handle
FSYNC_DATA = 1 << 0  # flag of FSYNC: fdatasync


class OpenFlag(IntFlag):
    """What becomes of what is cached when a file or directory is opened."""

    NONE = 0
    KEEP_CACHE = 1 << 1


class Change(IntFlag):
    """Which fields of SETATTR count."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    HANDLE = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8


class Changes(NamedTuple):
    """The fields of SETATTR."""

    valid: int
    handle: int
    size: int
    owner: int
    atime: int
    mtime: int
    ctime: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    uid: int
    gid: int


def attributes_of(status: os.stat_result, number: int) -> tuple[int, ...]:
    """The last 16 fields of ATTRIBUTES and ENTRY; `number` is what the guest sees as the inode's."""
    accessed, modified, changed = status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns
    return (
        number,
        status.st_size,
        status.st_blocks,
        accessed // SECOND & U64,
        modified // SECOND & U64,
        changed // SECOND & U64,
        accessed % SECOND,
        modified % SECOND,
        changed % SECOND,
        status.st_mode,
        status.st_nlink & U32,
        status.st_uid,
        status.st_gid,
        status.st_rdev & U32,  # the kernel's encoding, as far as that goes
        status.st_blksize & U32,
        0,
    )


def dirent(number: int, offset: int, kind: int, name: bytes) -> bytes:
    """A name in an answer to READDIR: `kind` as in stat(2), `offset` what the guest asks with for what comes after it."""
    return (DIRENT.pack(number, offset, len(name), stat.S_IFMT(kind) >> 12) + name).ljust(dirent_size(name), b"\0")


def dirent_size(name: bytes) -> int:
    """How much of an answer it takes."""
    return DIRENT.size + len(name) + 7 & ~7
