"""Makes system calls for which Python has no function."""

import ctypes
import errno
import os

from trapgate.sandbox.bpf import Action
from trapgate.sandbox.calls import NUMBERS

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _GET_ACTION_AVAIL = 1, 2
_TSYNC = 1


def call(name: str, *arguments: int | bytes) -> int:
    """A system call by its name, with integers and buffers; OSError."""
    plain = [ctypes.c_long(one) if isinstance(one, int) else ctypes.c_char_p(one) for one in arguments]
    result: int = _libc.syscall(ctypes.c_long(NUMBERS[name]), *plain)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def no_new_privileges() -> None:
    """No program that this process runs gets more rights than it has; for good. OSError."""
    call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def has_filters() -> None:
    """Nothing, where seccomp filters can be had; OSError where not."""
    call("seccomp", _GET_ACTION_AVAIL, 0, Action.ENDED.to_bytes(4, "little"))


def install_filter(program: bytes) -> None:
    """Put every thread of this process under a seccomp filter, for good, in addition to those that it has. OSError."""
    code = ctypes.create_string_buffer(program, len(program))
    head = (len(program) // 8).to_bytes(8, "little") + ctypes.addressof(code).to_bytes(8, "little")  # struct sock_fprog
    if call("seccomp", _SET_MODE_FILTER, _TSYNC, head):  # a thread that cannot follow
        raise OSError(errno.ESRCH, "a thread has a filter of its own")
