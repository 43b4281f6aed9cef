"""Holds an image file as bytes behind one range check, and the one error that every loader raises."""

import mmap
import os
import struct
from pathlib import Path
from typing import Any

from trapgate.errors import TrapgateError
from trapgate.hostcall import SCARCE, HostError, NotAFile, open_file

MAX_IMAGE_BYTES = 1 << 32  # nothing larger could be loaded below 4 GiB


class ImageError(TrapgateError):
    """An image, an initrd or a command line that cannot be booted; the text is one line that says what is wrong."""


class Image:
    """The bytes of a file. Every read of (offset, size) goes through `slice`; what the file does not hold is an ImageError."""

    def __init__(self, data: bytes | bytearray | memoryview, name: str = "image") -> None:
        self.name = _printable(name)
        self.data = memoryview(data).toreadonly()

    def __len__(self) -> int:
        return len(self.data)

    def slice(self, offset: int, size: int, what: str) -> memoryview:
        """`size` bytes at `offset`, not copied; ImageError when the file ends before."""
        if offset < 0 or size < 0 or offset + size > len(self.data):
            have = len(self.data)
            raise ImageError(f"{self.name} is cut short: {what} lies at {offset:#x}+{size:#x}, the file has {have:#x} bytes")
        return self.data[offset : offset + size]

    def has(self, offset: int, magic: bytes) -> bool:
        """Whether the file has these bytes at `offset`; no error where it ends before."""
        return bytes(self.data[offset : offset + len(magic)]) == magic

    def unpack(self, layout: str, offset: int, what: str) -> tuple[Any, ...]:
        """Little-endian fields at `offset`, as `struct` describes them."""
        layout = "<" + layout
        return struct.unpack(layout, self.slice(offset, struct.calcsize(layout), what))

    def number(self, offset: int, size: int, what: str) -> int:
        """A little-endian unsigned integer of `size` bytes."""
        return int.from_bytes(self.slice(offset, size, what), "little")

    def error(self, reason: str) -> ImageError:
        """An error about this file, to be raised."""
        return ImageError(f"{self.name}: {reason}")


def read_image(path: str | Path) -> Image:
    """A regular file, mapped: of a large one only what a loader looks at is read. Opened without waiting for anybody.

    ImageError when there is none, or it cannot be read, or nothing could hold it; HostError when the host has no descriptor or
    no room for it.
    """
    name = _printable(str(path))
    try:
        descriptor = open_file(path)
        try:
            size = os.fstat(descriptor).st_size
            if size > MAX_IMAGE_BYTES:
                raise ImageError(f"{name} is larger than 4 GiB: it is no guest image")
            return Image(_mapped(descriptor, size), name)
        finally:
            os.close(descriptor)
    except NotAFile as error:
        raise ImageError(f"{name} is not a file") from error
    except OSError as error:
        if error.errno in SCARCE:
            raise HostError(f"to open {name}", error.errno) from error
        if isinstance(error, FileNotFoundError):
            raise ImageError(f"{name} does not exist") from error
        raise ImageError(f"{name} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in its name
        raise ImageError(f"{name} does not exist") from error


def _mapped(descriptor: int, size: int) -> memoryview:
    return memoryview(mmap.mmap(descriptor, size, prot=mmap.PROT_READ) if size else b"")


def _printable(name: str) -> str:
    """A name that keeps a message on one line."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)
