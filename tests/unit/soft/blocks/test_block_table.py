"""The table of blocks takes dense code of many pages until it is three quarters full: then translations start over, not before."""

import random

from trapgate.isa.native.placing import TURNS, block_hash
from trapgate.soft.blocks.placed import TABLE_BITS

MASK = (1 << TABLE_BITS) - 1


def test_no_block_lies_too_far_from_where_its_search_starts() -> None:
    chance, taken, farthest = random.Random(1), set[int](), 0
    while len(taken) < 3 << TABLE_BITS >> 2:
        page, linear = chance.randrange(1 << 18) << 12, 0x7F00_0000_0000 + (chance.randrange(1 << 20) << 12)
        at = chance.randrange(64)
        while at < 4096:
            start = int(block_hash(page + at, linear + at, 2)) & MASK  # type: ignore[arg-type, call-overload]  # on plain ints
            turns = next(turn for turn in range(MASK) if start + turn & MASK not in taken)
            taken.add(start + turns & MASK)
            farthest = max(farthest, turns)
            at += chance.choice((5, 5, 7, 9, 16, 16, 32, 24))  # bytes of a block, as compiled code has them
    assert farthest < TURNS
