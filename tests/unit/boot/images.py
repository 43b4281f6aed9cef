"""Synthetic images for the loader tests: the smallest files that each protocol accepts, built field by field."""

import struct

from trapgate.boot import BootOptions, Image, Module

MIB = 1 << 20
CODE = b"\xf4" * 64  # HLT


def options(
    memory: int = 64 * MIB,
    command_line: str = "",
    initrd: bytes | None = None,
    load_address: int | None = None,
    modules: tuple[Module, ...] = (),
) -> BootOptions:
    """Options for a guest with one stretch of RAM."""
    image = None if initrd is None else Image(initrd, "initrd.img")
    return BootOptions(((0, memory),), command_line, image, modules, load_address=load_address)


def elf(
    segments: list[tuple[int, int, int, bytes, int]], entry: int, bits: int = 64, machine: int | None = None, kind: int = 2
) -> bytes:
    """An ELF file of (type, virtual, physical, data, memory size) segments, whose data lies at 1000h and on, page by page."""
    header_size, entry_size = (64, 56) if bits == 64 else (52, 32)
    machine = machine if machine is not None else (62 if bits == 64 else 3)
    identification = b"\x7fELF" + bytes([2 if bits == 64 else 1, 1, 1]) + bytes(9)
    layout = "<HHIQQQIHHHHHH" if bits == 64 else "<HHIIIIIHHHHHH"
    header = struct.pack(layout, kind, machine, 1, entry, header_size, 0, 0, header_size, entry_size, len(segments), 0, 0, 0)
    out = bytearray(identification + header)
    offset = 0x1000
    for type_, virtual, physical, data, size in segments:
        if bits == 64:
            out += struct.pack("<IIQQQQQQ", type_, 7, offset, virtual, physical, len(data), size, 0x1000)
        else:
            out += struct.pack("<IIIIIIII", type_, offset, virtual, physical, len(data), size, 7, 0x1000)
        offset += -(-len(data) // 0x1000) * 0x1000
    for _, _, _, data, _ in segments:
        out += bytes(-len(out) % 0x1000) + data
    return bytes(out)


def note(name: bytes, kind: int, description: bytes) -> bytes:
    """An ELF note with its paddings."""
    named = name + b"\0"
    padded = named + bytes(-len(named) % 4)
    return struct.pack("<III", len(named), len(description), kind) + padded + description + bytes(-len(description) % 4)


def pvh(entry: int = 0x10_0010, physical: int = 0x10_0000, size: int = 0x2000, bits: int = 64) -> bytes:
    """An ELF file with a PVH entry note."""
    segments = [(1, physical, physical, CODE, size), (4, 0, 0, note(b"Xen", 18, struct.pack("<I", entry)), 0)]
    return elf(segments, 0xDEAD, bits)


def multiboot_header(flags: int = 0, fields: bytes = b"") -> bytes:
    """A multiboot header with a right checksum."""
    return struct.pack("<III", 0x1BAD_B002, flags, -(0x1BAD_B002 + flags) & 0xFFFF_FFFF) + fields


def multiboot_elf(flags: int = 0, physical: int = 0x40_0000, bits: int = 32) -> bytes:
    """An ELF file whose first segment begins with a multiboot header."""
    data = multiboot_header(flags) + CODE
    return elf([(1, physical, physical, data, 0x4000)], physical + 12, bits)


def bzimage(
    *,
    version: int = 0x020F,
    kernel: bytes = bytes(0x200) + CODE,
    xloadflags: int = 1,
    relocatable: int = 1,
    alignment: int = 0x20_0000,
    preferred: int = 0x100_0000,
    memory_size: int = 0x10_0000,
    initrd_max: int = 0x7FFF_FFFF,
    command_line_size: int = 255,
    loadflags: int = 1,
    code32_start: int = 0x10_0000,
    setup_sectors: int = 1,
    paragraphs: int | None = None,
) -> bytes:
    """A bzImage: a boot sector with the setup header, setup sectors, a protected-mode kernel."""
    setup = bytearray((setup_sectors + 1) * 512)
    setup[0x1F1] = setup_sectors
    struct.pack_into("<I", setup, 0x1F4, -(-len(kernel) // 16) if paragraphs is None else paragraphs)
    struct.pack_into("<H", setup, 0x1FE, 0xAA55)
    setup[0x200:0x202] = b"\xeb\x66"  # the jump whose length tells where the header ends: 268h
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, version)
    setup[0x211] = loadflags
    struct.pack_into("<I", setup, 0x214, code32_start)
    struct.pack_into("<I", setup, 0x22C, initrd_max)
    struct.pack_into("<IBBHI", setup, 0x230, alignment, relocatable, 21, xloadflags, command_line_size)
    struct.pack_into("<QI", setup, 0x258, preferred, memory_size)
    return bytes(setup) + kernel
