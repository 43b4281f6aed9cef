"""Whose turn it is: processors that are ready or not, on a clock that stands where the test puts it."""

from collections.abc import Callable
from typing import cast

import pytest

from trapgate.clock import Clock
from trapgate.processor import Processor
from trapgate.state import StateError
from trapgate.turns import SHORT, TURN, Turns, TurnState


class Vcpu:
    def __init__(self) -> None:
        self.shares = False
        self.kicks = 0

    def share(self, on: bool) -> None:
        self.shares = on

    def kick(self) -> None:
        self.kicks += 1


class One:
    """A processor as `Turns` sees it."""

    def __init__(self, number: int, ready: bool = True) -> None:
        self.number, self.is_ready, self.spins, self.vcpu = number, ready, 0, Vcpu()
        self.woken: Callable[[], None] = lambda: None

    def ready(self) -> bool:
        return self.is_ready


class Stopped(Clock):
    moment = 0

    def now(self) -> int:
        return self.moment


class Several:
    def __init__(self, *ready: bool) -> None:
        self.clock = Stopped()
        self.ones = [One(number, one) for number, one in enumerate(ready)]
        self.turns = Turns(cast("list[Processor]", self.ones), self.clock)

    def take(self, after: int = 0) -> int | None:
        """Whose turn it is so much later."""
        self.clock.moment += after
        found = self.turns.take()
        return None if found is None else found.number


def test_one_alone_has_no_end() -> None:
    several = Several(True, False, False)
    assert several.take() == several.take(10 * TURN) == 0
    assert several.turns.until is None
    assert not several.ones[0].vcpu.shares


def test_all_in_turn() -> None:
    several = Several(True, True, False, True)
    assert [several.take(TURN) for _ in range(6)] == [0, 1, 3, 0, 1, 3]
    assert several.take(TURN - 1) == 3
    assert several.take(1) == 0
    assert several.ones[0].vcpu.shares


def test_nobody() -> None:
    several = Several(False, False)
    assert several.take() is None
    several.ones[1].is_ready = True
    assert several.take() == 1


def test_whoever_halts_gives_its_turn_up() -> None:
    several = Several(True, True)
    assert several.take() == 0
    several.ones[0].is_ready = False
    assert several.take() == 1
    assert several.turns.until is None


def test_a_turn_without_end_gets_one_when_another_wakes() -> None:
    several = Several(True, False)
    assert several.take(5) == 0
    several.ones[1].is_ready = True
    several.ones[1].woken()
    several.ones[0].woken()  # its own turn: nothing to do
    assert [one.vcpu.kicks for one in several.ones] == [1, 0]
    assert several.take(5) == 0
    assert several.turns.until == 10 + TURN
    several.ones[1].woken()
    assert several.ones[0].vcpu.kicks == 1


def test_who_spins_looks_again_soon_and_later_each_time() -> None:
    several, lengths = Several(True, True), []
    several.take()
    for _ in range(8):
        several.ones[0].spins += 1
        assert several.take() == 1
        assert several.turns.until is not None
        lengths.append(several.turns.until - several.clock.moment)
        assert several.turns.alarm == (several.turns.until if lengths[-1] < TURN else None)
        assert several.take(lengths[-1]) == 0
    assert lengths == [min(2 * SHORT << n, TURN) for n in range(8)]
    assert several.take(TURN) == 1  # it has not spun
    assert several.turns.until == several.clock.moment + TURN


def test_only_some() -> None:
    several = Several(True, True, True)
    several.turns.only(cast("list[Processor]", several.ones[1:]))
    assert [several.take(TURN) for _ in range(3)] == [1, 2, 1]
    several.turns.only(cast("list[Processor]", several.ones[2:]))
    assert [several.take(TURN) for _ in range(2)] == [2, 2]
    several.ones[2].is_ready = False
    assert several.take() is None
    several.turns.only(cast("list[Processor]", several.ones))
    assert several.take() == 0


def test_the_first_comes_whenever_it_can() -> None:
    several = Several(True, True, False)
    ones = cast("list[Processor]", several.ones)
    several.turns.only([ones[2], ones[0], ones[1]], ones[2])
    assert [several.take(TURN) for _ in range(3)] == [0, 1, 0]
    several.ones[2].is_ready = True
    several.ones[2].woken()
    assert several.ones[0].vcpu.kicks == 1
    assert several.take() == several.take(TURN) == 2


def test_its_state() -> None:
    several, other = Several(True, True), Several(True, True)
    several.take()
    several.ones[0].spins = 3
    state = several.turns.save()
    assert state == TurnState(0, TURN, True)
    other.ones[0].spins = 3
    other.turns.load(state)
    assert other.take() == several.take() == 1
    with pytest.raises(StateError, match="no processor 2"):
        other.turns.load(TurnState(2, None, False))
