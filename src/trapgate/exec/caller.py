"""What a program in the guest gets of this process, as the kernel tells it (proc_pid_status(5)): nothing is changed to find out."""

import signal
from pathlib import Path

OF_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}  # which it ignores itself


def ignored() -> frozenset[int]:
    """The signals that this process ignores, libc's own as well, as all do that `make` starts."""
    mask = int(_field("SigIgn"), 16)
    return frozenset(number for number in range(1, mask.bit_length() + 1) if mask >> number - 1 & 1) - OF_PYTHON


def umask() -> int:
    """The umask."""
    return int(_field("Umask"), 8)


def _field(name: str) -> bytes:
    return Path("/proc/self/status").read_bytes().partition(b"\n%s:" % name.encode())[2].split(maxsplit=1)[0]
