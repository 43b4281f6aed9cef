"""A CD drive behind a virtio SCSI host: requests as a driver sends them, however they are cut, and as none should."""

import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from trapgate.devices.virtio.queue import INDIRECT_DESC
from trapgate.devices.virtio.scsi import BAD_TARGET, CHECK_CONDITION, GOOD, OK, OVERRUN, CdHost, CdState
from trapgate.disk import Disk
from trapgate.state import StateError
from unit.devices.virtio.driver import NEEDS_RESET, Driver, Register

CONTENT = random.Random(4).randbytes(64 * 2048)
UNIT = b"\x01\0\x40\0\0\0\0\0"
INQUIRY = b"\x12\0\0\0\x24"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "x.iso").write_bytes(CONTENT)
    return tmp_path / "x.iso"


@pytest.fixture
def disk(path: Path) -> Iterator[Disk]:
    disk = Disk(path, read_only=True)
    yield disk
    disk.close()


@pytest.fixture
def one(disk: Disk) -> Driver:
    return Driver(CdHost(disk), INDIRECT_DESC, queue=2)


def request(command: bytes, unit: bytes = UNIT) -> bytes:
    return struct.pack("<8sQ3B32s", unit, 7, 0, 0, 0, command)


def read(first: int, count: int) -> bytes:
    return struct.pack(">BxIxH", 0x28, first, count)


def ask(one: Driver, readable: list[bytes], room: list[int], *, cut: int = 108) -> tuple[int, int, int, bytes, bytes]:
    """Response, status, residual, sense data and data of one request; the first `cut` bytes of room are a buffer of their own."""
    sizes = [cut, 108 - cut, *room] if cut < 108 else [108, *room]
    places = one.offer(readable, sizes)
    one.notify()
    ((_, written),) = one.returned()
    whole = b"".join(one.ram.read(place, size) for place, size in zip(places, sizes, strict=True))
    sensed, residual, _, status, response = struct.unpack_from("<IIHBB", whole)
    assert written == 108 + sum(room) - residual
    return response, status, residual, whole[12 : 12 + sensed], whole[108:written]


def test_configuration(one: Driver) -> None:
    numbers = [one.device.read(0x100 + at, 4) for at in range(0, 28, 4)]
    assert numbers == [1, 126, 0xFFFF, 128, 16, 96, 32]
    assert one.device.read(0x100 + 28, 8) == 0


@pytest.mark.parametrize("cut", [108, 5])
def test_a_disc_is_read_into_buffers_of_any_size(one: Driver, cut: int) -> None:
    header = request(read(3, 2))
    assert ask(one, [header[:9], header[9:]], [1000, 3000, 96], cut=cut) == (OK, GOOD, 0, b"", CONTENT[3 * 2048 : 5 * 2048])
    assert ask(one, [header], [8192])[:3] == (OK, GOOD, 4096)
    assert ask(one, [header], [2048])[::4] == (OVERRUN, CONTENT[3 * 2048 : 4 * 2048])


def test_what_fails_is_told_by_sense_data(one: Driver, path: Path) -> None:
    response, status, residual, sense, data = ask(one, [request(read(63, 2))], [4096])
    assert (response, status, residual, data) == (OK, CHECK_CONDITION, 4096, b"")
    assert (len(sense), sense[0], sense[2], sense[12]) == (18, 0x70, 5, 0x21)
    os.truncate(path, 2048)
    assert ask(one, [request(read(0, 1))], [2048])[1] == GOOD
    _, status, _, sense, _ = ask(one, [request(read(1, 1))], [2048])
    assert (status, sense[2], sense[12]) == (CHECK_CONDITION, 3, 0x11)


@pytest.mark.parametrize("unit", [b"\x01\x01\x40\0", b"\x01\xff\0\0", b"\0\0\x40\0"])
def test_there_is_one_target(one: Driver, unit: bytes) -> None:
    assert ask(one, [request(INQUIRY, unit)], [36])[0] == BAD_TARGET


def test_other_units_are_not_there(one: Driver) -> None:
    assert ask(one, [request(INQUIRY, b"\x01\0\x40\x01")], [36])[4][0] == 0x7F
    assert ask(one, [request(bytes(6), b"\x01\0\x40\x01")], [])[1] == CHECK_CONDITION


@pytest.mark.parametrize(("readable", "room"), [([b"short"], [108]), ([request(INQUIRY)], [107])])
def test_a_request_without_header_or_response_breaks_the_queue(one: Driver, readable: list[bytes], room: list[int]) -> None:
    one.offer(readable, room)
    one.notify()
    assert one.get(Register.STATUS) & NEEDS_RESET


def test_control_requests_are_answered_and_events_wait(one: Driver) -> None:
    control, events = one.beside(0), one.beside(1)
    for asked, answer in ((struct.pack("<II8sQ", 0, 1, UNIT, 7), bytes(1)), (struct.pack("<I8sI", 1, UNIT, 0), bytes(5))):
        (place,) = control.offer([asked], [len(answer)])
        control.ram.write(place, b"\xff" * len(answer))
        control.notify()
        assert control.returned()[-1][1] == len(answer)
        assert control.ram.read(place, len(answer)) == answer
    events.offer([], [16])
    events.notify()
    assert not events.returned()


def test_its_state_is_of_one_disc(one: Driver, disk: Disk) -> None:
    host = CdHost(disk)
    host.load(host.save())
    with pytest.raises(StateError, match="a disc of 5 bytes"):
        host.load(CdState(5))
