"""What devices hold at rest: taken from one amid its work and given to a fresh one, both go on alike; what cannot be is refused."""

import random
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapgate.arch import layout
from trapgate.arch.models import DEFAULT_MODEL, CpuModel
from trapgate.arch.msrs import MsrError
from trapgate.clock import InstructionClock
from trapgate.devices.board import Board, BoardState, PartState, standard
from trapgate.devices.dma import Dma
from trapgate.devices.interrupts import InterruptsState
from trapgate.devices.parts import AnyPart, NoState, Part, Surface, Switches, Wiring
from trapgate.devices.pmtimer import AcpiPm
from trapgate.devices.uart import Uart
from trapgate.encoding import decode, encode
from trapgate.memory import Ram
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
from unit.devices.every_value import every_value

MODEL = CpuModel.parse(DEFAULT_MODEL)
BLOCKS = (
    *((0x20, 2), (0x40, 4), (0x60, 2), (0x64, 1), (0x70, 2), (0xA0, 2), (0x3F8, 8), (0x4D0, 2), (0x600, 16), (0xCF8, 8)),
    *((0xE0, 4), (0xE8, 1), (0x2000, 24), (0x510, 12), (0x510, 12)),
)
PORTS = [first + offset for first, length in BLOCKS for offset in range(length)]
KEYS = (0, 1, 3, 5, 0x0F, 0x19, 0x20, 0x8002, 0x4000, 0x77)
LIKELY = (0, 1, 0x02, 0x11, 0x20, 0x30, 0x34, 0xB6, 0xFF, 0x80, 0xC2, 0xD0, 0xD2, 0x72)
REGISTERS = [16 * index for index in (2, 3, 8, 0xA, 0xB, 0xD, 0xE, 0xF, 0x10, 0x20, 0x28, 0x30, 0x31, *range(0x32, 0x3A), 0x3E)]
MSRS = (0x1B, 0x6E0, 0x808, 0x80B, 0x80F, 0x828, 0x830, 0x832, 0x838, 0x839, 0x83E, 0x83F)
Act = Callable[["Bench"], object]


class Bench:
    """A board with two local APICs, of which all that goes out is noted."""

    def __init__(self) -> None:
        self.clock = InstructionClock(lambda: 0)
        self.noted: list[object] = []
        note = self.noted.append
        switches = Switches(note, lambda: note("off"), lambda: note("reset"))
        self.ram = Ram(1 << 16)
        surface = Surface(self.clock, Dma(self.ram), lambda call: call(), switches, wall_start=10**18)
        self.board = Board(surface, MODEL, standard(note, note), cpus=2)
        for number, one in enumerate(self.board.interrupts.lapics):
            one.nmi = lambda number=number: note(("nmi", number))  # type: ignore[misc]
            one.init = lambda number=number: note(("init", number))  # type: ignore[misc]
            one.notify = lambda number=number, one=one: note((number, one.pending()))  # type: ignore[misc]

    def save(self) -> list[State]:
        return [self.clock.save(), self.board.save(), self.ram.save()]

    def load(self, clock: Any, board: Any, ram: Any) -> None:
        self.clock.load(clock)
        self.board.load(board)
        self.ram.load(ram)

    def wait(self, ns: int) -> None:
        end = self.clock.now() + ns
        for _ in range(40):
            if (deadline := self.clock.next_deadline()) is None or deadline > end:
                break
            self.clock.skip_to(deadline)
            self.clock.run_due()
        self.clock.skip_to(end)

    def acknowledge(self, number: int) -> int | None:
        lapic = self.board.interrupts.lapics[number]
        return lapic.acknowledge() if lapic.pending() else None

    def msr(self, number: int, index: int, value: int | None) -> int | None:
        lapic = self.board.interrupts.lapics[number]
        try:
            return lapic.read_msr(index) if value is None else lapic.write_msr(index, value)
        except MsrError:
            return None


def act(chance: random.Random) -> Act:
    """Something that happens to a board."""
    port, size, value = (
        chance.choice(PORTS),
        chance.choice((1, 1, 1, 2, 4)),
        chance.choice((*LIKELY, *KEYS, chance.randrange(1 << 32))),
    )
    number, offset = chance.randrange(2), chance.choice(REGISTERS)
    match chance.randrange(17):
        case 0 | 1 | 2 | 3:
            return lambda one: one.board.ports.write(port, size, value & (1 << 8 * size) - 1)
        case 4 | 5 | 6:
            return lambda one: one.board.ports.read(port, size)
        case 7:
            return lambda one: one.board.interrupts.lapics[number].write(offset, 4, value)
        case 8:
            return lambda one: one.board.interrupts.lapics[number].read(offset, 4)
        case 9:
            index, new = chance.choice(MSRS), chance.choice((None, value, 0xFEE0_0800, 0xFEE0_0C00, 0xFEE0_0900, 0xFEE0_0D00))
            return lambda one: one.msr(number, index, new)
        case 10:
            register = chance.choice((0, 0, 0, 0x10, 0x10, 0x10, 0x40))
            return lambda one: one.board.mmio.write(layout.IOAPIC_BASE + register, 4, value & 0x3F if not register else value)
        case 11:
            return lambda one: one.acknowledge(number)
        case 12:
            data = chance.randbytes(chance.choice((1, 20)))
            return lambda one: one.board.part(Uart).feed(data)
        case 13:
            return lambda one: one.board.part(Uart).feed_break() if value & 1 else one.board.part(AcpiPm).press_power_button()
        case 14:
            request = struct.pack(
                ">IIQ", chance.randrange(32) | chance.choice(KEYS) << 16, chance.randrange(99), chance.randrange(1 << 16)
            )
            return lambda one: (one.ram.write(0x1000, request), one.board.ports.write(0x518, 4, 0x0010_0000))
        case _:
            ns = chance.choice((0, 1, 1000, 20_000, 10**6, 10**7, 10**9, 3 * 10**9))
            return lambda one: one.wait(ns)


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


def test_interrupt_controllers_elsewhere_have_no_state() -> None:
    bench = Bench()
    state = bench.board.save()
    bench.board.interrupts.lead_to(lambda number, level: None)
    with pytest.raises(StateError, match="the host kernel's"):
        bench.board.save()
    with pytest.raises(StateError, match="the host kernel's"):
        bench.board.load(state)
