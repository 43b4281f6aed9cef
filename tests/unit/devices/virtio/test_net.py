"""A network device against its driver: frames both ways, over several buffers, when there is no room; link and state."""

import struct
from collections.abc import Callable

import pytest

from trapgate.devices.virtio.net import ADDRESS, HEADER, MERGED, MOST_FRAMES, MOST_WAITING, STATUS, Net, NetworkPort
from trapgate.devices.virtio.transport import CONFIGURATION, CONFIGURATION_CHANGED, USED_BUFFER
from trapgate.encoding import decode, encode
from unit.devices.virtio.driver import NEEDS_RESET, Driver, Register

FRAME = bytes(range(60))


class Bench:
    """A device with its driver; what is posted is done at once."""

    def __init__(self, features: int = 0) -> None:
        self.sent = list[bytes]()
        self.port = NetworkPort(self.sent.append)
        self.net = Net(self.port)
        self.receiver = Driver(self.net, features)
        self.sender = self.receiver.beside(1)
        post: Callable[[Callable[[], None]], None] = lambda call: call()  # noqa: E731
        self.port.lead_to(self.net, post)

    def arrived(self, places: list[int], length: int) -> bytes:
        return self.receiver.ram.read(places[0], length)


def test_what_the_guest_sends_comes_out_without_its_header() -> None:
    bench = Bench()
    bench.sender.offer([bytes(HEADER.size) + FRAME[:20], FRAME[20:]], [])
    bench.sender.notify()
    assert bench.sent == [FRAME]
    assert bench.sender.returned() == [(0, 0)]
    bench.sender.offer([bytes(HEADER.size) + b"short"], [], 2)  # less than an Ethernet header
    bench.sender.offer([bytes(HEADER.size), bytes(70_000)], [], 3)
    bench.sender.notify()
    assert len(bench.sent) == 1
    assert [head for head, _ in bench.sender.returned()] == [2, 3]


def test_what_arrives_is_stored_behind_a_header_or_waits() -> None:
    bench = Bench()
    bench.port.feed(FRAME)
    assert bench.port.waiting() == len(FRAME)
    places = bench.receiver.offer([], [1526])
    bench.receiver.notify()
    assert bench.receiver.returned() == [(0, HEADER.size + len(FRAME))]
    assert bench.arrived(places, HEADER.size + len(FRAME)) == HEADER.pack(0, 0, 0, 0, 0, 0, 1) + FRAME
    assert bench.receiver.interrupted() == USED_BUFFER
    assert bench.port.waiting() == 0


def test_a_frame_takes_several_buffers_once_there_are_enough() -> None:
    bench = Bench(MERGED)
    frame = bytes(at & 0xFF for at in range(150))
    first = bench.receiver.offer([], [64], 0)
    bench.port.feed(frame)
    assert bench.receiver.returned() == []  # nothing is taken yet
    places = [first, *(bench.receiver.offer([], [64], at) for at in (1, 2))]
    bench.receiver.notify()
    found = bench.receiver.returned()
    assert found == [(0, 64), (1, 64), (2, HEADER.size + 150 - 128)]
    data = b"".join(bench.arrived(place, length) for place, (_, length) in zip(places, found, strict=True))
    assert data == HEADER.pack(0, 0, 0, 0, 0, 0, 3) + frame


def test_a_driver_that_does_not_merge_gets_what_its_buffer_holds() -> None:
    bench = Bench()
    bench.receiver.offer([], [64])
    bench.port.feed(bytes(150))
    assert bench.receiver.returned() == [(0, 64)]
    bench.receiver.offer([], [HEADER.size - 1], 1)
    bench.port.feed(FRAME)
    assert bench.receiver.get(Register.STATUS) & NEEDS_RESET


def test_what_waits_has_a_bound() -> None:
    bench = Bench()
    taken: list[int] = []
    bench.port.taken = lambda: taken.append(1)
    for _ in range(MOST_FRAMES + 10):
        bench.port.feed(FRAME)
    assert len(bench.net.save().waiting) == MOST_FRAMES
    assert bench.port.waiting() == MOST_FRAMES * len(FRAME)
    bench.receiver.start()  # a reset of the device: all of it is lost
    assert bench.port.waiting() == 0
    for _ in range(100):
        bench.port.feed(bytes(65_000))
    assert MOST_WAITING < bench.port.waiting() <= MOST_WAITING + 65_000
    assert taken


def test_the_link() -> None:
    bench = Bench(STATUS)

    def status() -> int:
        return bench.receiver.device.read(CONFIGURATION + 6, 2)

    assert bytes(bench.receiver.device.read(CONFIGURATION + at, 1) for at in range(6)) == ADDRESS
    assert status() == 1
    bench.port.link(False)
    assert status() == 0
    assert bench.receiver.interrupted() == CONFIGURATION_CHANGED
    bench.port.feed(FRAME)
    bench.sender.offer([bytes(HEADER.size) + FRAME], [])
    bench.sender.notify()
    assert (bench.sent, bench.net.save().waiting) == ([], ())
    assert bench.sender.returned() == [(0, 0)]
    bench.port.link(True)
    assert status() == 1


def test_what_waits_is_saved() -> None:
    one, other = Bench(), Bench()
    one.port.feed(FRAME)
    state = one.receiver.device.save()
    other.receiver.device.load(decode(encode(state), type(state), {type(one) for one in (state, state.function, *state.queues)}))
    places = other.receiver.offer([], [1526])
    other.receiver.notify()
    assert other.arrived(places, HEADER.size + len(FRAME))[HEADER.size :] == FRAME


@pytest.mark.parametrize("length", [0, 13, 65_554, 1 << 20])
def test_what_is_no_frame(length: int) -> None:
    bench = Bench()
    bench.port.feed(bytes(length))
    assert bench.net.save().waiting == ()


def test_the_header_is_that_of_a_modern_device() -> None:
    assert HEADER.size == struct.calcsize("<BBHHHHH") == 12
