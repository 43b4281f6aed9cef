"""Plans flat binaries: bytes without a header, started in real mode where the BIOS would start a boot sector."""

from trapgate.arch.control import CR0_ET
from trapgate.boot import acpi
from trapgate.boot.image import Image
from trapgate.boot.plan import BootOptions, BootPlan, Piece
from trapgate.boot.regions import Regions, memory_map
from trapgate.vcpu import CpuStart, SegmentStart

BOOT_SECTOR = 0x7C00
REAL_MODE_END = 0x10_0000
BOOT_DRIVE = 0x80  # DL, as a BIOS hands over from the first disk


def plan(image: Image, options: BootOptions) -> BootPlan:
    """The file at its load address (default 7C00h), 16-bit real mode, CS:IP at it, SS:SP at 0:7C00h or below the image.

    CS is 0 for addresses below 64 KiB, otherwise the address divided by 16, which then must be a multiple of 16 below 1 MiB.
    """
    address = BOOT_SECTOR if options.load_address is None else options.load_address
    if not len(image):
        raise image.error("an empty file")
    if options.all_modules() or options.command_line:
        raise image.error("no kind of kernel known here, and a flat binary takes no initrd, modules or command line")
    if not 0 <= address < REAL_MODE_END or (address >= 0x1_0000 and address % 16):
        hint = "use one below 1 MiB, a multiple of 16 from 64 KiB on"
        raise image.error(f"load address {address:#x} cannot be reached in real mode: {hint}")
    regions = Regions(options.ram, keep_page_0=False)
    regions.claim(address, len(image), image.name)
    tables = acpi.place(regions, options)
    selector, ip = (0, address) if address < 0x1_0000 else (address >> 4, 0)
    covers_stack = address < BOOT_SECTOR < address + len(image)
    data = SegmentStart(0, 0, 0xFFFF, 0x0093)
    start = CpuStart(
        mode="real16",
        rip=ip,
        cr0=CR0_ET,
        segments={
            "cs": SegmentStart(selector, selector << 4, 0xFFFF, 0x009B),
            **dict.fromkeys(("ds", "es", "fs", "gs", "ss"), data),
            "tr": SegmentStart(0, 0, 0xFFFF, 0x008B),
        },
        general={"rsp": address & 0xFFFE if covers_stack else BOOT_SECTOR, "rdx": BOOT_DRIVE},
        idt_limit=0x3FF,
        gdt_limit=0xFFFF,
    )
    return BootPlan("flat", (Piece(address, image.data, image.name), *tables.pieces), start, memory_map(options.ram), tables.rsdp)
