"""Answers SCSI commands as a drive that has one CD or DVD in it, for ever (SPC-4, SBC-3, MMC-6). It knows no transport."""

from collections.abc import Callable
from enum import IntEnum
from typing import ClassVar

from trapgate.disk import Disk
from trapgate.values import dataclass

BLOCK = 2048  # bytes
CD_BLOCKS = 450_000  # more than any CD has: it is a DVD
ALL_BLOCKS = 0xFFFF_FFFF  # what READ CAPACITY (10) cannot say
PREGAP = 150  # frames in front of the first, in minutes, seconds and frames
FRAMES, SECONDS = 75, 60
LEAD_OUT = 0xAA  # its number as a track
DATA_TRACK = 0x14  # ADR 1, data track (MMC-6, 6.25.3)


BOOT_RECORD = 17 * BLOCK  # where El Torito has it (1.0, 2.0)
EL_TORITO = b"\0CD001\1EL TORITO SPECIFICATION"


def starts(disc: Disk) -> bool:
    """Whether firmware finds something to start on a disc: a boot record of El Torito's."""
    found = bytearray(len(EL_TORITO))
    if disc.size >= BOOT_RECORD + BLOCK:
        disc.read_into(BOOT_RECORD, [memoryview(found)])
    return found == EL_TORITO


