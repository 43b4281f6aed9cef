"""The BIOS data area at 400h and the extended one below video memory, as PC firmware leaves them: images size low memory by them.

Source: IBM PS/2 and PC BIOS Interface Technical Reference, "BIOS data area".
"""

import struct
from collections.abc import Sequence

from trapgate.arch import layout
from trapgate.boot.plan import BootOptions, Piece
from trapgate.boot.regions import EBDA_START, VIDEO_START

DATA_AREA = 0x400
DATA_AREA_SIZE = 0x100
EQUIPMENT = 1 << 1 | 1 << 9  # an x87 unit, one serial port; no disk drive, no video
SERIAL_PORT, EBDA_SEGMENT, EQUIPMENT_WORD, LOW_MEMORY = 0x00, 0x0E, 0x10, 0x13  # offsets of 16-bit words in the data area


def pieces(options: BootOptions, others: Sequence[Piece]) -> tuple[Piece, ...]:
    """Both areas, which no loader hands out; nothing where RAM does not reach so far, and none where one of `others` lies."""
    if not any(start == 0 and end >= VIDEO_START for start, end in options.ram):
        return ()
    area = bytearray(DATA_AREA_SIZE)
    for offset, value in (
        (SERIAL_PORT, layout.COM1_PORT),
        (EBDA_SEGMENT, EBDA_START >> 4),
        (EQUIPMENT_WORD, EQUIPMENT),
        (LOW_MEMORY, EBDA_START >> 10),  # KiB
    ):
        struct.pack_into("<H", area, offset, value)
    extended = bytes([(VIDEO_START - EBDA_START) >> 10])  # its size in KiB
    both = (Piece(DATA_AREA, bytes(area), "BIOS data area"), Piece(EBDA_START, extended, "extended BIOS data area"))
    return tuple(piece for piece in both if not any(_overlap(piece, other) for other in others))


def _overlap(one: Piece, other: Piece) -> bool:
    return one.address < other.address + len(other.data) and other.address < one.address + len(one.data)
