"""Places what several boot protocols share: strings, small structures and the initrd, each claimed from the one allocator."""

from trapgate.boot.image import Image, ImageError
from trapgate.boot.plan import Module, Piece
from trapgate.boot.regions import HIGH_START, PAGE, Regions

MAX_COMMAND_LINE = 64 << 10  # bytes; protocols that state a smaller limit check it themselves
_ALIGN = 16


def place_bytes(regions: Regions, pieces: list[Piece], data: bytes, what: str, align: int = _ALIGN) -> int:
    """Put bytes into low memory; the address."""
    address = regions.place(len(data), what, align=align)
    pieces.append(Piece(address, data, what))
    return address


def encoded_command_line(text: str, limit: int = MAX_COMMAND_LINE) -> bytes:
    """The command line as bytes without its final NUL; ImageError when it is longer than `limit` bytes or has a NUL inside."""
    data = text.encode("utf-8", "surrogateescape")
    if len(data) > limit:
        raise ImageError(f"the command line has {len(data)} bytes, this image takes at most {limit}")
    if b"\0" in data:
        raise ImageError("the command line has a NUL byte in it")
    return data


def place_string(regions: Regions, pieces: list[Piece], text: str, what: str) -> int:
    """Put a string with its final NUL into low memory; the address."""
    return place_bytes(regions, pieces, encoded_command_line(text) + b"\0", what)


def module_text(module: Module) -> str:
    """What multiboot loaders give a module: the file's name in one word, and its text."""
    return f"{module.image.name.replace(' ', '_')} {module.text}".rstrip()


def place_initrd(regions: Regions, pieces: list[Piece], initrd: Image, limit: int) -> tuple[int, int]:
    """Put the initrd as high as possible below `limit`, on a page boundary; (address, size). ImageError when there is no room."""
    if not len(initrd):
        raise initrd.error("an empty initrd")
    address = regions.place(len(initrd), f"initrd {initrd.name}", align=PAGE, low=HIGH_START, high=limit, highest=True)
    pieces.append(Piece(address, initrd.data, "initrd"))
    return address, len(initrd)
