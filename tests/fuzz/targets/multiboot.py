"""Multiboot images: with load addresses in the header, and as ELF files."""

import struct

from fuzz.targets import booting
from fuzz.targets.booting import INITRD, LINE, LONG_LINE, MODULE, chosen
from fuzz.targets.elf import packed
from trapgate.boot import multiboot
from unit.boot import images

_ADDRESSES = struct.pack("<IIIII", 0x10_0000, 0x10_0000, 0, 0x10_4000, 0x10_0020)
_BY_HEADER = images.multiboot_header(1 << 16, _ADDRESSES) + images.CODE
_SEGMENTS = [(1, 0x10_0000, 0x10_0000, images.multiboot_header() + images.CODE, 0x2000), (1, 0x20_0000, 0x20_0000, b"data", 0x2000)]

TARGET = booting.target(
    [
        chosen(_BY_HEADER),
        chosen(b"front" * 4 + _BY_HEADER, 5, INITRD | LINE | LONG_LINE),
        chosen(packed(images.elf(_SEGMENTS, 0x10_000C, 32)), 1, MODULE | LINE | 2 << 6),
        chosen(packed(images.elf(_SEGMENTS, 0x10_000C, 64))),
    ],
    booting.broken("_place_by_header", multiboot),
    tuple(images.multiboot_header(flags) for flags in (0, 3, 1 << 16, 1 << 16 | 4)),
)
