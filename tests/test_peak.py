"""Growth of memory is seen, however large the process was before."""

import mmap

from peak import Peak

SIZE = 64 << 20


def touched(size: int) -> None:
    with mmap.mmap(-1, size) as memory:
        for at in range(0, size, mmap.PAGESIZE):
            memory[at] = 1


def test_growth_is_seen_again() -> None:
    for _ in range(2):
        with Peak() as peak:
            assert peak.grown < SIZE // 4
            touched(SIZE)
        assert SIZE * 3 // 4 < peak.grown < SIZE * 5 // 4  # the kernel counts by the lump
