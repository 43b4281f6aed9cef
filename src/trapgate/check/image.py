"""Makes the images that a checked monitor boots: the demo guest, told to take orders, for PVH or multiboot."""

import struct

from trapgate.check.guest import DemoGuest

_TEXT = 0x1000  # where the segment begins in the 32-bit file; the multiboot header fits in front
_MAGIC = 0x1BADB002  # of multiboot 1, with no flags: the ELF header says what to load


def pvh(guest: DemoGuest) -> bytes:
    """The shipped image with `takes_orders` set."""
    data = bytearray(guest.path.read_bytes())
    at = guest.offset + guest.symbols["takes_orders"] - guest.base
    data[at : at + 8] = (1).to_bytes(8, "little")
    return bytes(data)


def multiboot(guest: DemoGuest) -> bytes:
    """The same for loaders that take multiboot 1 or a 32-bit ELF: they enter it as PVH does, in 32-bit protected mode."""
    segment = pvh(guest)[guest.offset : guest.offset + guest.size]
    load = struct.pack("<8I", 1, _TEXT, guest.base, guest.base, guest.size, guest.memory, 7, 0x1000)
    head = struct.pack("<16sHHIIIIIHHHHHH", b"\x7fELF\1\1\1", 2, 3, 1, guest.symbols["pvh_entry"], 52, 0, 0, 52, 32, 1, 0, 0, 0)
    header = struct.pack("<3I", _MAGIC, 0, -_MAGIC & 0xFFFF_FFFF)
    return (head + load + header).ljust(_TEXT, b"\0") + segment
