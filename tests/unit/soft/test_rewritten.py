"""Host code that comes to lie where other host code ran a moment ago is what runs there: what the processor had fetched is not."""

import time

import pytest

from trapgate.exits import Halted
from trapgate.soft.crash import Crashes
from unit.soft.bench import CODE, Bench

FUNCTIONS = CODE + 0x1000
APART = 0x100  # bytes from one function to the next; eight of them
# 1: mov eax, ecx; and eax, 7; shl eax, 8; lea rdi, [rax + FUNCTIONS]; xor byte [rdi + 1], 1; call rdi; dec rcx; jnz 1b; hlt
CALLER = f"89c8 83e007 c1e008 488db8{FUNCTIONS.to_bytes(4, 'little').hex()} 80770101 ffd7 48ffc9 75e6 f4"
CALLS = 100_000


def bench() -> Bench:
    """A guest that rewrites a function, then calls it, over and over, and a buffer for code that soon begins from the start."""
    made = Bench("64")
    made.cpu.crashes = Crashes(made.cpu)
    made.cpu.crashes.catch()
    made.ram.write(CODE, bytes.fromhex(CALLER))
    for n in range(8):  # mov eax, 0 or 1; add rbx, rax, as often as makes each function's length another; ret
        made.ram.write(FUNCTIONS + n * APART, bytes.fromhex("b800000000" + "4801c3" * (n * n + 1) + "c3"))
    made.st.code_limit = made.st.code_end + (1 << 20) + (48 << 10)  # the first of which is kept free
    return made


def calls(made: Bench) -> int:
    """Call a function CALLS times; what RBX must be then."""
    made.st.rip, made.st.rcx = CODE, CALLS
    assert made.cpu.run() == Halted()
    return sum((n * n + 1) * (CALLS // 16) for n in range(8))


def test_code_that_is_written_anew_all_the_time() -> None:
    made = bench()
    added = calls(made)
    assert made.st.count_placed > CALLS
    assert made.cpu.blocks.generation > 10
    assert made.st.rbx == added


@pytest.mark.long
def test_for_a_minute() -> None:
    """Without a serializing instruction before new code, of three runs of ten seconds one crashed, on an Intel Xeon (model 167)."""
    made, added, end = bench(), 0, time.monotonic() + 60
    while time.monotonic() < end:
        added += calls(made)
    assert made.st.rbx == added
