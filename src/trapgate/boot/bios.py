"""Does what PC firmware leaves in low memory: BIOS data areas, by which some images size memory, and real-mode interrupt services.

There is no firmware here. Three services work: INT 10h prints a character (AH = 0Eh) on COM1, INT 11h and 12h answer from the
data area. All others say with CF = 1, AH = 86h that they are not supported, and images that ask on the off chance go on without.

Source: IBM PS/2 and PC BIOS Interface Technical Reference, "Interrupts" and "BIOS data area".
"""

import struct
from collections.abc import Sequence

from trapgate.arch import layout
from trapgate.boot.plan import BootOptions, Piece
from trapgate.boot.regions import EBDA_START, FIRMWARE_END, VIDEO_START

DATA_AREA = 0x400
DATA_AREA_SIZE = 0x100
EQUIPMENT = 1 << 1 | 1 << 9  # an x87 unit, one serial port; no disk drive, no video
SERIAL_PORT, EBDA_SEGMENT, EQUIPMENT_WORD, LOW_MEMORY = 0x00, 0x0E, 0x10, 0x13  # offsets of 16-bit words in the data area

SERVICES_SEGMENT = 0xF000
FIRST_SERVICE, LAST_SERVICE = 0x10, 0x1A
# Each service begins on 16 bytes; the tests assemble this text and compare.
SERVICES_SOURCE = """
    .code16
    # INT 10h
    cmp $0x0E, %ah
    jne 1f
    push %dx
    mov $0x3F8, %dx
    outb %al, %dx
    pop %dx
1:  iret
    # INT 11h: AX = the equipment word
    .balign 16, 0
    push %ds
    push $0x40
    pop %ds
    mov 0x10, %ax
    pop %ds
    iret
    # INT 12h: AX = KiB of low memory
    .balign 16, 0
    push %ds
    push $0x40
    pop %ds
    mov 0x13, %ax
    pop %ds
    iret
    # all others: CF = 1 in the caller's flags
    .balign 16, 0
    mov $0x86, %ah
    push %bp
    mov %sp, %bp
    orb $1, 6(%bp)
    pop %bp
    iret
"""
SERVICES = bytes.fromhex(
    "80 fc 0e 75 06 52 ba f8 03 ee 5a cf 00 00 00 00 "
    "1e 6a 40 1f a1 10 00 1f cf 00 00 00 00 00 00 00 "
    "1e 6a 40 1f a1 13 00 1f cf 00 00 00 00 00 00 00 "
    "b4 86 55 89 e5 80 4e 06 01 5d cf "
)
OFFSETS = {0x10: 0x00, 0x11: 0x10, 0x12: 0x20}
UNSUPPORTED = 0x30


def pieces(options: BootOptions, others: Sequence[Piece]) -> tuple[Piece, ...]:
    """All of it, in memory that no loader hands out; nothing where RAM does not reach so far, nothing over one of `others`."""
    if not any(start == 0 and end >= FIRMWARE_END for start, end in options.ram):
        return ()
    found = [piece for piece in (_data_area(), _extended_area()) if not _covered(piece, others)]
    services = (_vectors(), Piece(SERVICES_SEGMENT << 4, SERVICES, "BIOS services"))
    if not any(_covered(piece, others) for piece in services):
        found += services
    return tuple(found)


def _data_area() -> Piece:
    area = bytearray(DATA_AREA_SIZE)
    for offset, value in (
        (SERIAL_PORT, layout.COM1_PORT),
        (EBDA_SEGMENT, EBDA_START >> 4),
        (EQUIPMENT_WORD, EQUIPMENT),
        (LOW_MEMORY, EBDA_START >> 10),  # KiB
    ):
        struct.pack_into("<H", area, offset, value)
    return Piece(DATA_AREA, bytes(area), "BIOS data area")


def _extended_area() -> Piece:
    """Its first byte is its size in KiB."""
    return Piece(EBDA_START, bytes([(VIDEO_START - EBDA_START) >> 10]), "extended BIOS data area")


def _vectors() -> Piece:
    """Offset and segment for each interrupt (SDM vol. 3, 21.1.4)."""
    table = b"".join(
        struct.pack("<HH", OFFSETS.get(number, UNSUPPORTED), SERVICES_SEGMENT) for number in range(FIRST_SERVICE, LAST_SERVICE + 1)
    )
    return Piece(4 * FIRST_SERVICE, table, "BIOS interrupt vectors")


def _covered(piece: Piece, others: Sequence[Piece]) -> bool:
    end = piece.address + len(piece.data)
    return any(piece.address < other.address + len(other.data) and other.address < end for other in others)
