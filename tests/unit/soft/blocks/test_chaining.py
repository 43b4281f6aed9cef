"""Blocks of a page that lead to each other: once all have run, none of them goes through the dispatcher."""

import random
from itertools import pairwise

import pytest

from trapgate.exits import Halted
from trapgate.soft.blocks.placed import PATIENCE
from unit.soft.bench import CODE, Bench


def jump(made: Bench, at: int, to: int) -> None:
    """INC EAX; JMP."""
    made.ram.write(at, b"\xff\xc0\xe9" + (to - at - 7).to_bytes(4, "little", signed=True))


def run(made: Bench, start: int) -> tuple[int, int]:
    """(blocks run, times that the dispatcher was asked)."""
    made.st.rip, made.st.rax, before = start, 0, made.st.count_dispatch
    assert made.cpu.run() == Halted()
    return made.st.rax, made.st.count_dispatch - before


@pytest.mark.parametrize("seed", range(5))
def test_every_branch_inside_the_page(seed: int) -> None:
    chance, made = random.Random(seed), Bench("64")
    places = [CODE + at for at in chance.sample(range(0, 4080, 8), 200)]
    for at, to in pairwise(places):
        jump(made, at, to)
    made.ram.write(places[-1], b"\xf4")
    assert run(made, places[0])[0] == 199
    assert run(made, places[0]) == (199, 1)
    for _ in range(PATIENCE - 1):  # one goes, others stay: what leads there is found again
        gone = chance.randrange(1, 199)
        jump(made, places[gone], places[gone + 1])
        assert run(made, places[0]) == (199, 2)
        assert run(made, places[0]) == (199, 1)
    chance.shuffle(middle := places[1:-1])
    places[1:-1] = middle  # each block's bytes change, and where it leads
    for at, to in pairwise(places):
        jump(made, at, to)
    run(made, places[0])
    assert run(made, places[0]) == (199, 1)
