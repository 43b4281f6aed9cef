"""The registers of a virtio device, and its queue, with a driver that keeps to the rules and one that breaks each."""

import random
import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapgate.devices.virtio.queue import EVENT_IDX, INDIRECT, INDIRECT_DESC, NEXT, WRITE
from trapgate.devices.virtio.rng import MOST, Rng
from trapgate.devices.virtio.transport import Register, TransportState
from trapgate.encoding import decode, encode
from trapgate.state import StateError, within
from unit.devices.virtio.driver import AVAILABLE, BUFFERS, ENTRIES, FEATURES_OK, INDIRECT_TABLE, NEEDS_RESET, TABLE, USED, Driver

RING = (1 << 20) - 16


def ready(features: int = 0) -> Driver:
    return Driver(Rng(b"seed"), features)


def test_registers_of_a_device() -> None:
    one = ready()
    assert [one.get(offset) for offset in (0, 4, 8)] == [0x74726976, 2, 4]
    one.put(Register.DEVICE_FEATURES_SELECT, 0)
    assert one.get(Register.DEVICE_FEATURES) == INDIRECT_DESC | EVENT_IDX
    one.put(Register.DEVICE_FEATURES_SELECT, 1)
    assert one.get(Register.DEVICE_FEATURES) == 1
    one.put(Register.DEVICE_FEATURES_SELECT, 2)
    assert one.get(Register.DEVICE_FEATURES) == 0
    assert (one.get(Register.QUEUE_MOST), one.get(Register.QUEUE_READY)) == (64, 1)
    assert one.get(0xB0) == one.get(0xB4) == 0xFFFF_FFFF
    one.put(Register.QUEUE_SELECT, 1)
    assert (one.get(Register.QUEUE_MOST), one.get(Register.QUEUE_READY)) == (0, 0)
    one.put(Register.QUEUE_READY, 1)
    assert one.device.read(0, 2) == one.device.read(0x100, 4) == one.get(0x3C) == 0


def test_features_that_are_not_there_are_not_agreed_on() -> None:
    one = ready()
    for low, high, agreed in ((0, 0, False), (1, 1, False), (0, 3, False), (INDIRECT_DESC, 1, True)):
        one.put(Register.STATUS, 0)
        one.put(Register.STATUS, 3)
        for half, bits in ((0, low), (1, high), (2, 0xFFFF_FFFF)):
            one.put(Register.DRIVER_FEATURES_SELECT, half)
            one.put(Register.DRIVER_FEATURES, bits)
        one.put(Register.STATUS, 3 | FEATURES_OK)
        assert bool(one.get(Register.STATUS) & FEATURES_OK) == agreed
    one.put(Register.DRIVER_FEATURES_SELECT, 0)
    one.put(Register.DRIVER_FEATURES, EVENT_IDX)
    assert isinstance(state := one.device.save(), TransportState)
    assert state.driver_features == 1 << 32 | INDIRECT_DESC  # what was agreed on stays


@pytest.mark.parametrize("indirect", [False, True])
def test_requests_come_back_in_order(indirect: bool) -> None:
    one = ready(INDIRECT_DESC)
    wanted = Rng(b"seed")
    for turn in range(40):  # more than a round of the ring
        places = one.offer([], [10, 20], first=2, indirect=indirect)
        one.notify()
        assert one.returned() == [(2, 30)]
        assert one.interrupted() == 1
        data = wanted._bytes(30)
        assert [one.ram.read(place, size) for place, size in zip(places, (10, 20), strict=True)] == [data[:10], data[10:]], turn


def test_a_request_has_a_limit() -> None:
    one = ready()
    one.offer([], [0x80000])
    one.notify()
    assert one.returned() == [(0, MOST)]


def test_a_driver_that_wants_no_interrupt() -> None:
    one = ready()
    one.ram.write_int(AVAILABLE, 2, 1)
    one.offer([], [8])
    one.notify()
    assert one.returned() == [(0, 8)]
    assert one.interrupted() == 0


def test_interrupts_by_event() -> None:
    """The driver asks to be told of its third chain; the device, to be notified of the next one."""
    one = ready(EVENT_IDX)
    for event, heard in ((2, [0, 0, 1, 0]), (0xFFFE, [0, 0, 0, 0]), (8, [1, 0, 0, 0])):
        one.ram.write_int(AVAILABLE + 4 + 2 * ENTRIES, 2, event)
        told = []
        for _ in range(4):
            one.offer([], [8])
            one.notify()
            told.append(one.interrupted())
            assert one.ram.read_int(USED + 4 + 8 * ENTRIES, 2) == one.offered
        assert told == heard
    one.ram.write_int(AVAILABLE + 4 + 2 * ENTRIES, 2, 13)
    for first in (0, 4, 8):  # three at once, over the one that it waits for
        one.offer([], [8], first)
    one.notify()
    assert one.interrupted() == 1


