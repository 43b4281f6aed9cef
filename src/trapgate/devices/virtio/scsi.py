"""Models a virtio SCSI host (virtio 1.2, 5.6) with one target on it: a CD drive."""

import struct
from typing import ClassVar

from trapgate.devices.cd import UNREADABLE, CdDrive, Extent, Refused
from trapgate.devices.parts import Maker
from trapgate.devices.virtio.queue import BrokenQueue, Chain, Queue, length_of, part
from trapgate.devices.virtio.transport import Function, virtio
from trapgate.disk import Disk
from trapgate.hostcall import HostError
from trapgate.state import U64, State, require
from trapgate.values import dataclass

CONTROL, EVENTS, REQUESTS = 0, 1, 2  # numbers of queues
ENTRIES = (16, 16, 128)  # of each
CONFIGURATION = struct.Struct("<7I2HI")
COMMAND_SIZE, SENSE_SIZE = 32, 96  # bytes of a command and of sense data in a request: what a driver finds, and cannot change
HEADER = struct.Struct(f"<8sQ3B{COMMAND_SIZE}s")  # unit, tag, attribute, priority, CRN, command
RESPONSE = struct.Struct(f"<IIHBB{SENSE_SIZE}s")  # bytes of sense data, residual, qualifier, status, response, sense data
GOOD, CHECK_CONDITION = 0, 2  # status (SAM-5, 5.3.1)
OK, OVERRUN, BAD_TARGET = 0, 1, 3  # response
TASK_MANAGEMENT = 0  # type of a control request; the others ask about notifications, of which there are none


@dataclass(frozen=True, slots=True)
class CdState(State):
    """The size of the disc: a drive is as it was made."""

    size: U64


class CdHost(Function[CdState]):
    """Control, events and requests. A request is done when the notification of it returns."""

    kind: ClassVar[int] = 8
    queues = ENTRIES

    def __init__(self, disk: Disk) -> None:
        self._disk, self._drive = disk, CdDrive(disk)

    def configuration(self) -> bytes:
        """struct virtio_scsi_config: one queue of requests, one target (5.6.4)."""
        return CONFIGURATION.pack(1, ENTRIES[REQUESTS] - 2, 0xFFFF, ENTRIES[REQUESTS], 16, SENSE_SIZE, COMMAND_SIZE, 0, 0, 0)

    def save(self) -> CdState:
        """Which disc."""
        return CdState(self._disk.size)

    def load(self, state: CdState) -> None:
        """Which disc. StateError: it is another one."""
        require(state.size == self._disk.size, f"a disc of {state.size} bytes is not {self._disk.name}")

    def notified(self, number: int, queue: Queue) -> None:
        """Do all that is asked, in order. Buffers for events stay where they are: there are none."""
        if number == EVENTS:
            return
        serve = self._serve if number == REQUESTS else self._control
        for chain in queue:
            queue.put(chain, serve(chain))

    def _control(self, chain: Chain) -> int:
        """All has been done already, so there is nothing to abort; no notification will come."""
        (kind,) = struct.unpack("<I", chain.read(self.transport.ram, 0, 4).ljust(4, b"\0"))
        return chain.write(self.transport.ram, 0, bytes(1) if kind == TASK_MANAGEMENT else bytes(5))

    def _serve(self, chain: Chain) -> int:
        """Do a request; how many bytes of its room are written."""
        ram, room = self.transport.ram, length_of(chain.writable) - RESPONSE.size
        header = chain.read(ram, 0, HEADER.size)
        if len(header) < HEADER.size or room < 0:
            raise BrokenQueue("a request without room for its header or its response")
        unit, _, _, _, _, command = HEADER.unpack(header)
        told, status, response, done, wanted = b"", GOOD, OK, 0, 0
        if unit[0] != 1 or unit[1]:
            response = BAD_TARGET
        else:
            try:
                answer = self._drive.command(command, int.from_bytes(unit[2:4], "big") & 0x3FFF)
                wanted = answer.length if isinstance(answer, Extent) else len(answer)
                done = min(wanted, room)
                self._send(chain, answer, done)
            except Refused as refused:
                told, status, done = refused.sense, CHECK_CONDITION, 0
            except HostError:
                told, status, done = Refused(*UNREADABLE).sense, CHECK_CONDITION, 0
        if wanted > room and status == GOOD:
            response = OVERRUN
        chain.write(ram, 0, RESPONSE.pack(len(told), room - done, 0, status, response, told))
        return RESPONSE.size + done

    def _send(self, chain: Chain, answer: bytes | Extent, length: int) -> None:
        """Put so many bytes of an answer behind the response. HostError."""
        if isinstance(answer, bytes):
            self.transport.ram.write_all(part(chain.writable, RESPONSE.size, length), answer[:length])
            return
        with self.transport.ram.fill_all(list(part(chain.writable, RESPONSE.size, length))) as views:
            self._disk.read_into(answer.offset, views)


def virtio_cd(disk: Disk) -> Maker:
    """A CD drive with a disk as its disc, which outlasts power cycles and is for its owner to close."""
    return virtio(lambda wiring: CdHost(disk))
