"""Lines of the kernel's log."""

import pytest

from trapgate.finder.told import Told, read

SPLIT = "x86/split lock detection: "
LINES = {
    SPLIT + "#DB: splitlock/138 took a bus_lock trap at address: 0x40107a": Told(0x40107A, True, "splitlock", 138),
    "[   22.463655] " + SPLIT + "#AC: a/b c/7 took a split_lock trap at address: 0x7f01234": Told(0x7F01234, False, "a/b c", 7),
    "Nov 29 14:03 host kernel: " + SPLIT + "#DB: java/1 took a bus_lock trap at address: 0x1\n": Told(1, True, "java", 1),
    "0x401076": Told(0x401076, False),
    " 401076\n": Told(0x401076, False),
    "FFFFFFFF81000000": Told(0xFFFFFFFF81000000, False),
}
SILENT = """
x
0x
-1
1 2
0x11111111111111111
#DB: a/b took a bus_lock trap at address: 0x1
#DB: a/1 took a bus_lock trap
#DB: a/1 took a bus_lock trap at address: 0x11111111111111111
#GP: a/1 took a bus_lock trap at address: 0x1
x86/split lock detection: crashing the kernel on kernel split_locks and warning on user-space split_locks
"""


@pytest.mark.parametrize(("line", "told"), LINES.items())
def test_what_it_says(line: str, told: Told) -> None:
    assert read(line) == told


@pytest.mark.parametrize("line", SILENT.split("\n"))
def test_what_says_nothing(line: str) -> None:
    assert read(line) is None
