"""The kernel's interrupt controllers and timer in the words of ours, and back: nothing of a state that ours come to is lost."""

import random
from dataclasses import replace

import pytest

from trapgate.arch.layout import PIT_GSI, PIT_IRQ
from trapgate.build import kvm_chips
from trapgate.clock import TimerState
from trapgate.devices.interrupts import Interrupts
from trapgate.devices.ioapic import IoApicState
from trapgate.devices.lapic_registers import X2, LocalApicState
from trapgate.devices.lapic_timer import DEADLINE, PERIODIC, length
from trapgate.devices.pic import CASCADE, PicPair, PicPairState
from trapgate.devices.pit import Pit, PitState
from trapgate.kvm import abi_chips
from trapgate.state import StateError
from unit.devices.board_bench import MODEL, Bench, act

HOST = 10**15  # the host's monotonic clock
SEEDS = range(60)


def some(seed: int) -> Bench:
    """A board that much has happened to."""
    chance, bench = random.Random(seed), Bench()
    for _ in range(chance.randrange(300)):
        act(chance)(bench)
    return bench


def _of_a_pair(awaited: tuple[int, ...]) -> tuple[int, ...]:
    """The initialisation words that are still to come to a chip that is not single."""
    return () if awaited in ((2,), (2, 4)) else awaited


def pics(seed: int) -> PicPairState:
    """The 8259s, initialised as the kernel's can be."""
    state = some(seed).board.interrupts.pic.save()
    pair = PicPair()
    pair.load(
        PicPairState(*(replace(one, awaited=_of_a_pair(one.awaited), all_level=False) for one in (state.master, state.slave)))
    )
    slave = pair.slave.settled()
    pair.master.set_line(CASCADE, slave.asserted)
    return PicPairState(pair.master.settled(), slave)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_8259s(seed: int) -> None:
    state = pics(seed)
    slave = kvm_chips.pic_state(kvm_chips.pic_chip(abi_chips.PIC_SLAVE, state.slave).pic, 0, state.slave.inputs)
    assert slave == state.slave
    cascade = slave.asserted << CASCADE
    chip = kvm_chips.pic_chip(abi_chips.PIC_MASTER, state.master)
    assert kvm_chips.pic_state(chip.pic, cascade, state.master.inputs & ~(1 << CASCADE)) == state.master


def test_what_the_kernels_8259s_cannot_be() -> None:
    state = PicPair().master.save()
    for wrong in (replace(state, all_level=True), replace(state, awaited=(2,)), replace(state, awaited=(2, 4))):
        with pytest.raises(StateError, match="the kernel's 8259s"):
            kvm_chips.pic_chip(abi_chips.PIC_MASTER, wrong)


def by_gsi(pins: int) -> int:
    """Lines as devices drive them: pin 2 of the I/O APIC is line 0, and no line is at pin 0."""
    return pins & ~(1 << PIT_IRQ | 1 << PIT_GSI) | (pins >> PIT_GSI & 1) << PIT_IRQ


@pytest.mark.parametrize("seed", SEEDS)
def test_the_io_apic(seed: int) -> None:
    state: IoApicState = some(seed).board.interrupts.ioapic.save()
    chip = kvm_chips.ioapic_chip(state)
    assert kvm_chips.ioapic_state(chip, by_gsi(state.lines)) == replace(state, lines=state.lines & ~(1 << PIT_IRQ))
    asserted = [pin for pin in range(24) if state.lines >> pin & 1 and state.entries[pin] >> 15 & 1]
    assert chip.lines == sum(1 << pin for pin in asserted)  # an edge that was sent is not sent again


@pytest.mark.parametrize("seed", SEEDS)
def test_the_local_apic(seed: int) -> None:
    bench = some(seed)
    now, hz = bench.clock.now(), MODEL.crystal_hz
    state: LocalApicState = bench.board.interrupts.lapics[0].save()
    timer = state.timer
    count = bench.board.interrupts.lapics[0].read(0x390, 4) if not state.base & X2 else 0
    counting = timer.mode <= PERIODIC and timer.timer is not None
    if counting:
        count = max((timer.timer.deadline - now) // length(1, timer.divide, hz), 1) if timer.timer else 0
    again = kvm_chips.lapic_state(kvm_chips.lapic_page(state, count if counting else 0), state.base, timer.deadline, now, hz)
    x2 = bool(state.base & X2)
    lost = replace(
        state, errors=0, lint1_level=False, timer=again.timer, ldr=0 if x2 else state.ldr,
        destination_format=0xF if x2 else state.destination_format, xapic_id=0 if x2 else state.xapic_id,
    )  # fmt: skip
    assert again == lost
    assert (again.timer.mode, again.timer.divide) == (timer.mode, timer.divide)
    if timer.mode == DEADLINE:
        assert again.timer.deadline == timer.deadline
    elif counting:
        assert timer.timer is not None
        assert again.timer.initial == timer.initial
        assert again.timer.timer is not None
        assert abs(again.timer.timer.deadline - timer.timer.deadline) <= length(1, timer.divide, hz)
    else:
        assert again.timer.timer is None


@pytest.mark.parametrize("seed", SEEDS)
def test_the_8254(seed: int) -> None:
    """The same counts to be read, the same output, the same edges of channel 0."""
    bench = some(seed)
    now, pit = bench.clock.now(), bench.board.part(Pit)
    state: PitState = pit.save()
    other = Bench()
    other.clock.load(bench.clock.save())
    one, two, three = (kvm_chips.channel_state(kvm_chips.channel(one, HOST, now), HOST, now) for one in state.channels)
    other.board.part(Pit).load(replace(state, channels=(one, two, three)))
    for here, there in zip(pit.channels, other.board.part(Pit).channels, strict=True):
        if here.save().loaded:
            assert (here.output(), here.count()) == (there.output(), there.count())
        assert [here.read() for _ in range(5)] == [there.read() for _ in range(5)]
    first, second = state.channels[0].timer, other.board.part(Pit).channels[0].save().timer
    assert (first is None) == (second is None)
    if first is not None and second is not None and first.deadline > now:
        assert abs(first.deadline - second.deadline) <= 1000


def test_what_a_timer_of_the_kernels_says_is_taken_as_a_timer_of_ours() -> None:
    state = kvm_chips.lapic_state(abi_chips.LapicState(), 0xFEE0_0900, 0, 5, MODEL.crystal_hz)
    interrupts = Interrupts(Bench().clock, MODEL)
    interrupts.lapics[0].load(replace(state, timer=replace(state.timer, initial=100, timer=TimerState(105, 0))))
    assert interrupts.lapics[0].save().timer.timer == TimerState(105, 0)
