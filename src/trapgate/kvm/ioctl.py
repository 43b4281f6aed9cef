"""Calls ioctl on a KVM file descriptor, and turns errno into an error that names call and remedy.

By `fcntl.ioctl`, which costs a third of a call through ctypes. From Python 3.14 on that repeats a call which a signal has ended, as
PEP 475 wants it; KVM_RUN must not be, so there it goes through ctypes.
"""

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from fcntl import ioctl
from typing import TypeVar

from trapgate.errors import TrapgateError

_MOST = (1 << 31) - 1  # that `fcntl.ioctl` takes for a number
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong)

S = TypeVar("S", bound=ctypes.Structure)
Argument = int | bytearray | ctypes.Structure

SOFT = "use --engine soft, which needs no /dev/kvm"
REMEDIES = {
    errno.ENOMEM: "the host is short of memory: give the guest less with --memory",
    errno.EBUSY: "another hypervisor holds the CPU: stop it",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n)",
    errno.ENOTTY: f"the host's kernel is too old for it: {SOFT}",
}


class KvmError(TrapgateError, OSError):
    """A call to KVM failed. The text names the call, the reason and, where one is known, the remedy."""

    def __init__(self, call: str, number: int, remedy: str | None = None) -> None:
        remedy = remedy or REMEDIES.get(number)
        text = call + (f": {os.strerror(number)}" if number else "") + (f"; {remedy}" if remedy else "")
        super().__init__(number, text)
        self.call = call

    def __str__(self) -> str:
        return str(self.strerror)


def _by_libc(descriptor: int, number: int, argument: int = 0) -> int:
    done: int = _libc.ioctl(descriptor, number, argument)
    return done if done >= 0 else -ctypes.get_errno()


def _by_fcntl(descriptor: int, number: int, argument: Argument = 0) -> int:
    try:
        return ioctl(descriptor, number, argument)
    except OSError as error:
        return -(error.errno or errno.EIO)
    except ValueError:  # the descriptor was given back
        return -errno.EBADF


once: Callable[[int, int], int] = _by_libc if sys.version_info >= (3, 14) else _by_fcntl
"""The result of an ioctl without an argument, or -errno; a signal ends it (EINTR)."""


class Handle:
    """A file descriptor that takes ioctls."""

    descriptor = -1

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def close(self) -> None:
        """Give the descriptor back; a second call does nothing."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __del__(self) -> None:
        self.close()

    def _try(self, number: int, argument: Argument = 0) -> int:
        """The result of an ioctl, or -errno. A structure is read and written."""
        if isinstance(argument, int) and argument > _MOST:
            return _by_libc(self.descriptor, number, argument)
        return _by_fcntl(self.descriptor, number, argument)

    def _ask(self, number: int) -> int:
        """The same without an argument, where -errno is no rare answer: an exception costs several times the call."""
        return _by_libc(self.descriptor, number)

    def _call(self, name: str, number: int, argument: Argument = 0) -> int:
        done = self._try(number, argument)
        if done < 0:
            raise KvmError(f"KVM_{name}", -done)
        return done

    def _with(self, name: str, number: int, structure: S) -> S:
        self._call(name, number, structure)
        return structure
