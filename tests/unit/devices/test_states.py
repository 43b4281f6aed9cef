"""What devices hold at rest: taken from one amid its work and given to a fresh one, both go on alike; what cannot be is refused."""

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapgate.clock import InstructionClock
from trapgate.devices.board import BoardState, PartState
from trapgate.devices.interrupts import InterruptsState
from trapgate.devices.parts import AnyPart, NoState, Part, Wiring
from trapgate.encoding import decode, encode
from trapgate.state import (
    Bits,
    Either,
    Kind,
    Length,
    Mask,
    Nested,
    OneOf,
    Plain,
    Range,
    Ruled,
    Sequence,
    State,
    StateError,
    kinds,
    within,
)
from unit.devices.board_bench import Act, Bench, act
from unit.devices.every_value import every_value


def told(one: Bench, acts: list[Act]) -> list[object]:
    """What a board answers to some acts, and what goes out meanwhile."""
    one.noted.clear()
    answers = [done(one) for done in acts]
    return [answers, list(one.noted), one.clock.now(), one.clock.next_deadline(), one.save()]


@given(st.integers(0, 1 << 32), st.integers(0, 300))
def test_one_that_was_loaded_goes_on_as_the_saved_one(seed: int, count: int) -> None:
    chance = random.Random(seed)
    saved, loaded = Bench(), Bench()
    told(saved, [act(chance) for _ in range(count)])
    told(loaded, [act(chance) for _ in range(20)])  # what it was before is gone
    states = saved.save()
    assert saved.save() == states
    others = {type(one) for state in states for one in within(state)}
    loaded.load(*(decode(encode(state), type(state), others) for state in states))
    assert loaded.save() == states
    assert every_value(loaded.board, {}, "board") == every_value(saved.board, {}, "board")
    acts = [act(chance) for _ in range(60)]
    assert told(loaded, acts) == told(saved, acts)


def test_timers_that_are_due_at_once_keep_their_order() -> None:
    clock, heard = InstructionClock(lambda: 0), list[str]()
    timers = {name: clock.at(5, lambda name=name: heard.append(name)) for name in "abc"}  # type: ignore[misc]
    states, now = {name: timer.save() for name, timer in timers.items()}, clock.save()
    clock.load(now)
    for name in "cab":
        clock.again(None, states[name], lambda name=name: heard.append(name))  # type: ignore[misc]
    clock.at(5, lambda: heard.append("d"))
    clock.skip_to(5)
    clock.run_due()
    assert heard == ["a", "b", "c", "d"]


def beyond(kind: Kind) -> list[object]:
    """Values that a kind of field does not admit, beside those of other types."""
    match kind:
        case Ruled():
            return [*beyond(kind.kind), *(value for rule in kind.rules for value in outside(rule))]
        case Either():
            return [value for one in kind.kinds for value in beyond(one) if not any(other.fits(value) for other in kind.kinds)] + [
                value for one in kind.kinds if isinstance(one, Ruled) for rule in one.rules for value in outside(rule)
            ]
        case Sequence() if kind.each is not None:
            return [(value,) for value in beyond(kind.each)] + [None]
        case Plain() if kind.type is int:
            return [None, "1", 1.0, True]
        case Nested():
            return [NoState()] if kind.type is not State else [None]
    return [2.5]


def outside(rule: object) -> list[object]:
    match rule:
        case Bits():
            return [1 << rule.count, -1]
        case Mask():
            return [rule.bits + 1 | 1 << rule.bits.bit_length(), -1]
        case Range():
            return [rule.first - 1, rule.last + 1]
        case OneOf():
            return [max(value for value in rule.values if isinstance(value, int)) + 1]
        case Length():
            longest = rule.least if rule.most is None else rule.most
            return [(0,) * (longest + 1), bytes(longest + 1)]
    return []