def beyond_the_table(one: Driver) -> None:
    one.available(ENTRIES)


def following_beyond_the_table(one: Driver) -> None:
    one.describe(0, 0x10000, 8, WRITE | NEXT, ENTRIES)
    one.available(0)


def in_a_circle(one: Driver) -> None:
    one.describe(0, 0x10000, 8, WRITE | NEXT, 1)
    one.describe(1, 0x10000, 8, WRITE | NEXT, 0)
    one.available(0)


def not_in_ram(one: Driver) -> None:
    one.describe(0, (1 << 20) - 7, 8, WRITE)
    one.available(0)


def around_the_end_of_addresses(one: Driver) -> None:
    one.describe(0, (1 << 64) - 4, 8, WRITE)
    one.available(0)


def to_read_after_to_write(one: Driver) -> None:
    one.describe(0, 0x10000, 8, WRITE | NEXT, 1)
    one.describe(1, 0x10000, 8, 0)
    one.available(0)


def indirect_but_not_agreed(one: Driver) -> None:
    one.offer([], [8], indirect=True)


def indirect_within_indirect(one: Driver) -> None:
    one.describe(0, INDIRECT_TABLE, 16, INDIRECT, table=INDIRECT_TABLE)
    one.describe(0, INDIRECT_TABLE, 16, INDIRECT)
    one.available(0)


def indirect_and_more(one: Driver) -> None:
    one.describe(0, INDIRECT_TABLE, 16, INDIRECT | NEXT, 1)
    one.available(0)


def indirect_of_no_length(one: Driver) -> None:
    one.describe(0, INDIRECT_TABLE, 0, INDIRECT)
    one.available(0)


def indirect_of_half_an_entry(one: Driver) -> None:
    one.describe(0, INDIRECT_TABLE, 24, INDIRECT)
    one.available(0)


def indirect_longer_than_the_queue(one: Driver) -> None:
    for number in range(ENTRIES + 1):
        one.describe(number, 0x10000, 8, WRITE | (NEXT if number < ENTRIES else 0), number + 1, INDIRECT_TABLE)
    one.describe(0, INDIRECT_TABLE, 16 * (ENTRIES + 1), INDIRECT)
    one.available(0)


def more_than_fit(one: Driver) -> None:
    one.ram.write_int(AVAILABLE + 2, 2, ENTRIES + 1)


def table_not_in_ram(one: Driver) -> None:
    one.put(Register.QUEUE_READY, 0)
    one.put(Register.DESCRIPTORS_LOW, RING)
    one.put(Register.QUEUE_READY, 1)
    one.available(3)


def driver_ring_not_in_ram(one: Driver) -> None:
    one.put(Register.QUEUE_READY, 0)
    one.put(Register.DRIVER_HIGH, 1)
    one.put(Register.QUEUE_READY, 1)


def device_ring_not_in_ram(one: Driver) -> None:
    one.put(Register.QUEUE_READY, 0)
    one.put(Register.DEVICE_LOW, (1 << 20) - 4)
    one.put(Register.QUEUE_READY, 1)
    one.offer([], [8])


PLAIN: list[Callable[[Driver], None]] = [
    beyond_the_table, following_beyond_the_table, in_a_circle, not_in_ram, around_the_end_of_addresses, to_read_after_to_write,
    indirect_but_not_agreed, more_than_fit, table_not_in_ram, driver_ring_not_in_ram, device_ring_not_in_ram,
]  # fmt: skip
INDIRECTLY: list[Callable[[Driver], None]] = [
    indirect_within_indirect, indirect_and_more, indirect_of_no_length, indirect_of_half_an_entry, indirect_longer_than_the_queue,
]  # fmt: skip


