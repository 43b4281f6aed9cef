"""The child process in which cases run. A script of its own, without imports of ours: everything it needs comes as JSON in argv[1].

It maps the addresses it is told to, takes the faults of the code under test with the given handler, forbids system calls made from
the code page (they become SIGSYS), then runs one batch for every byte on its standard input and answers each with a byte.
"""

import ctypes
import json
import mmap
import os
import sys

MAP_FIXED_NOREPLACE = 0x100000
SA_SIGINFO, SA_ONSTACK = 4, 0x08000000
SIGNALS = (4, 5, 7, 8, 11, 31)  # ILL TRAP BUS FPE SEGV SYS
SYS_MODIFY_LDT, CODE_CONTENTS = 154, 2 << 1
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 38, 22

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)


def check(result: int, what: str) -> None:
    """Exit with one line when a call of the C library failed."""
    if result == -1:
        sys.exit(f"silicon worker: {what}: {os.strerror(ctypes.get_errno())}")


def map_at(address: int, size: int, protection: int, descriptor: int, offset: int) -> None:
    """Map memory at exactly this address (private and zero when there is no descriptor)."""
    kind = mmap.MAP_SHARED if descriptor >= 0 else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    got = libc.mmap(address, size, protection, kind | MAP_FIXED_NOREPLACE, descriptor, offset)
    check(-1 if got != address else 0, f"mmap of {size:#x} bytes at {address:#x}")


class StackT(ctypes.Structure):
    """stack_t of sigaltstack(2)."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


class SigAction(ctypes.Structure):
    """struct sigaction of sigaction(2) as the C library has it on x86-64."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class Filter(ctypes.Structure):
    """struct sock_fprog: a seccomp program."""

    _fields_ = (("length", ctypes.c_ushort), ("program", ctypes.c_char_p))


def forbid_system_calls(page: int) -> None:
    """System calls whose instruction lies in the page (or is its last one) raise SIGSYS (seccomp(2), SECCOMP_RET_TRAP)."""

    def op(code: int, yes: int, no: int, value: int) -> bytes:
        return code.to_bytes(2, "little") + bytes((yes, no)) + value.to_bytes(4, "little")

    program = b"".join(
        (
            op(0x20, 0, 0, 12),
            op(0x15, 0, 3, 0),  # instruction_pointer: high half must be 0
            op(0x20, 0, 0, 8),
            op(0x35, 0, 1, page),
            op(0x25, 0, 1, page + 4096),  # low half below the page: allow; above: allow
            op(0x06, 0, 0, 0x7FFF0000),
            op(0x06, 0, 0, 0x00030000),
        )
    )
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")
    check(libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(Filter(len(program) // 8, program))), "prctl(PR_SET_SECCOMP)")


class UserDescriptor(ctypes.Structure):
    """struct user_desc of modify_ldt(2); `flags` are its bits: 16-bit data is 0, 16-bit code CODE_CONTENTS."""

    _fields_ = (("entry", ctypes.c_uint), ("base", ctypes.c_uint), ("limit", ctypes.c_uint), ("flags", ctypes.c_uint))


def local_segment(entry: int, base: int, limit: int, code: bool) -> None:
    """A 16-bit segment in the local descriptor table. Kernels may have none: cases that go there then end with #GP."""
    descriptor = UserDescriptor(entry, base, limit, CODE_CONTENTS if code else 0)
    libc.syscall(SYS_MODIFY_LDT, 0x11, ctypes.byref(descriptor), ctypes.sizeof(descriptor))


def main() -> None:
    """Set up, then serve until standard input ends."""
    setup = json.loads(sys.argv[1])
    check(libc.prctl(PR_SET_PDEATHSIG, 9), "prctl(PR_SET_PDEATHSIG)")
    read_write = mmap.PROT_READ | mmap.PROT_WRITE
    read_execute = mmap.PROT_READ | mmap.PROT_EXEC
    for address, size, protection, descriptor, offset in setup["maps"]:
        map_at(address, size, {"rw": read_write, "rx": read_execute, "none": 0}[protection], descriptor, offset)

    for entry, base, limit, code in setup["ldt"]:
        local_segment(entry, base, limit, code)
    alternate = mmap.mmap(-1, 1 << 17)
    stack = StackT(ctypes.addressof(ctypes.c_char.from_buffer(alternate)), 0, 1 << 17)
    check(libc.sigaltstack(ctypes.byref(stack), None), "sigaltstack")
    action = SigAction(setup["handler"], (ctypes.c_ubyte * 128)(*[255] * 8), SA_SIGINFO | SA_ONSTACK, None)
    for number in SIGNALS:
        check(libc.sigaction(number, ctypes.byref(action), None), f"sigaction({number})")
    forbid_system_calls(setup["code_page"])
    batch = ctypes.CFUNCTYPE(None)(setup["driver"])
    os.write(1, b"!")
    while os.read(0, 1):
        batch()
        os.write(1, b".")
    os._exit(0)


main()
