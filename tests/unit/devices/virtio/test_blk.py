"""A disk behind virtio: each request, as a driver sends it and as none should."""

import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from trapgate.devices.virtio.blk import IO_ERROR, OK, UNSUPPORTED, Blk, Request
from trapgate.devices.virtio.queue import INDIRECT_DESC
from trapgate.devices.virtio.transport import Register
from trapgate.disk import SECTOR, Disk
from unit.devices.virtio.driver import NEEDS_RESET, Driver

SECTORS = 64
CONTENT = random.Random(3).randbytes(SECTORS * SECTOR)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "disk.img").write_bytes(CONTENT + b"less than a sector")
    return tmp_path / "disk.img"


@pytest.fixture(params=["file", "snapshot"])
def disk(path: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    disk = Disk(path, snapshot=request.param == "snapshot")
    yield disk
    disk.close()


@pytest.fixture
def one(disk: Disk) -> Driver:
    return Driver(Blk(disk), INDIRECT_DESC)


def header(kind: int, sector: int = 0) -> bytes:
    return struct.pack("<IIQ", kind, 0, sector)


def ask(one: Driver, readable: list[bytes], room: list[int], *, indirect: bool = False) -> tuple[int, int, bytes]:
    """Status, bytes written, and data of one request."""
    places = one.offer(readable, [*room, 1], indirect=indirect)
    one.notify()
    ((_, written),) = one.returned()
    assert one.interrupted() == 1
    data = b"".join(one.ram.read(place, size) for place, size in zip(places, room, strict=False))
    return one.ram.read(places[-1], 1)[0], written, data


def test_configuration(one: Driver) -> None:
    assert [one.device.read(0x100 + at, size) for at, size in ((0, 4), (4, 4), (12, 4), (20, 4))] == [SECTORS, 0, 126, 512]
    assert one.device.read(0x100, 8) == SECTORS
    assert one.device.read(0x124, 4) == one.device.read(0x130, 4) == 1 << 15
    assert one.device.read(0x200 - 4, 4) == 0
    one.put(Register.DEVICE_FEATURES_SELECT, 0)
    assert one.get(Register.DEVICE_FEATURES) & 0xFFFF == 0x6244


@pytest.mark.parametrize("indirect", [False, True])
def test_reads_and_writes_however_they_are_cut(one: Driver, indirect: bool) -> None:
    assert ask(one, [header(Request.READ, 3)], [512, 1000, 24], indirect=indirect) == (OK, 1537, CONTENT[3 * 512 : 6 * 512])
    data = bytes(range(256)) * 4
    cut = header(Request.WRITE, 7)
    assert ask(one, [cut[:3], cut[3:] + data[:100], data[100:]], [], indirect=indirect)[:2] == (OK, 1)
    changed = CONTENT[6 * 512 : 7 * 512] + data + CONTENT[9 * 512 : 10 * 512]
    assert ask(one, [header(Request.READ, 6)], [4 * 512])[2] == changed
    assert ask(one, [header(Request.FLUSH)], [])[0] == OK


def test_what_is_written_is_in_the_file_or_in_memory_alone(one: Driver, disk: Disk, path: Path) -> None:
    ask(one, [header(Request.WRITE, SECTORS - 1), b"x" * 512], [])
    ask(one, [header(Request.WRITE_ZEROES), struct.pack("<QII", 1, 2, 1)], [])
    changed = CONTENT[:512] + bytes(1024) + CONTENT[1536:-512] + b"x" * 512
    kept = path.read_bytes()[: len(CONTENT)]
    assert kept == (CONTENT if disk.save().written is not None else changed)
    assert ask(one, [header(Request.READ)], [SECTORS * SECTOR])[2] == changed


def test_identity_and_what_is_unknown(one: Driver) -> None:
    assert ask(one, [header(Request.GET_ID)], [20]) == (OK, 21, b"disk.img".ljust(20, b"\0"))
    assert ask(one, [header(Request.GET_ID)], [4])[2] == b"disk"
    assert ask(one, [header(99)], [8])[:2] == (UNSUPPORTED, 1)


@pytest.mark.parametrize(
    ("kind", "sector", "data", "room", "status"),
    [
        (Request.READ, SECTORS, b"", 512, IO_ERROR),
        (Request.READ, SECTORS - 1, b"", 1024, IO_ERROR),
        (Request.READ, (1 << 64) - 1, b"", 512, IO_ERROR),
        (Request.READ, 0, b"", 511, IO_ERROR),
        (Request.WRITE, SECTORS, b"x" * 512, 0, IO_ERROR),
        (Request.WRITE, 0, b"x" * 513, 0, IO_ERROR),
        (Request.WRITE_ZEROES, 0, struct.pack("<QII", 0, (1 << 15) + 1, 0), 0, IO_ERROR),
        (Request.WRITE_ZEROES, 0, struct.pack("<QII", SECTORS, 1, 0), 0, IO_ERROR),
        (Request.WRITE_ZEROES, 0, struct.pack("<QII", 0, 1, 2), 0, UNSUPPORTED),
        (Request.WRITE_ZEROES, 0, struct.pack("<QII", 0, 1, 0) * 2, 0, UNSUPPORTED),
        (Request.WRITE_ZEROES, 0, b"short", 0, UNSUPPORTED),
        (Request.DISCARD, 0, struct.pack("<QII", 0, 1, 1), 0, UNSUPPORTED),
        (Request.DISCARD, 0, struct.pack("<QII", 0, 4, 0), 0, OK),
    ],
)
def test_what_cannot_be_done_changes_nothing(one: Driver, kind: int, sector: int, data: bytes, room: int, status: int) -> None:
    assert ask(one, [header(kind, sector), data] if data else [header(kind, sector)], [room] if room else [])[:2] == (status, 1)
    assert ask(one, [header(Request.READ)], [SECTORS * SECTOR])[2] == CONTENT


@pytest.mark.parametrize(("readable", "room"), [([b"short"], [1]), ([header(0)], [])])
def test_a_request_without_header_or_status_breaks_the_queue(one: Driver, readable: list[bytes], room: list[int]) -> None:
    one.offer(readable, room)
    one.notify()
    assert one.get(Register.STATUS) & NEEDS_RESET


def test_a_disk_that_is_read_only(path: Path) -> None:
    disk = Disk(path, read_only=True)
    one = Driver(Blk(disk))
    one.put(Register.DEVICE_FEATURES_SELECT, 0)
    assert one.get(Register.DEVICE_FEATURES) & 0xFFFF == 0x0264
    for kind, data in ((Request.WRITE, b"x" * 512), (Request.WRITE_ZEROES, struct.pack("<QII", 0, 1, 0))):
        assert ask(one, [header(kind), data], [])[0] == IO_ERROR
    assert ask(one, [header(Request.FLUSH)], [])[0] == OK
    disk.close()
    assert path.read_bytes().startswith(CONTENT)


def test_what_the_host_refuses_is_an_error_of_the_guest(one: Driver, path: Path) -> None:
    os.truncate(path, 4096)
    assert ask(one, [header(Request.READ, 8)], [512])[:2] == (IO_ERROR, 1)
    assert ask(one, [header(Request.READ)], [512])[2] == CONTENT[:512]


def test_a_device_that_was_loaded_has_what_was_in_memory(path: Path) -> None:
    first, second = Disk(path, snapshot=True), Disk(path, snapshot=True)
    one, other = Driver(Blk(first)), Driver(Blk(second))
    ask(one, [header(Request.WRITE, 9), b"y" * 512], [])
    ask(other, [header(Request.WRITE, 20), b"z" * 512], [])
    other.device.load(one.device.save())
    assert ask(other, [header(Request.READ)], [SECTORS * SECTOR])[2] == CONTENT[: 9 * 512] + b"y" * 512 + CONTENT[10 * 512 :]
    first.close()
    second.close()