@pytest.mark.parametrize(
    ("breaking", "features"),
    [*((one, 0) for one in PLAIN), *((one, INDIRECT_DESC) for one in INDIRECTLY)],
    ids=lambda it: getattr(it, "__name__", str(it)),
)
def test_a_driver_that_breaks_a_rule(breaking: Callable[[Driver], None], features: int) -> None:
    one = ready(features)
    before = one.ram.read(0x10000, 0x1000)
    breaking(one)
    one.notify()
    assert one.get(Register.STATUS) & NEEDS_RESET
    assert one.interrupted() == 2
    if breaking is not device_ring_not_in_ram and breaking is not indirect_but_not_agreed:
        assert one.ram.read(0x10000, 0x1000) == before
    one.seen = 0
    one.ram.write(USED, bytes(4))
    one.notify()  # nothing is done until it is reset
    assert not one.returned()
    assert one.interrupted() == 0
    one.start()
    one.offer([], [8])
    one.notify()
    assert one.returned() == [(0, 8)]


def test_a_queue_that_is_in_use_is_not_changed() -> None:
    one = ready()
    one.put(Register.QUEUE_SIZE, 4)
    one.put(Register.DESCRIPTORS_LOW, 0)
    state = one.device.save().queues[0]
    assert (state.size, state.descriptors) == (ENTRIES, TABLE)
    one.put(Register.QUEUE_READY, 0)
    for size, taken in ((3, ENTRIES), (0, ENTRIES), (128, ENTRIES), (64, 64), (1, 1)):
        one.put(Register.QUEUE_SIZE, size)
        assert one.device.save().queues[0].size == taken


def test_rings_over_each_other_make_no_work_without_an_end() -> None:
    """What is given back makes the driver's index go ahead of the device's, each time."""
    one = ready()
    state = one.device.save()
    (queue,) = state.queues
    one.device.load(replace(state, queues=(replace(queue, device=AVAILABLE, used=5),)))
    one.describe(0, BUFFERS, 8, WRITE)
    one.ram.write(AVAILABLE, struct.pack("<HH", 0, 5))
    one.notify()
    assert one.get(Register.STATUS) & NEEDS_RESET


@given(st.integers(0, 1 << 32), st.booleans())
def test_whatever_a_driver_does_the_device_goes_on(seed: int, restart: bool) -> None:
    """Random rings, registers and notifications; saved and loaded amid them, two devices do the same."""
    chance = random.Random(seed)
    one, other = (Driver(Rng(b"seed"), INDIRECT_DESC | EVENT_IDX) for _ in range(2))
    words = (0, 1, 2, 3, 4, 5, 8, 16, 0x1000, 0x3000, 0x4000, 0x6000, 0x10000, 0xFFFF, 0xFFFF_FFFF)
    for step in range(60):
        place = chance.choice((TABLE, AVAILABLE, USED, INDIRECT_TABLE)) + 2 * chance.randrange(40)
        value, register = chance.choice(words), chance.choice([*Register])
        descriptor = struct.pack("<QIHH", chance.choice(words), chance.randrange(64), chance.randrange(8), chance.randrange(18))
        kind = chance.randrange(6)
        for driver in (one, other):
            match kind:
                case 0:
                    driver.ram.write_int(place, 4, value)
                case 1:
                    driver.ram.write(TABLE + 16 * (step % 17), descriptor)
                case 2:
                    driver.ram.write(INDIRECT_TABLE + 16 * (step % 9), descriptor)
                case 3:
                    driver.put(register, value)
                case 4:
                    driver.available(value & 15)
                case _:
                    driver.notify()
        if step == 40 and restart:
            other.device.load(decode(encode(one.device.save()), TransportState, {type(part) for part in within(one.device.save())}))
    assert one.device.save() == other.device.save()
    assert one.ram.read(0, 1 << 20) == other.ram.read(0, 1 << 20)
    assert one.line.level == bool(one.get(Register.INTERRUPT_STATUS))


def test_what_is_not_its_state() -> None:
    one, state = ready(), ready().device.save()
    before = one.device.save()
    for wrong, story in (
        (replace(state, driver_features=1), "features 0x1 were never offered"),
        (replace(state, queues=()), "0 queues are not 1"),
        (replace(state, queues=(replace(state.queues[0], size=3),)), "a queue of 3 entries"),
        (replace(state, function=state.queues[0]), "a QueueState is another device's"),
    ):
        with pytest.raises(StateError, match=story):
            one.device.load(wrong)
    assert one.device.save() == before


def test_entropy_of_the_host_differs() -> None:
    one = Driver(Rng())
    first, second = (one.offer([], [32], first)[0] for first in (0, 2))
    one.notify()
    assert one.ram.read(first, 32) != one.ram.read(second, 32)
