"""Plans by the Multiboot 1 protocol: a header in the first 8 KiB of the image, ELF segments or its own addresses, facts at EBX.

Source: Multiboot Specification 0.6.96, sections 3.1 to 3.3. ELF32 is what the protocol describes (64-bit code often comes in such a
container); ELF64 files are loaded the same way when their entry lies below 4 GiB.
"""

import struct

from trapgate.boot import acpi
from trapgate.boot.elf import check_entry, is_elf, parse, place_segments
from trapgate.boot.extras import encoded_command_line, module_text, place_bytes, place_initrd, place_string
from trapgate.boot.image import Image
from trapgate.boot.plan import FLAT_GDT, BootOptions, BootPlan, MapEntry, Piece, protected32
from trapgate.boot.regions import EBDA_START, FOUR_GIB, HIGH_START, Regions, memory_map
from trapgate.values import dataclass

SEARCH = 8192  # the header lies wholly in the first so many bytes, on a 4-byte boundary
MAGIC = 0x1BAD_B002
LOADER_MAGIC = 0x2BAD_B002  # EAX at entry
NEED_PAGE_ALIGN, NEED_MEMORY, NEED_VIDEO, HAS_ADDRESSES = 1 << 0, 1 << 1, 1 << 2, 1 << 16
KNOWN_NEEDS = NEED_PAGE_ALIGN | NEED_MEMORY | NEED_VIDEO
HAVE_MEMORY, HAVE_COMMAND_LINE, HAVE_MODULES, HAVE_MAP, HAVE_LOADER_NAME = 1 << 0, 1 << 2, 1 << 3, 1 << 6, 1 << 9
INFORMATION_SIZE = 116


@dataclass(frozen=True, slots=True)
class Header:
    """The multiboot header at `offset` in the file."""

    offset: int
    flags: int


def find_header(image: Image) -> Header | None:
    """The first header whose magic and checksum are right, or None."""
    head = bytes(image.data[:SEARCH])
    magic = MAGIC.to_bytes(4, "little")
    at = head.find(magic)
    while at >= 0:
        if at % 4 == 0 and at + 12 <= len(head):
            _, flags, checksum = struct.unpack_from("<III", head, at)
            if (MAGIC + flags + checksum) & 0xFFFF_FFFF == 0:
                return Header(at, flags)
        at = head.find(magic, at + 1)
    return None


def plan(image: Image, header: Header, options: BootOptions) -> BootPlan:
    """Where everything goes and how the guest starts: 32-bit protected mode, EAX = the loader's magic, EBX = the information."""
    if header.flags & 0xFFFF & ~KNOWN_NEEDS:
        raise image.error(f"its multiboot header needs what is unknown here (flags {header.flags:#x})")
    regions = Regions(options.ram)
    if header.flags & HAS_ADDRESSES:
        entry, pieces = _place_by_header(image, header, regions)
    elif is_elf(image):
        elf = parse(image)
        pieces = place_segments(elf, regions)
        entry = check_entry(elf, elf.physical_entry())
    else:
        raise image.error("a multiboot header without load addresses, in a file that is not ELF")
    if entry >= FOUR_GIB:
        raise image.error(f"its entry point {entry:#x} lies above 4 GiB, multiboot starts in 32-bit mode")
    tables = acpi.place(regions, options)
    low: list[Piece] = [*tables.pieces]
    entries = memory_map(options.ram)
    information = _information(image, regions, low, options, entries)
    address = place_bytes(regions, low, information, "multiboot information")
    gdt = place_bytes(regions, low, FLAT_GDT, "GDT")
    start = protected32(entry, {"rax": LOADER_MAGIC, "rbx": address}, gdt)
    return BootPlan("multiboot", (*pieces, *low), start, entries, tables.rsdp)


def _place_by_header(image: Image, header: Header, regions: Regions) -> tuple[int, list[Piece]]:
    """Load by the addresses in the header (3.1.3), whatever format the rest of the file has. (entry, pieces)."""
    fields = image.unpack("IIIII", header.offset + 12, "the multiboot address fields")
    header_address, load_address, load_end, bss_end, entry = fields
    if load_address > header_address:
        raise image.error("its multiboot header lies before its own load address")
    offset = header.offset - (header_address - load_address)
    if offset < 0:
        raise image.error("its multiboot addresses begin before the file does")
    size = (load_end - load_address) if load_end else len(image) - offset
    memory = max(size, bss_end - load_address) if bss_end else size
    if size <= 0:
        raise image.error("its multiboot header ends the load before it begins")
    data = image.slice(offset, size, "what the multiboot header says to load")
    regions.claim(load_address, memory, image.name)
    if not load_address <= entry < load_address + memory:
        raise image.error(f"its entry point {entry:#x} is not in what is loaded")
    return entry, [Piece(load_address, data, image.name)]


def _information(image: Image, regions: Regions, low: list[Piece], options: BootOptions, entries: tuple[MapEntry, ...]) -> bytes:
    """The multiboot information (3.3): memory sizes, command line, modules, memory map, loader name."""
    flags = HAVE_MEMORY | HAVE_COMMAND_LINE | HAVE_MAP | HAVE_LOADER_NAME
    # The command line begins with the image's own name, as boot loaders have always given it.
    name = image.name.replace(" ", "_")
    line = encoded_command_line(f"{name} {options.command_line}".rstrip())
    command_line = place_bytes(regions, low, line + b"\0", "command line")
    modules = options.all_modules()
    listed = b""
    for module in modules:
        begin, size = place_initrd(regions, low, module.image, FOUR_GIB)
        listed += struct.pack("<IIII", begin, begin + size, place_string(regions, low, module_text(module), "module string"), 0)
    flags |= HAVE_MODULES if modules else 0
    list_address = place_bytes(regions, low, listed, "module list") if modules else 0
    table = b"".join(struct.pack("<IQQI", 20, entry.start, entry.size, entry.kind) for entry in entries)
    map_address = place_bytes(regions, low, table, "memory map")
    loader = place_bytes(regions, low, b"trapgate\0", "loader name")
    top = options.ram[0][1]
    lower, upper = min(top, EBDA_START) >> 10, max(top - HIGH_START, 0) >> 10  # KiB
    information = struct.pack("<IIIIIII", flags, lower, upper, 0, command_line, len(modules), list_address)
    information += bytes(16) + struct.pack("<II", len(table), map_address) + bytes(12) + struct.pack("<I", loader)
    return information.ljust(INFORMATION_SIZE, b"\0")
