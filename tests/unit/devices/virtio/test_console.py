"""A console device: ports introduced one by one, bytes both ways, and drivers that talk nonsense."""

import struct
from collections.abc import Callable

import pytest

from trapgate.devices.virtio.console import (
    ADD,
    CONTROL,
    IS_CONSOLE,
    MOST_WAITING,
    NAME,
    OPEN,
    PORT_READY,
    READY,
    Console,
    ConsolePort,
    ConsoleState,
)
from trapgate.devices.virtio.transport import Register
from trapgate.encoding import decode, encode
from trapgate.state import StateError
from unit.devices.virtio.driver import NEEDS_RESET, Driver

RECEIVE, TRANSMIT, CONTROL_IN, CONTROL_OUT, SECOND_RECEIVE, SECOND_TRANSMIT = range(6)
MULTIPORT = 1 << 1


class Bench:
    """A device of two ports, the second with a name, and its queues."""

    def __init__(self) -> None:
        self.printed = bytearray(), bytearray()
        self.console = Console([ConsolePort(self.printed[0].extend), ConsolePort(self.printed[1].extend, "agent")])
        first = Driver(self.console, MULTIPORT)
        self.queues = [first, *(first.beside(number) for number in range(1, 6))]
        self.device = first

    def say(self, *message: int) -> None:
        self.queues[CONTROL_OUT].offer([CONTROL.pack(*message)], [])
        self.queues[CONTROL_OUT].notify()
        self.queues[CONTROL_OUT].returned()

    def take(self, number: int, count: int, room: int = 64) -> list[bytes]:
        """Offer room for some chains, and what came into those that came back."""
        queue = self.queues[number]
        places = [queue.offer([], [room], first)[0] for first in range(count)]
        queue.notify()
        return [queue.ram.read(places[head], written) for head, written in queue.returned()]


def test_ports_are_introduced() -> None:
    one = Bench()
    assert [one.device.device.read(0x100 + at, 4) for at in (0, 4, 8)] == [0, 2, 0]
    assert one.take(CONTROL_IN, 8) == []
    one.say(0, READY, 1)
    one.say(0, PORT_READY, 1)
    one.say(1, PORT_READY, 1)
    heard = [one.device.ram.read(one.queues[CONTROL_IN].room(head), written) for head, written in one.queues[CONTROL_IN].returned()]
    assert heard == [
        CONTROL.pack(0, ADD, 1), CONTROL.pack(1, ADD, 1), CONTROL.pack(0, IS_CONSOLE, 1), CONTROL.pack(0, OPEN, 1),
        CONTROL.pack(1, NAME, 1) + b"agent", CONTROL.pack(1, OPEN, 1),
    ]  # fmt: skip
    assert not one.console.opened(1)
    one.say(1, OPEN, 1)
    assert one.console.opened(1)
    assert not one.console.opened(0)


def test_output_of_each_port() -> None:
    one = Bench()
    one.queues[TRANSMIT].offer([b"to the ", b"console"], [])
    one.queues[TRANSMIT].notify()
    one.queues[SECOND_TRANSMIT].offer([b"x" * 3000], [])
    one.queues[SECOND_TRANSMIT].notify()
    assert one.printed == (b"to the console", b"x" * 3000)
    assert one.queues[TRANSMIT].returned() == [(0, 0)]


def test_input_waits_for_room() -> None:
    one = Bench()
    one.console.feed(0, b"abc")
    one.console.feed(1, b"0123456789")
    one.say(0, OPEN, 1)
    assert one.take(RECEIVE, 2) == [b"abc"]
    assert one.take(SECOND_RECEIVE, 1, room=4) == []  # nobody has it open
    one.say(1, OPEN, 1)
    assert one.queues[SECOND_RECEIVE].returned() == [(0, 4)]
    assert one.take(SECOND_RECEIVE, 1, room=4) == [b"4567"]
    one.console.feed(1, b"more")
    assert one.take(SECOND_RECEIVE, 3, room=4) == [b"89mo", b"re"]
    one.device.interrupted()
    one.console.feed(1, b"!")  # there is room still
    assert one.device.interrupted() == 1
    assert one.queues[SECOND_RECEIVE].returned() == [(2, 1)]


