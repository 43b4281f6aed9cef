"""Initrds, modules and command lines of any size, for guests of any size, with the smallest image of each protocol."""

import struct
from typing import Any

from fuzz.target import Target
from fuzz.targets import booting
from trapgate.boot import BootOptions, Image, Module, regions
from unit.boot import images

_SIZES = struct.Struct("<IIIIHBB")  # pages of low and of high RAM, bytes of initrd and module, of the command line, modules, image
_LARGEST = 8 << 20
_ZEROS = memoryview(bytes(_LARGEST))
_IMAGES = (
    images.pvh(),
    images.multiboot_elf(),
    images.bzimage(kernel=images.CODE, memory_size=0x10_0000),
    images.bzimage(kernel=images.CODE, initrd_max=0x37FF_FFFF, command_line_size=2048, version=0x020B),
    images.CODE,
)


def run(data: bytes) -> str:
    """Plan a start."""
    low, high, initrd, module, line, modules, image = _SIZES.unpack(data[: _SIZES.size].ljust(_SIZES.size, b"\0"))
    ram = [(0, ((low & 0xFFFFF or 1) % 0xC0000) << 12)]
    if high & 0xFFFFFF:
        ram.append((1 << 32, (1 << 32) + ((high & 0xFFFFFF) << 12)))
    options = BootOptions(
        tuple((start, end) for start, end in ram if end),
        "x" * line + data[_SIZES.size :].decode("latin-1"),
        Image(_ZEROS[: initrd % _LARGEST], "initrd") if initrd else None,
        (Module(Image(_ZEROS[: module % _LARGEST], "a module"), "text " * (line & 0xFF)),) * (modules & 0x1F),
    )
    return booting.planned(_IMAGES[image % len(_IMAGES)], options)


def plant() -> None:
    """Where something large was placed is forgotten."""
    right = regions.Regions.place

    def place(self: regions.Regions, size: int, what: str, **where: Any) -> int:
        start = right(self, size, what, **where)
        if size > 1 << 20:
            self._taken.pop()
        return start

    regions.Regions.place = place  # type: ignore[method-assign]


TARGET = Target(
    run,
    [
        *(_SIZES.pack(0x4000, 0, 5000, 0, 10, 0, image) for image in range(len(_IMAGES))),
        *(_SIZES.pack(0xC0000, 0x40000, 1 << 20, 4097, 300, 3, image) for image in range(len(_IMAGES))),
        _SIZES.pack(0x200, 0, 0, 0, 0, 0, 0),
    ],
    plant,
    short=1000,
)
