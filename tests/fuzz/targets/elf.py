"""ELF files with a PVH note and without, 32 and 64 bits."""

import struct

from fuzz.targets import booting
from fuzz.targets.booting import INITRD, LINE, MODULE, chosen
from trapgate.boot import elf
from unit.boot import images

_WHERE = (1, 0x10_0000, 0x10_0000, images.CODE, 0x2000)
_NOTE = (4, 0, 0, images.note(b"Xen", 18, struct.pack("<I", 0x10_0000)), 0)


def packed(image: bytes) -> bytes:
    """An image of `images.elf` of two segments without the gaps between its parts, so that fewer bytes say as much."""
    wide = image[4] == 2
    first, size, field, width = (64, 56, 8, 8) if wide else (52, 32, 4, 4)
    out = bytearray(image[: first + 2 * size])
    for number in range(2):
        at = first + number * size
        start = int.from_bytes(image[at + field : at + field + width], "little")
        length = int.from_bytes(image[at + (32 if wide else 16) :][:width], "little")
        out[at + field : at + field + width] = len(out).to_bytes(width, "little")
        out += image[start : start + length]
    return bytes(out)


TARGET = booting.target(
    [
        chosen(packed(images.elf([_WHERE, _NOTE], 0x10_0000, 64))),
        chosen(packed(images.elf([_WHERE, _NOTE], 0x10_0000, 32)), 1, INITRD | LINE | MODULE | 3 << 6),
        chosen(packed(images.elf([_WHERE, (3, 0, 0, b"/lib/ld.so", 0)], 0x10_0000, 64))),
    ],
    booting.broken("_segment", elf),
    (b"Xen\0", b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0"),
)
