"""A share behind virtio: requests in chains of every cut, and at rest."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from trapgate.devices.virtio.fs import Fs, FsState
from trapgate.devices.virtio.queue import INDIRECT_DESC
from trapgate.fuse import protocol
from trapgate.fuse.protocol import ANSWER, HEADER, Operation
from trapgate.fuse.share import Share
from trapgate.state import StateError
from unit.devices.virtio.driver import NEEDS_RESET, Driver

CONTENT = os.urandom(3000)


@pytest.fixture
def function(tmp_path: Path) -> Iterator[Fs]:
    (tmp_path / "file").write_bytes(CONTENT)
    share = Share(tmp_path, tag="T", lasting=True)
    function = Fs(share)
    yield function
    function.close()
    share.close()


def request(operation: int, body: bytes, node: int = 1) -> bytes:
    return HEADER.pack(HEADER.size + len(body), operation, 77, node, 0, 0, 1, 0, 0) + body


def ask(one: Driver, readable: list[bytes], room: list[int], *, indirect: bool = False) -> tuple[int, bytes]:
    """The error and what comes behind it, of one request."""
    places = one.offer(readable, room, indirect=indirect)
    one.notify()
    ((_, written),) = one.returned()
    data = b"".join(one.ram.read(place, size) for place, size in zip(places, room, strict=True))[:written]
    length, error, unique = ANSWER.unpack_from(data)
    assert (length, unique) == (written, 77)
    return -error, data[ANSWER.size :]


@pytest.fixture
def one(function: Fs) -> Driver:
    driver = Driver(function, INDIRECT_DESC, queue=1)
    error, data = ask(driver, [request(Operation.INIT, protocol.INIT.pack(7, 41, 4096, 0xFFFF_FFFF) + bytes(48), 0)], [16, 64])
    assert (error, len(data)) == (0, 64)
    return driver


def test_configuration(one: Driver) -> None:
    assert bytes(one.device.read(0x100 + at, 1) for at in range(36)) == b"T".ljust(36, b"\0")
    assert one.device.read(0x100 + 36, 4) == 1


@pytest.mark.parametrize("indirect", [False, True])
def test_a_read_goes_where_it_belongs_however_it_is_cut(one: Driver, indirect: bool) -> None:
    error, entry = ask(one, [request(Operation.LOOKUP, b"file\0")], [16, 128], indirect=indirect)
    assert (error, len(entry)) == (0, 128)
    node = protocol.ENTRY.unpack(entry)[0]
    read = request(Operation.READ, protocol.READ.pack(0, 100, 2500, 0, 0, 0, 0), node)
    for cut in ([16, 2500], [16, 1000, 1, 1499], [10, 6, 2500], [20, 2496]):
        assert ask(one, [read[:7], read[7:50], read[50:]], cut, indirect=indirect) == (0, CONTENT[100:2600])
    assert ask(one, [read], [16, 1000]) == (0, CONTENT[100:1100])
    assert ask(one, [read], [16]) == (0, b"")


def test_long_names_and_what_is_forgotten(one: Driver, function: Fs) -> None:
    error, entry = ask(one, [request(Operation.LOOKUP, b"x" * 255 + b"\0")], [16, 128])
    assert (error, protocol.ENTRY.unpack(entry)[0]) == (0, 0)
    assert ask(one, [request(Operation.LOOKUP, b"x" * 256 + b"\0")], [16, 128]) == (errno.ENAMETOOLONG, b"")
    node = protocol.ENTRY.unpack(ask(one, [request(Operation.LOOKUP, b"file\0")], [16, 128])[1])[0]
    urgent = one.beside(0)
    urgent.offer([request(Operation.FORGET, protocol.FORGET.pack(1), node)], [])
    urgent.notify()
    assert urgent.returned() == [(0, 0)]
    assert ask(one, [request(Operation.GETATTR, bytes(16), node)], [16, 104]) == (errno.ESTALE, b"")


@pytest.mark.parametrize(
    ("readable", "room"),
    [
        ([bytes(39)], [16]),
        ([], [16]),
        ([request(Operation.LOOKUP, b"file\0")], [16, 127]),
        ([request(Operation.STATFS, b"")], [15]),
    ],
)
def test_a_broken_request_needs_a_reset(one: Driver, readable: list[bytes], room: list[int]) -> None:
    one.offer(readable, room)
    one.notify()
    assert one.returned() == []
    assert one.get(0x70) & NEEDS_RESET
    one.start()
    assert ask(one, [request(Operation.STATFS, b"")], [16, 80]) == (errno.EIO, b""), "and to be mounted again"


def test_a_share_that_is_mounted_is_not_at_rest(one: Driver, function: Fs, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="share 'T' mounted: unmount it there, then save"):
        one.device.save()
    assert ask(one, [request(Operation.DESTROY, b"")], [16]) == (0, b"")
    state = one.device.save()
    assert state.function == FsState("T")
    other_share = Share(tmp_path, tag="other")
    other = Driver(Fs(other_share), INDIRECT_DESC)
    with pytest.raises(StateError, match="the share 'T' is not 'other'"):
        other.device.load(state)
    same_share = Share(tmp_path / "..", tag="T")
    same = Driver(Fs(same_share), INDIRECT_DESC)
    same.device.load(state)
    assert same.device.save() == state
    for share in (other_share, same_share):
        share.close()
