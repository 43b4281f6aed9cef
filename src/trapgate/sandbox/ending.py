"""Ends a process whose filter has trapped a system call: one line that names the call, the terminal put back, a status of its own.

The kernel does not make such a call, but raises SIGSYS instead (SECCOMP_RET_TRAP). What handles it is machine code that nobody can
write to, because Python's own handlers would let the thread go on first. Without a handler the signal ends the process, as bare as
SECCOMP_RET_KILL does; the filter lets nobody replace it, and who blocks the signal is ended by the kernel (Linux, kernel/signal.c,
force_sig_info_to_task).
"""

import mmap
import os
import signal
import struct
from collections.abc import Iterable

from trapgate.hostcall import exchange_action, native_action
from trapgate.sandbox.calls import NUMBERS
from trapgate.sandbox.kernel import call

STATUS = 8
"""The exit status: even, as no guest's exit port gives one (`stops.STATUS`)."""
SENT = "SIGSYS was sent to this process, which ends"
OTHER = "of another kind"
STOPPED = (
    "the sandbox stopped a system call that no run makes, {}: a guest has taken this process over, or the sandbox is wrong; "
    "report it, with the guest's image"
)
# A handler's arguments: edi is the signal, rsi leads to siginfo_t (asm-generic/siginfo.h), whose si_code is at 8, si_syscall at 24,
# si_arch at 28. Nothing is kept: it does not return. Behind the code lie, at the places that it names, what TCGETS gave, whether it
# did, the number of a line for each call, and lines of 256 bytes whose last says how long they are.
CODE = (
    ("31db", "xor ebx,ebx"),  # line 0: a process has sent it
    ("837e0801", "cmp dword [rsi+8],1"),  # SYS_SECCOMP
    ("7520", "jne 28h"),
    ("ffc3", "inc ebx"),  # line 1: another architecture's, or another ABI's
    ("817e1c3e0000c0", "cmp dword [rsi+1Ch],0C000003Eh"),  # AUDIT_ARCH_X86_64
    ("7515", "jne 28h"),
    ("8b4618", "mov eax,[rsi+18h]"),
    ("3d00020000", "cmp eax,200h"),
    ("730b", "jae 28h"),
    ("488d0d1c010000", "lea rcx,[140h]"),
    ("0fb61c01", "movzx ebx,byte [rcx+rax]"),
    ("4c8d2511030000", "lea r12,[340h]"),  # 28h
    ("c1e308", "shl ebx,8"),
    ("4901dc", "add r12,rbx"),
    ("803d0001000000", "cmp byte [13Ch],0"),
    ("7415", "je 53h"),
    ("b810000000", "mov eax,10h"),  # ioctl(0, TCSETS, what was there)
    ("31ff", "xor edi,edi"),
    ("be02540000", "mov esi,5402h"),
    ("488d15af000000", "lea rdx,[100h]"),
    ("0f05", "syscall"),
    ("b801000000", "mov eax,1"),  # 53h: write(2, line, its length)
    ("bf02000000", "mov edi,2"),
    ("4c89e6", "mov rsi,r12"),
    ("410fb69424ff000000", "movzx edx,byte [r12+0FFh]"),
    ("0f05", "syscall"),
    ("b8e7000000", "mov eax,0E7h"),  # exit_group(STATUS)
    (f"bf{STATUS:02x}000000", f"mov edi,{STATUS}"),
    ("0f05", "syscall"),
)
TERMINAL, HAS_TERMINAL, TABLE, LINES = 0x100, 0x13C, 0x140, 0x340
_NUMBERS, _LINE = LINES - TABLE, 0x100


def image(names: Iterable[str], terminal: bytes | None) -> bytes:
    """Code and data, for calls of these names and a terminal with these settings, to run wherever they are put."""
    code = b"".join(bytes.fromhex(text) for text, _ in CODE)
    texts, table = [SENT, STOPPED.format(OTHER)], bytearray(b"\1" * _NUMBERS)
    for name in names:
        table[NUMBERS[name]] = len(texts)
        texts.append(STOPPED.format(name))
    head = struct.pack(f"{TERMINAL}s{HAS_TERMINAL - TERMINAL}sI", code, terminal or b"", terminal is not None)
    return head + table + b"".join(_line(f"trapgate: error: {text}\n".encode()) for text in texts)


def _line(text: bytes) -> bytes:
    assert len(text) < _LINE, text
    return text.ljust(_LINE - 1, b"\0") + bytes((len(text),))


def install(names: Iterable[str], terminal: bytes | None) -> None:
    """From now on SIGSYS ends this process in words, its terminal (what ioctl TCGETS gave; None: it has none) put back. OSError."""
    data = image(names, terminal)
    file = os.memfd_create("trapgate: last words", os.MFD_CLOEXEC)
    try:
        os.write(file, data)
        address = call("mmap", 0, len(data), mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, file, 0)
    finally:
        os.close(file)
    exchange_action(signal.SIGSYS, native_action(address))
