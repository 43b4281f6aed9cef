"""Models a virtio block device (virtio 1.2, 5.2): requests for the sectors of a `Disk`."""

import struct
from enum import IntEnum
from typing import ClassVar

from trapgate.devices.parts import Maker
from trapgate.devices.virtio.queue import BrokenQueue, Chain, Place, Queue, length_of, part
from trapgate.devices.virtio.transport import Function, virtio
from trapgate.disk import SECTOR, Disk, DiskState
from trapgate.hostcall import HostError

HEADER = struct.Struct("<IIQ")  # type, nothing, sector
RANGE = struct.Struct("<QII")  # sector, sectors, flags: of DISCARD and WRITE_ZEROES
OK, IO_ERROR, UNSUPPORTED = 0, 1, 2  # status
SEG_MAX, READ_ONLY, BLOCK_SIZE, CAN_FLUSH, CAN_DISCARD, CAN_WRITE_ZEROES = 1 << 2, 1 << 5, 1 << 6, 1 << 9, 1 << 13, 1 << 14
ENTRIES = 128  # of the queue
MOST_SECTORS = 1 << 15  # of one DISCARD or WRITE_ZEROES: 16 MiB
UNMAP = 1 << 0  # flag of a range
ID_LENGTH = 20


class Request(IntEnum):
    """Types of requests."""

    READ = 0
    WRITE = 1
    FLUSH = 4
    GET_ID = 8
    DISCARD = 11
    WRITE_ZEROES = 13


class Blk(Function[DiskState]):
    """One queue. A request is done when the notification of it returns; what the host refuses is an I/O error of the guest's."""

    kind: ClassVar[int] = 2
    queues = (ENTRIES,)

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        writing = READ_ONLY if disk.read_only else CAN_DISCARD | CAN_WRITE_ZEROES
        self.features = SEG_MAX | BLOCK_SIZE | CAN_FLUSH | writing

    def configuration(self) -> bytes:
        """struct virtio_blk_config, as far as the features go (5.2.4)."""
        ranges = struct.pack("<IIIIIB3x", MOST_SECTORS, 1, 1, MOST_SECTORS, 1, 0)
        block = struct.pack("<QIIHBBI", self._disk.size // SECTOR, 0, ENTRIES - 2, 0, 0, 0, SECTOR)
        return block.ljust(36, b"\0") + ranges

    def save(self) -> DiskState:
        """What is in memory of the disk: between two notifications nothing is under way."""
        return self._disk.save()

    def load(self, state: DiskState) -> None:
        """What is in memory of the disk. StateError: it is of another one."""
        self._disk.load(state)

    def notified(self, number: int, queue: Queue) -> None:
        """Do all that is asked, in order."""
        for chain in queue:
            queue.put(chain, self._serve(chain))

    def _serve(self, chain: Chain) -> int:
        """Do one request; how many bytes of its room are written, the status as its last one."""
        ram, room = self.transport.ram, length_of(chain.writable) - 1
        header = chain.read(ram, 0, HEADER.size)
        if len(header) < HEADER.size or room < 0:
            raise BrokenQueue("a request without room for its header or its status")
        kind, _, sector = HEADER.unpack(header)
        try:
            status, done = self._do(kind, sector, chain, room)
        except HostError:
            status, done = IO_ERROR, 0
        chain.write(ram, room, bytes([status]))
        return done + 1

    def _do(self, kind: int, sector: int, chain: Chain, room: int) -> tuple[int, int]:
        """The status of a request, and how much data it has brought."""
        if kind in (Request.WRITE, Request.DISCARD, Request.WRITE_ZEROES) and self._disk.read_only:
            return IO_ERROR, 0
        match kind:
            case Request.READ:
                into = list(part(chain.writable, 0, room))
                return (OK, room) if self._moved(into, sector, writing=False) else (IO_ERROR, 0)
            case Request.WRITE:
                data = list(part(chain.readable, HEADER.size, length_of(chain.readable)))
                return (OK if self._moved(data, sector, writing=True) else IO_ERROR), 0
            case Request.FLUSH:
                self._disk.flush()
                return OK, 0
            case Request.GET_ID:
                identity = self._disk.name.rpartition("/")[2].encode()[:ID_LENGTH].ljust(ID_LENGTH, b"\0")
                return OK, chain.write(self.transport.ram, 0, identity[:room])
            case Request.DISCARD | Request.WRITE_ZEROES:
                return self._range(kind, chain), 0
        return UNSUPPORTED, 0

    def _inside(self, sector: int, length: int) -> bool:
        return not length % SECTOR and sector * SECTOR + length <= self._disk.size

    def _moved(self, places: list[Place], sector: int, *, writing: bool) -> bool:
        """Whether data could be moved between disk and RAM: all of the sectors are there."""
        ram = self.transport.ram
        if not self._inside(sector, length_of(places)):
            return False
        with (ram.look_all if writing else ram.fill_all)(places) as views:
            (self._disk.write_from if writing else self._disk.read_into)(sector * SECTOR, views)
        return True

    def _range(self, kind: int, chain: Chain) -> int:
        """Do DISCARD, which is a hint and changes nothing, or WRITE_ZEROES; the status (5.2.6.2)."""
        data = chain.read(self.transport.ram, HEADER.size, 2 * RANGE.size)
        if len(data) != RANGE.size:
            return UNSUPPORTED  # one range is all that was offered
        sector, count, flags = RANGE.unpack(data)
        if flags & ~UNMAP or (flags and kind == Request.DISCARD):
            return UNSUPPORTED
        if count > MOST_SECTORS or not self._inside(sector, count * SECTOR):
            return IO_ERROR
        if kind == Request.WRITE_ZEROES:
            self._disk.zero(sector * SECTOR, count * SECTOR)
        return OK


def virtio_blk(disk: Disk) -> Maker:
    """A block device with a disk, which outlasts power cycles and is for its owner to close."""
    return virtio(lambda wiring: Blk(disk))