def test_every_field_of_every_device_refuses_what_it_cannot_hold() -> None:
    tried, found = 0, {type(one): one for one in within(Bench().board.save())}
    assert len(found) >= 15
    for state in found.values():
        for name, kind in kinds(type(state)).items():
            values = beyond(kind)
            assert values, (state, name)
            for value in values:
                tried += 1
                with pytest.raises(StateError, match=f"{type(state).__name__}.{name}"):
                    replace(state, **{name: value})
    assert tried > 300


def changed(board: BoardState, kind: str, **values: Any) -> BoardState:
    """A board one of whose parts, or whose interrupt controllers, are in another state."""
    if kind == "interrupts":
        return replace(board, interrupts=replace(board.interrupts, **values))
    parts = (replace(one, state=replace(one.state, **values)) if one.kind == kind else one for one in board.parts)
    return replace(board, parts=tuple(parts))


def unfit(board: BoardState) -> list[tuple[BoardState, str]]:
    """States that could be, of another board."""
    interrupts: InterruptsState = board.interrupts
    first, second = interrupts.lapics
    pic, timer = interrupts.pic, PartState("Timer", NoState())
    swapped = tuple(replace(one, state=NoState()) if one.kind == "Uart" else one for one in board.parts)
    return [
        (changed(board, "Uart", fcr=0, fifo=(1, 2)), "a FIFO that is off holds one byte"),
        (changed(board, "IrqLines", levels=(True,)), "1 lines are not 24"),
        (changed(board, "Scratch", content=b"123456789"), "9 bytes are not 4"),
        (changed(board, "interrupts", lapics=(first,)), "1 local APICs are not 2"),
        (changed(board, "interrupts", lapics=(second, first)), "boot processor"),
        (changed(board, "interrupts", lapics=(first, replace(second, base=1 << 10))), "no local APIC here has the base 0x400"),
        (changed(board, "interrupts", lapics=(first, replace(second, base=1 << 51))), "no local APIC here has the base"),
        (changed(board, "interrupts", pic=replace(pic, slave=replace(pic.slave, elcr=0x01))), "inputs 0x1 cannot all be"),
        (replace(board, parts=board.parts[1:]), "the parts Pit, .* are not Uart, Pit, "),
        (replace(board, parts=(*board.parts, timer)), "Timer are not Uart"),
        (replace(board, parts=swapped), "a NoState is no state of a Uart"),
    ]


@pytest.mark.parametrize("number", range(11))
def test_what_fits_another_board_changes_nothing(number: int) -> None:
    bench, chance = Bench(), random.Random(5)
    told(bench, [act(chance) for _ in range(200)])
    before = bench.save()
    state, story = unfit(Bench().board.save())[number]
    with pytest.raises(StateError, match=story):
        bench.board.load(state)
    assert bench.save() == before
    twin = Bench()
    twin.load(*before)
    acts = [act(chance) for _ in range(50)]
    assert told(bench, acts) == told(twin, acts)


def test_a_part_without_a_state_is_told_by_name() -> None:
    class Mine(Part[State]):
        pass

    def make(wiring: Wiring) -> AnyPart:
        return Mine()

    bench = Bench()
    bench.board.add(make)
    with pytest.raises(StateError, match="the device Mine cannot be saved"):
        bench.board.save()
    with pytest.raises(StateError, match="the device Mine cannot be loaded"):
        Mine().load(NoState())


class Other:
    """Interrupt controllers elsewhere."""

    def __init__(self, state: InterruptsState) -> None:
        self.state = state

    def drive(self, gsi: int, level: bool) -> None: ...

    def save(self) -> InterruptsState:
        return self.state

    def load(self, state: InterruptsState) -> None:
        self.state = state


def test_interrupt_controllers_elsewhere_are_asked_for_their_state() -> None:
    bench, changed = Bench(), Bench()
    changed.board.interrupts.pic.master.set_line(3, True)
    state = changed.board.save()
    bench.board.interrupts.lead_to(Other(bench.board.interrupts.save()))
    assert bench.board.save() != state
    bench.board.load(state)
    assert bench.board.save() == state
