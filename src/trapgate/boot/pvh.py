"""Plans by the PVH protocol: an ELF file whose Xen note names a 32-bit entry point, and the start information that EBX points to.

Source: Xen, docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h. Linux and many bare-metal programs can be started this way.
"""

import struct

from trapgate.boot import acpi
from trapgate.boot.elf import Elf, check_entry, place_segments
from trapgate.boot.extras import place_bytes, place_initrd, place_string
from trapgate.boot.plan import FLAT_GDT, BootOptions, BootPlan, Piece, protected32
from trapgate.boot.regions import FOUR_GIB, Regions, memory_map

XEN_OWNER = b"Xen"
PHYS32_ENTRY = 18  # XEN_ELFNOTE_PHYS32_ENTRY
MAGIC = 0x336E_C578  # "xEn3" with the top bit of E set
VERSION = 1
START_INFO_SIZE = 56


def entry_of(elf: Elf) -> int | None:
    """The address in the PHYS32_ENTRY note, or None when the file has no such note."""
    for owner, kind, description in elf.notes():
        if owner == XEN_OWNER and kind == PHYS32_ENTRY:
            if len(description) not in (4, 8):
                raise elf.image.error(f"a PVH entry note of {len(description)} bytes, not 4 or 8")
            return int.from_bytes(description, "little")
    return None


def plan(elf: Elf, entry: int, options: BootOptions) -> BootPlan:
    """Where everything goes and how the guest starts: 32-bit protected mode, paging off, EBX = the start information."""
    regions = Regions(options.ram)
    pieces = place_segments(elf, regions)
    if entry >= FOUR_GIB:
        raise elf.image.error(f"its PVH entry point {entry:#x} lies above 4 GiB")
    check_entry(elf, entry)
    tables = acpi.place(regions, options)
    low: list[Piece] = [*tables.pieces]
    command_line = place_string(regions, low, options.command_line, "command line")
    modules = options.all_modules()
    listed = b""
    for module in modules:
        begin, size = place_initrd(regions, low, module.image, FOUR_GIB)
        text = place_string(regions, low, module.text, "module string") if module.text else 0
        listed += struct.pack("<QQQQ", begin, size, text, 0)
    list_address = place_bytes(regions, low, listed, "PVH module list") if modules else 0
    entries = memory_map(options.ram)
    table = b"".join(struct.pack("<QQII", entry_.start, entry_.size, entry_.kind, 0) for entry_ in entries)
    map_address = place_bytes(regions, low, table, "PVH memory map")
    information = struct.pack(
        "<IIIIQQQQII", MAGIC, VERSION, 0, len(modules), list_address, command_line, tables.rsdp, map_address, len(entries), 0
    )
    assert len(information) == START_INFO_SIZE
    address = place_bytes(regions, low, information, "PVH start information")
    gdt = place_bytes(regions, low, FLAT_GDT, "GDT")
    start = protected32(entry, {"rbx": address}, gdt)
    return BootPlan("PVH", (*pieces, *low), start, entries, tables.rsdp)
