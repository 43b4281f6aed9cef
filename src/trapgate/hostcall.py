"""Tells what the host refused: one error that names the call, the reason and the remedy, and the calls that many parts make."""

import contextlib
import ctypes
import errno
import os
import selectors
import stat
import struct
import threading
from collections.abc import Callable, Iterator

from trapgate.errors import TrapgateError

REMEDIES = {
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "the whole host has too many files open: end some programs",
    errno.ENOMEM: "give the guest less with --memory, raise the limit (ulimit -v), or end some programs",
    errno.EAGAIN: "raise the limits of threads and memory (ulimit -u, -v), or end some programs",
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room on the disk: your quota is used up",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EROFS: "choose a place that can be written",
    errno.ENOSYS: "the host's kernel does not have it, or a filter forbids it",
    errno.EPERM: "a filter, a container or SELinux forbids it: allow it for this process; if it is our sandbox: --no-sandbox",
    errno.EACCES: "the host forbids it: allow it for this process; if it is our sandbox: --no-sandbox",
}


SCARCE = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS))
"""Reasons that blame no file and no argument: the host, or a limit of this process, has no more to give."""


_OURS = frozenset((errno.EBADF, errno.EINVAL, errno.EFAULT, errno.ENOTSOCK))
_NO_THREAD = "can't start new thread"  # the text of Python's RuntimeError


class HostError(TrapgateError):
    """The host refused what trapgate needs. The text is one line: the call, the reason and, where one is known, the remedy."""

    def __init__(self, call: str, number: int, remedy: str | None = None) -> None:
        remedy = remedy or REMEDIES.get(number)
        super().__init__(f"the host refused {call}: {os.strerror(number)}" + (f"; {remedy}" if remedy else ""))
        self.call, self.errno = call, number


def refusal(error: BaseException) -> str | None:
    """What the host refused, as one line, where that is what an error says; None when it is a fault of ours."""
    match error:
        case HostError():
            return str(error)
        case MemoryError() | SystemError():  # the latter: what Python fails with where it finds no memory to say so
            return str(HostError("more memory", errno.ENOMEM))
        case ImportError():
            return f"a part cannot be loaded: {error}; see the host's limits (ulimit -a), or install trapgate again"
        case OSError(errno=int() as number) if number not in _OURS:
            return str(HostError(f"access to {error.filename}" if error.filename else "a system call", number))
        case RuntimeError() if str(error) == _NO_THREAD:
            return str(HostError("another thread", errno.EAGAIN))
    return None


@contextlib.contextmanager
def asking(call: str) -> Iterator[None]:
    """A system call of the host, by name: what it refuses becomes a HostError."""
    try:
        yield
    except MemoryError as error:
        raise HostError(call, errno.ENOMEM) from error
    except OSError as error:
        raise HostError(call, error.errno or errno.EIO) from error


class NotAFile(OSError):
    """A path names something else than a regular file: a directory, a device, a pipe."""


def open_file(path: str | os.PathLike[str]) -> int:
    """A descriptor to read a regular file from, opened without waiting for anybody; OSError, NotAFile among them."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotAFile(errno.EINVAL, "it is not a file", os.fspath(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


_ACTION = "<Q128si4xQ"  # struct sigaction of the C library: handler, mask, flags, and what it fills in itself
_SIGINFO, _ONSTACK = 4, 0x08000000  # SA_SIGINFO, SA_ONSTACK
_libc = ctypes.CDLL(None, use_errno=True)


def native_action(handler: int) -> bytes:
    """What `exchange_action` takes to have a signal handled by machine code, on the thread's stack for signals if it has one."""
    return struct.pack(_ACTION, handler, bytes(128), _SIGINFO | _ONSTACK, 0)


def exchange_action(number: int, action: bytes | None) -> bytes:
    """What was to be done about a signal; with an `action`, that is done from now on. HostError."""
    before = ctypes.create_string_buffer(struct.calcsize(_ACTION))
    with asking("sigaction"):
        if _libc.sigaction(number, action, before):
            raise OSError(ctypes.get_errno(), "sigaction")
    return before.raw


def renameat2(directory: int, name: bytes, other_directory: int, other_name: bytes, flags: int) -> None:
    """renameat2(2), of which Python knows no flags. OSError."""
    _done(_libc.renameat2(directory, name, other_directory, other_name, flags))


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2), of which Python knows no modes. OSError; OverflowError: numbers that it does not take."""
    if max(offset, length) >> 63 or mode >> 31:
        raise OverflowError("beyond what a file can have")
    _done(_libc.fallocate(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(length)))


def _done(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


_waiting: "list[Helper] | None" = None  # what `held_back` has to start


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Helpers that are started meanwhile, by this one thread, start when all is ready, in order; none where it fails. HostError."""
    global _waiting
    assert _waiting is None, "held back twice"
    waiting: list[Helper] = []
    _waiting = waiting
    try:
        yield
    finally:
        _waiting = None
    for one in waiting:
        one.start()


class Helper(threading.Thread):
    """A thread beside the one that matters. What its body raises goes to `failed`, on that thread: nobody relies on it for ever.

    Without `failed` it is reported as Python does.
    """

    def __init__(self, name: str, body: Callable[[], object], failed: Callable[[BaseException], None] | None = None) -> None:
        super().__init__(name=name, daemon=True)
        self._body, self._failed = body, failed

    def start(self) -> None:
        """Start it, or have `held_back` do so; HostError when there can be no more threads."""
        if _waiting is not None:
            _waiting.append(self)
            return
        try:
            super().start()
        except RuntimeError as error:  # what Python makes of a pthread_create that failed; which errno, it does not tell
            raise HostError(f"a thread for {self.name}", errno.EAGAIN) from error

    def join(self, timeout: float | None = None) -> None:
        """Wait until it ends, if it was started."""
        if self.ident is not None:
            super().join(timeout)

    def run(self) -> None:
        """The body, until it returns or fails."""
        try:
            self._body()
        except BaseException as error:
            if self._failed is None:
                raise
            self._failed(self._named(error))

    def _named(self, error: BaseException) -> BaseException:
        if isinstance(error, OSError) and error.errno is not None and error.errno not in _OURS:
            return HostError(f"what the thread {self.name!r} asked for", error.errno)
        return error


def poll_selector() -> selectors.BaseSelector:
    """A selector that takes no descriptor of its own, and any number of them; it can wait for plain files as well."""
    return selectors.PollSelector()
