"""Guest time moved by hand, and lines that remember their levels."""

from collections.abc import Callable

import pytest

from trapgate.clock import InstructionClock
from unit.devices.lapic_bench import Bench


class Wire:
    """A line: the level now, and every level driven so far."""

    def __init__(self) -> None:
        self.level = False
        self.history: list[bool] = []

    def __call__(self, level: bool) -> None:
        self.level = level
        self.history.append(level)

    def rises(self) -> int:
        """How often the level went from low to high."""
        return sum(after and not before for before, after in zip([False, *self.history], self.history, strict=False))


@pytest.fixture
def clock() -> InstructionClock:
    """Time that stands still unless `advance` moves it."""
    return InstructionClock(lambda: 0)


@pytest.fixture
def advance(clock: InstructionClock) -> Callable[[int], None]:
    """Move time forward by so many ns, stopping at every timer on the way."""

    def move(ns: int) -> None:
        end = clock.now() + ns
        while (deadline := clock.next_deadline()) is not None and deadline <= end:
            clock.skip_to(deadline)
            clock.run_due()
        clock.skip_to(end)

    return move


@pytest.fixture
def wire() -> Wire:
    """A line to look at."""
    return Wire()


@pytest.fixture
def apic(clock: InstructionClock) -> Bench:
    """A local APIC on that clock."""
    return Bench(clock)
