"""A directory of the host that guests are given: open, with what must not be reached through it."""

import errno
import os
import resource
from pathlib import Path

from trapgate.errors import TrapgateError

TAG_LENGTH = 36  # bytes of a tag (virtio 1.2, 5.11.4)
MADE_UP = frozenset(
    (
        *("proc", "sysfs", "debugfs", "tracefs", "securityfs", "configfs", "cgroup", "cgroup2", "pstore", "bpf", "efivarfs"),
        *("binfmt_misc", "fusectl", "rpc_pipefs", "nfsd", "selinuxfs", "smackfs", "resctrl", "xenfs"),
    )
)
"""File systems whose files are the kernel and its processes, this one's memory among them."""
_ITSELF, _MOUNTS = "/proc/self/fd", "/proc/self/mountinfo"
_SOME, _MOST = 64, 1 << 15  # descriptors for a guest's files


class ShareError(TrapgateError):
    """A directory that cannot be shared, or a tag that cannot be its name."""


class Share:
    """A directory, which a guest mounts by its tag: `mount -t virtiofs TAG /mnt`.

    A guest changes nothing in it without `writable`. With `lasting` it is promised that the host changes nothing either, so that
    the guest asks for everything once. ShareError: there is no such directory, or no guest may have it.
    """

    def __init__(self, path: str | Path, *, tag: str = "share", writable: bool = False, lasting: bool = False) -> None:
        assert not (writable and lasting), "what a guest writes is a change"
        self.path, self.tag, self.writable, self.lasting = os.path.abspath(path), tag, writable, lasting
        if not 0 < len(tag.encode(errors="replace")) <= TAG_LENGTH or not tag.isprintable():
            raise ShareError(f"{tag!r} is no tag: 1 to {TAG_LENGTH} bytes that can be printed")
        try:
            self._mounts = os.open(_MOUNTS, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ShareError(f"{self.path}: to share it /proc has to be mounted on this host: {error}") from error
        try:
            self.root = self._opened()
        except BaseException:
            os.close(self._mounts)
            raise

    def _opened(self) -> int:
        try:
            root = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ShareError(f"{self.path}: {os.strerror(error.errno or errno.EIO)}") from error
        if self.made_up(os.fstat(root).st_dev):
            os.close(root)
            raise ShareError(f"{self.path}: a guest with files of the kernel's own has this process as well")
        return root

    def close(self) -> None:
        """Close the directory; a second call does nothing."""
        if self.root >= 0:
            os.close(self.root)
            os.close(self._mounts)
            self.root = -1

    def made_up(self, device: int) -> bool:
        """Whether a file system, by st_dev, is one of `MADE_UP`, by what is mounted now (proc(5), /proc/self/mountinfo)."""
        os.lseek(self._mounts, 0, os.SEEK_SET)
        text = b""
        while piece := os.read(self._mounts, 1 << 16):
            text += piece
        numbers = b"%d:%d" % (os.major(device), os.minor(device))
        kinds = [words[words.index(b"-") + 1].decode() for words in map(bytes.split, text.splitlines()) if words[2] == numbers]
        return not MADE_UP.isdisjoint(kinds)

    @property
    def descriptors(self) -> int:
        """How many descriptors a guest may have this process hold: half of what its limit allows."""
        return min(max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2, _SOME), _MOST)


def path_of(descriptor: int) -> str:
    """The path of what a descriptor leads to, whatever it is called by now: for calls that take no descriptor of O_PATH."""
    return f"{_ITSELF}/{descriptor}"
