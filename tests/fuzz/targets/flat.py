"""Flat binaries, and everything that is told by its name instead: disks, firmware, archives, programs of other systems."""

import struct

from fuzz.targets import booting
from fuzz.targets.booting import CPUS, LINE, LOAD_AT, chosen
from trapgate.boot import Image, foreign
from unit.boot import images


def _sector(table: bytes = b"") -> bytes:
    return images.CODE.ljust(446, b"\0") + table.ljust(64, b"\0") + b"\x55\xaa"


def _program(subsystem: int, name: bytes) -> bytes:
    """A portable executable of one section."""
    head = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40) + b"PE\0\0" + struct.pack("<HH12xHH", 0x8664, 1, 112, 2)
    return head + (bytes(68) + struct.pack("<H", subsystem)).ljust(112, b"\0") + name.ljust(40, b"\0")


def plant() -> None:
    """The header of a program may lie outside the file."""

    def _portable_executable(image: Image) -> str:
        (at,) = struct.unpack_from("<I", image.data, 0x3C)
        return f"a program: {bytes(struct.unpack_from('<4s', image.data, at)[0])!r}"

    foreign._portable_executable = _portable_executable


_PARTITION = struct.pack("<B3xB3xII", 0x80, 0x83, 1, 1)
_FLASH = bytes(0xFFF0) + b"\xea\x5b\xe0\x00\xf0".ljust(16, b"\0")

TARGET = booting.target(
    [
        chosen(images.CODE),
        chosen(_sector()),
        chosen(images.CODE, 3, LOAD_AT, load_at=0x500),
        chosen(images.CODE, 2, LOAD_AT | LINE | CPUS, load_at=0xF0000),
        chosen(_sector(_PARTITION) + bytes(512)),
        chosen(_sector() + bytes(1474560 - 512)),
        chosen(_FLASH),
        chosen(_program(10, b".linux")),
        chosen(_program(10, b".text")),
        chosen(_program(2, b".text")),
        chosen(struct.pack("<IIII", 0xE85250D6, 0, 16, -(0xE85250D6 + 16) & 0xFFFFFFFF) + images.CODE),
        *(chosen(bytes(offset) + magic + bytes(64)) for offset, magic, _ in foreign.MAGICS),
    ],
    plant,
    (_PARTITION,),
)