def test_a_driver_of_one_port_opens_none() -> None:
    printed = bytearray()
    console = Console([ConsolePort(printed.extend)])
    one = Driver(console)
    place = one.offer([], [8])[0]
    console.feed(0, b"abc")
    assert one.ram.read(place, 3) == b"abc"
    assert one.returned() == [(0, 3)]


def test_saved_and_loaded() -> None:
    one, other = Bench(), Bench()
    one.say(0, READY, 1)
    one.say(1, OPEN, 1)
    one.console.feed(0, b"waits")
    one.say(0, OPEN, 1)
    other.console.load(decode(encode(one.console.save()), ConsoleState))
    assert other.console.save() == one.console.save()
    assert other.take(RECEIVE, 1) == [b"waits"]
    assert other.take(CONTROL_IN, 3) == [CONTROL.pack(0, ADD, 1), CONTROL.pack(1, ADD, 1)]
    assert other.console.opened(1)
    with pytest.raises(StateError, match="1 ports are not 2"):
        one.console.load(ConsoleState((b"",), (False,), (0,), ()))


def test_the_end_of_input_comes_behind_it() -> None:
    one = Bench()
    one.say(1, PORT_READY, 1)
    one.say(1, OPEN, 1)
    assert one.take(CONTROL_IN, 2) == [CONTROL.pack(1, NAME, 1) + b"agent", CONTROL.pack(1, OPEN, 1)]
    one.console.feed(1, b"last words")
    one.console.end(1)
    assert one.take(CONTROL_IN, 1) == []
    assert one.console.waiting(1) == 10
    assert one.take(SECOND_RECEIVE, 1) == [b"last words"]
    head, written = one.queues[CONTROL_IN].returned()[0]
    assert one.device.ram.read(one.queues[CONTROL_IN].room(head), written) == CONTROL.pack(1, OPEN, 0)
    one.console.end(1)
    assert one.take(CONTROL_IN, 1) == []  # told once
    other = Bench()
    other.console.load(decode(encode(one.console.save()), ConsoleState))
    other.say(1, PORT_READY, 1)
    assert other.take(CONTROL_IN, 2)[1] == CONTROL.pack(1, OPEN, 0)


def test_output_that_is_held_stays_with_the_driver() -> None:
    got, taken, posted = bytearray(), list[int](), list[Callable[[], None]]()
    port = ConsolePort(got.extend)
    port.taken = lambda: taken.append(port.waiting())
    console = Console([port])
    receive = Driver(console)
    transmit = receive.beside(1)
    port.lead_to(console, 0, posted.append)
    port.hold(True)
    transmit.offer([b"one"], [], 0)
    transmit.offer([b"two"], [], 1)
    transmit.notify()
    assert (got, transmit.returned(), posted) == (b"", [], [])
    port.hold(False)
    posted.pop()()
    assert (got, transmit.returned()) == (b"onetwo", [(0, 0), (1, 0)])
    port.hold(True)
    transmit.offer([b"three"], [], 2)
    transmit.notify()
    assert got == b"onetwo"
    port.drain()
    assert got == b"onetwothree"
    assert port.held
    receive.offer([], [4])
    port.feed(b"abcdef")
    posted.pop()()
    assert taken == [2]


def cut_short(one: Bench) -> None:
    one.queues[CONTROL_OUT].offer([b"short"], [])
    one.queues[CONTROL_OUT].notify()


def of_no_port(one: Bench) -> None:
    one.say(2, PORT_READY, 1)


def without_end(one: Bench) -> None:
    for _ in range(MOST_WAITING):
        one.say(0, PORT_READY, 1)


@pytest.mark.parametrize("talking", [cut_short, of_no_port, without_end])
def test_drivers_that_talk_nonsense(talking: Callable[[Bench], None]) -> None:
    one = Bench()
    talking(one)
    assert one.device.get(Register.STATUS) & NEEDS_RESET
    assert len(one.console.save().control) <= MOST_WAITING


def test_a_port_is_fed_from_any_thread() -> None:
    port, posted = ConsolePort(lambda data: None), list[Callable[[], None]]()
    with pytest.raises(AssertionError, match="no machine"):
        port.feed(b"x")
    console = Console([port])
    Driver(console)
    port.lead_to(console, 0, posted.append)
    port.feed(b"x")
    assert console.save().waiting == (b"",)
    posted[0]()
    assert console.save().waiting == (b"x",)
    assert struct.calcsize("<IHH") == CONTROL.size
