"""How much memory something takes at its most, whatever this process, or the one that started it, took before.

`ru_maxrss` cannot tell: it only rises, and a process inherits it even through execve(2).
"""

from pathlib import Path
from typing import Self

RESET_PEAK = "5"  # proc_pid_clear_refs(5)
KIB = 1 << 10


class Peak:
    """`with Peak() as peak: ...`, and then, or within, `peak.grown`."""

    def __enter__(self) -> Self:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
        self._before = _peak()
        return self

    def __exit__(self, *_: object) -> None: ...

    @property
    def grown(self) -> int:
        """Bytes by which the resident memory was larger since the beginning, at its most, than then."""
        return _peak() - self._before


def _peak() -> int:
    """proc_pid_status(5), VmHWM."""
    line = Path("/proc/self/status").read_bytes().partition(b"VmHWM:")[2]
    return int(line.split(maxsplit=1)[0]) * KIB
