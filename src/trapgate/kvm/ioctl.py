"""An ioctl on a KVM file descriptor, and errno as an error that names call and remedy."""

import ctypes
import errno
import os
from typing import TypeVar

from trapgate.errors import TrapgateError

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
_libc.ioctl.restype = ctypes.c_int

S = TypeVar("S", bound=ctypes.Structure)

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

    def _try(self, number: int, argument: int | None = None) -> int:
        """The result of an ioctl, or -errno."""
        done: int = _libc.ioctl(self.descriptor, number, argument)
        return done if done >= 0 else -ctypes.get_errno()

    def _call(self, name: str, number: int, argument: int | None = None) -> int:
        done = self._try(number, argument)
        if done < 0:
            raise KvmError(f"KVM_{name}", -done)
        return done

    def _with(self, name: str, number: int, structure: S) -> S:
        self._call(name, number, ctypes.addressof(structure))
        return structure