class Command(IntEnum):
    """Operation codes."""

    TEST_UNIT_READY = 0x00
    REQUEST_SENSE = 0x03
    READ_6 = 0x08
    INQUIRY = 0x12
    MODE_SENSE_6 = 0x1A
    START_STOP_UNIT = 0x1B
    PREVENT_ALLOW = 0x1E
    READ_CAPACITY_10 = 0x25
    READ_10 = 0x28
    SEEK_10 = 0x2B
    SYNCHRONIZE_CACHE = 0x35
    READ_TOC = 0x43
    GET_CONFIGURATION = 0x46
    GET_EVENT_STATUS = 0x4A
    READ_DISC_INFORMATION = 0x51
    MODE_SENSE_10 = 0x5A
    READ_16 = 0x88
    SERVICE_ACTION_IN_16 = 0x9E
    REPORT_LUNS = 0xA0
    READ_12 = 0xA8
    SET_CD_SPEED = 0xBB
    MECHANISM_STATUS = 0xBD


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes of the disc."""

    offset: int
    length: int


class Refused(Exception):
    """The command has failed: sense key, additional sense code with its qualifier (SPC-4, 4.5)."""

    def __init__(self, key: int, code: int, qualifier: int = 0) -> None:
        super().__init__(key, code, qualifier)
        self.sense = sense(key, code, qualifier)


def sense(key: int = 0, code: int = 0, qualifier: int = 0) -> bytes:
    """Sense data in fixed format (SPC-4, 4.5.3)."""
    return bytes([0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, qualifier, 0, 0, 0, 0])


INVALID_COMMAND, INVALID_FIELD, OUT_OF_RANGE = (5, 0x20), (5, 0x24), (5, 0x21)
NO_SUCH_UNIT, NOT_SAVED, UNREADABLE = (5, 0x25), (5, 0x39), (3, 0x11)
Answer = bytes | Extent


class CdDrive:
    """A drive with `disk` as its disc. `command` gives what is to be sent, already cut to what was allocated, or raises Refused."""

    def __init__(self, disk: Disk) -> None:
        self._blocks = disk.size // BLOCK
        self._profile = 0x0008 if self._blocks <= CD_BLOCKS else 0x0010  # CD-ROM, DVD-ROM (MMC-6, 5.3.1)

    def command(self, block: bytes, unit: int = 0) -> Answer:
        """The answer to a command descriptor block for a logical unit, of which there is one: 0. Refused."""
        operation = block[0]
        if operation == Command.REPORT_LUNS:
            return _cut((8).to_bytes(4, "big") + bytes(12), _number(block, 6, 4))
        if operation == Command.INQUIRY:
            return _cut(self._inquiry(block, unit), _number(block, 3, 2))
        if unit and operation != Command.REQUEST_SENSE:
            raise Refused(*NO_SUCH_UNIT)
        call = self._calls.get(operation)
        if call is None:
            raise Refused(*INVALID_COMMAND)
        return call(self, block)

    def _nothing(self, block: bytes) -> bytes:
        return b""

    def _request_sense(self, block: bytes) -> bytes:
        """Nothing to tell: what failed was told with its failure."""
        return _cut(sense(), block[4])

    def _inquiry(self, block: bytes, unit: int) -> bytes:
        kind = 0x7F if unit else 0x05  # no unit there; a CD drive
        if block[1] & 1:
            if block[2]:
                raise Refused(*INVALID_FIELD)
            return bytes([kind, 0, 0, 1, 0])  # the only page of vital product data: which there are
        if block[2]:
            raise Refused(*INVALID_FIELD)
        return bytes([kind, 0x80, 5, 2, 31, 0, 0, 0]) + b"TRAPGATE" + b"CD-ROM".ljust(16) + b"1   "

    # The disc

    def _read_6(self, block: bytes) -> Extent:
        return self._extent(_number(block, 1, 3) & 0x1F_FFFF, block[4] or 256)

    def _read_10(self, block: bytes) -> Extent:
        return self._extent(_number(block, 2, 4), _number(block, 7, 2))

    def _read_12(self, block: bytes) -> Extent:
        return self._extent(_number(block, 2, 4), _number(block, 6, 4))

    def _read_16(self, block: bytes) -> Extent:
        return self._extent(_number(block, 2, 8), _number(block, 10, 4))

    def _extent(self, first: int, count: int) -> Extent:
        if first + count > self._blocks:
            raise Refused(*OUT_OF_RANGE)
        return Extent(first * BLOCK, count * BLOCK)

    def _read_capacity_10(self, block: bytes) -> bytes:
        last = max(self._blocks - 1, 0)
        return min(last, ALL_BLOCKS).to_bytes(4, "big") + BLOCK.to_bytes(4, "big")

    def _service_action(self, block: bytes) -> bytes:
        """READ CAPACITY (16) alone."""
        if block[1] & 0x1F != 0x10:
            raise Refused(*INVALID_FIELD)
        last = max(self._blocks - 1, 0).to_bytes(8, "big")
        return _cut(last + BLOCK.to_bytes(4, "big") + bytes(20), _number(block, 10, 4))

    def _read_toc(self, block: bytes) -> bytes:
        """One track of data, in one session."""
        form, start, length = block[2] & 0xF or block[9] >> 6, block[6], _number(block, 7, 2)
        clock = bool(block[1] & 2)
        track = bytes([0, DATA_TRACK, 1, 0]) + _address(0, clock)
        if form == 1:  # sessions
            return _cut(bytes([0, 10, 1, 1]) + track, length)
        if form or (start > 1 and start != LEAD_OUT):
            raise Refused(*INVALID_FIELD)
        tracks = track if start <= 1 else b""
        tracks += bytes([0, DATA_TRACK, LEAD_OUT, 0]) + _address(self._blocks, clock)
        return _cut((len(tracks) + 2).to_bytes(2, "big") + bytes([1, 1]) + tracks, length)

    def _disc_information(self, block: bytes) -> bytes:
        """A complete disc of one track, whose length is what READ TOC says (MMC-6, 6.22.3.1)."""
        return _cut(bytes([0, 32, 0x0E, 1, 1, 1, 1, 0x20]) + bytes(26), _number(block, 7, 2))

    # The drive

    def _mode_sense_6(self, block: bytes) -> bytes:
        pages = self._pages(block)
        return _cut(bytes([len(pages) + 3, 0, 0, 0]) + pages, block[4])

    def _mode_sense_10(self, block: bytes) -> bytes:
        pages = self._pages(block)
        return _cut((len(pages) + 6).to_bytes(2, "big") + bytes(6) + pages, _number(block, 7, 2))

    def _pages(self, block: bytes) -> bytes:
        """Read error recovery, and capabilities: it reads CD-R, CD-RW and DVD, in mode 2 too, has a tray and a lock."""
        speed = (706 * 8).to_bytes(2, "big")
        capabilities = bytes([0x2A, 18, 0x0B, 0, 0x70, 0, 0x29, 0]) + speed + bytes(4) + speed + bytes(4)
        every = {0x01: bytes([0x01, 10]) + bytes(10), 0x2A: capabilities}
        control, page = block[2] >> 6, block[2] & 0x3F
        if control == 3:
            raise Refused(*NOT_SAVED)
        if page != 0x3F and page not in every:
            raise Refused(*INVALID_FIELD)
        found = [every[page]] if page in every else list(every.values())
        return b"".join(one[:2] + bytes(len(one) - 2) if control == 1 else one for one in found)  # 1: nothing can be changed

    def _configuration(self, block: bytes) -> bytes:
        """Features, with what they say (MMC-6, 5.3): profiles, the core, a removable medium, reading at random, of CDs."""
        profiles = b"".join(number.to_bytes(2, "big") + bytes([number == self._profile, 0]) for number in (0x0010, 0x0008))
        of_cds = self._profile == 0x0008
        features = (
            (0x0000, 0x03, profiles),
            (0x0001, 0x0B, bytes([0, 0, 0, 1, 1, 0, 0, 0])),
            (0x0003, 0x03, bytes([0x29, 0, 0, 0])),
            (0x0010, 0x01, BLOCK.to_bytes(4, "big") + bytes([0, 1, 0, 0])),
            (0x001E, 0x08 | of_cds, bytes(4)),
        )
        which, start = block[1] & 3, _number(block, 2, 2)
        data = b""
        for number, flags, said in features:
            wanted = number == start if which == 2 else number >= start and (which != 1 or flags & 1)
            if wanted:
                data += number.to_bytes(2, "big") + bytes([flags, len(said)]) + said
        head = (len(data) + 4).to_bytes(4, "big") + bytes(2) + self._profile.to_bytes(2, "big")
        return _cut(head + data, _number(block, 7, 2))

    def _event_status(self, block: bytes) -> bytes:
        """Asked for at once, never later: there is a disc, and nothing has happened to it."""
        if not block[1] & 1:
            raise Refused(*INVALID_FIELD)
        media = bytes([0, 6, 0x04, 0x10, 0, 0x02, 0, 0]) if block[4] & 0x10 else bytes([0, 2, 0x80, 0x10])
        return _cut(media, _number(block, 7, 2))

    def _mechanism(self, block: bytes) -> bytes:
        return _cut(bytes(8), _number(block, 8, 2))

    _calls: ClassVar[dict[int, Callable[["CdDrive", bytes], Answer]]] = {
        Command.TEST_UNIT_READY: _nothing,
        Command.REQUEST_SENSE: _request_sense,
        Command.READ_6: _read_6,
        Command.MODE_SENSE_6: _mode_sense_6,
        Command.START_STOP_UNIT: _nothing,
        Command.PREVENT_ALLOW: _nothing,
        Command.READ_CAPACITY_10: _read_capacity_10,
        Command.READ_10: _read_10,
        Command.SEEK_10: _nothing,
        Command.SYNCHRONIZE_CACHE: _nothing,
        Command.READ_TOC: _read_toc,
        Command.GET_CONFIGURATION: _configuration,
        Command.GET_EVENT_STATUS: _event_status,
        Command.READ_DISC_INFORMATION: _disc_information,
        Command.MODE_SENSE_10: _mode_sense_10,
        Command.READ_16: _read_16,
        Command.SERVICE_ACTION_IN_16: _service_action,
        Command.READ_12: _read_12,
        Command.SET_CD_SPEED: _nothing,
        Command.MECHANISM_STATUS: _mechanism,
    }


def _number(block: bytes, at: int, size: int) -> int:
    return int.from_bytes(block[at : at + size], "big")


def _cut(data: bytes, allocated: int) -> bytes:
    return data[:allocated]


def _address(block: int, clock: bool) -> bytes:
    """Of a block: its number, or minutes, seconds and frames."""
    if not clock:
        return min(block, ALL_BLOCKS).to_bytes(4, "big")
    seconds, frames = divmod(block + PREGAP, FRAMES)
    minutes, seconds = divmod(seconds, SECONDS)
    return bytes([0, min(minutes, 255), seconds, frames])
