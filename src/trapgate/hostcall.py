"""What the host may refuse: one error that names the call, the reason and the remedy, and the calls that many parts make."""

import contextlib
import errno
import os
import threading
from collections.abc import Iterator

REMEDIES = {
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "the whole host has too many files open: end some programs",
    errno.ENOMEM: "give the guest less with --memory, raise the limit (ulimit -v), or end some programs",
    errno.EAGAIN: "raise the limit of processes and threads (ulimit -u), or end some programs",
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room on the disk: your quota is used up",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EROFS: "choose a place that can be written",
    errno.ENOSYS: "the host's kernel does not have it, or a filter forbids it",
    errno.EPERM: "a filter, a container or SELinux forbids it: allow it for this process",
    errno.EACCES: "the host forbids it: allow it for this process",
}


SCARCE = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS))
"""Reasons that blame no file and no argument: the host, or a limit of this process, has no more to give."""


class HostError(Exception):
    """The host refused what trapgate needs. The text is one line: the call, the reason and, where one is known, the remedy."""

    def __init__(self, call: str, number: int, remedy: str | None = None) -> None:
        remedy = remedy or REMEDIES.get(number)
        super().__init__(f"the host refused {call}: {os.strerror(number)}" + (f"; {remedy}" if remedy else ""))
        self.call, self.errno = call, number


@contextlib.contextmanager
def asking(call: str) -> Iterator[None]:
    """A system call of the host, by name: what it refuses becomes a HostError."""
    try:
        yield
    except MemoryError as error:
        raise HostError(call, errno.ENOMEM) from error
    except OSError as error:
        raise HostError(call, error.errno or errno.EIO) from error


def start_thread(thread: threading.Thread) -> None:
    """Start a thread; HostError when there can be no more."""
    try:
        thread.start()
    except RuntimeError as error:  # what Python makes of a pthread_create that failed; which errno, it does not tell
        raise HostError(f"a thread ({thread.name})", errno.EAGAIN) from error
