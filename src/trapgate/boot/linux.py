"""Plans a Linux bzImage: the setup header, the zero page, the start in 64-bit mode (in 32-bit mode where that entry is lacking).

Source: Linux, Documentation/arch/x86/boot.rst and zero-page.rst. Taken are boot protocols 2.06 (Linux 2.6.22) and later. The kernel
unpacks itself inside the guest; here it is only put where it wants to be.
"""

from trapgate.boot import acpi
from trapgate.boot.extras import encoded_command_line, place_bytes, place_initrd
from trapgate.boot.image import Image, ImageError
from trapgate.boot.plan import FLAT_GDT, LONG_GDT, BootOptions, BootPlan, MapEntry, Piece, identity_tables, long64, protected32
from trapgate.boot.regions import FOUR_GIB, HIGH_START, PAGE, Regions, memory_map
from trapgate.values import dataclass

SECTOR = 512
HEADER_START = 0x1F1
MAGIC_OFFSET = 0x202
MAGIC = b"HdrS"
BOOT_FLAG = 0xAA55
HEADER_LIMIT = 0x290  # the zero page uses the bytes from here for something else
OLDEST = 0x0206
HAS_PREFERRED_ADDRESS = 0x020A  # pref_address and init_size
HAS_XLOADFLAGS = 0x020C
LOADED_HIGH = 1 << 0  # loadflags
CAN_USE_HEAP = 1 << 7
XLF_KERNEL_64 = 1 << 0  # xloadflags: there is a 64-bit entry at 200h
ENTRY_64 = 0x200
UNKNOWN_LOADER = 0xFF
MAX_ALIGNMENT = 1 << 30

# Offsets in the zero page
RSDP_FIELD, EXT_RAMDISK_IMAGE, EXT_RAMDISK_SIZE, E820_COUNT, E820_TABLE = 0x70, 0xC0, 0xC4, 0x1E8, 0x2D0
VID_MODE, TYPE_OF_LOADER, LOADFLAGS, CODE32_START, RAMDISK_IMAGE, RAMDISK_SIZE, HEAP_END, COMMAND_LINE = (
    *(0x1FA, 0x210, 0x211, 0x214),
    *(0x218, 0x21C, 0x224, 0x228),
)
NORMAL_VIDEO = 0xFFFF


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of the setup header that decide where things go. Sizes and addresses in bytes."""

    version: int
    setup_size: int  # boot sector and setup code: the protected-mode kernel begins here in the file
    kernel_size: int  # of the protected-mode kernel in the file
    initrd_limit: int  # the initrd must end at or below this
    alignment: int
    relocatable: bool
    command_line_size: int  # without the final NUL
    preferred_address: int
    memory_size: int  # what the kernel needs from its load address on, while it unpacks itself
    long_entry: bool
    raw: bytes  # the header as it stands in the file, from HEADER_START on


def is_linux(image: Image) -> bool:
    """Whether the file has the magic of a Linux setup header."""
    return image.has(MAGIC_OFFSET, MAGIC)


def parse(image: Image) -> Header:
    """Read and check the setup header; ImageError for what is cut, too old, not a bzImage, or absurd."""
    what = "the Linux setup header"
    if image.number(0x1FE, 2, what) != BOOT_FLAG:
        raise image.error("a Linux setup header without the boot flag AA55h")
    version = image.number(0x206, 2, what)
    if version < OLDEST:
        raise image.error(f"Linux boot protocol {version >> 8}.{version & 0xFF:02}, at least 2.06 is needed")
    end = MAGIC_OFFSET + image.number(0x201, 1, what)
    needed = 0x264 if version >= HAS_PREFERRED_ADDRESS else 0x23C
    if not needed <= end <= HEADER_LIMIT:
        raise image.error(f"a Linux setup header that ends at {end:#x}, not between {needed:#x} and {HEADER_LIMIT:#x}")
    if not image.number(LOADFLAGS, 1, what) & LOADED_HIGH:
        raise image.error("a zImage, which loads below 1 MiB; a bzImage is needed")
    if not image.number(CODE32_START, 4, what):
        raise image.error("no 32-bit entry (its code32_start is 0): it starts in real mode and needs a BIOS, and there is none")
    setup_size = ((image.number(HEADER_START, 1, what) or 4) + 1) * SECTOR
    stated = image.number(0x1F4, 4, what) * 16  # syssize, in paragraphs: rounded up
    kernel_size = len(image) - setup_size
    if kernel_size <= 0 or kernel_size + 15 < stated:
        raise image.error(f"cut short: a kernel of {setup_size + stated:#x} bytes, the file has {len(image):#x}")
    alignment = image.number(0x230, 4, what)
    relocatable = bool(image.number(0x234, 1, what))
    if relocatable and (alignment & (alignment - 1) or not PAGE <= alignment <= MAX_ALIGNMENT):
        raise image.error(f"a kernel alignment of {alignment:#x}")
    preferred, memory_size = image.unpack("QI", 0x258, what) if version >= HAS_PREFERRED_ADDRESS else (HIGH_START, 0)
    return Header(
        version=version,
        setup_size=setup_size,
        kernel_size=kernel_size,
        initrd_limit=min(image.number(0x22C, 4, what) + 1, FOUR_GIB),
        alignment=alignment,
        relocatable=relocatable,
        command_line_size=image.number(0x238, 4, what),
        preferred_address=preferred,
        memory_size=max(memory_size, kernel_size),
        long_entry=version >= HAS_XLOADFLAGS and bool(image.number(0x236, 2, what) & XLF_KERNEL_64),
        raw=bytes(image.slice(HEADER_START, end - HEADER_START, what)),
    )


def plan(image: Image, options: BootOptions) -> BootPlan:
    """Where everything goes and how the kernel starts: RSI = the zero page."""
    header = parse(image)
    if options.modules:
        raise image.error("a Linux kernel takes no modules, but an initrd")
    regions = Regions(options.ram)
    address = _place_kernel(image, header, regions)
    pieces = [Piece(address, image.slice(header.setup_size, header.kernel_size, "the kernel"), "kernel")]
    tables = acpi.place(regions, options)
    pieces += tables.pieces
    line = encoded_command_line(options.command_line, header.command_line_size)
    command_line = place_bytes(regions, pieces, line + b"\0", "command line")
    initrd = (0, 0) if options.initrd is None else place_initrd(regions, pieces, options.initrd, header.initrd_limit)
    entries = memory_map(options.ram)
    page = zero_page(header, address, command_line, initrd, tables.rsdp, entries)
    zero = place_bytes(regions, pieces, page, "zero page", PAGE)
    gdt = place_bytes(regions, pieces, LONG_GDT if header.long_entry else FLAT_GDT, "GDT")
    if header.long_entry:
        cr3 = regions.place(6 * PAGE, "page tables")
        pieces.append(Piece(cr3, identity_tables(cr3), "page tables"))
        start = long64(address + ENTRY_64, {"rsi": zero}, gdt, cr3)
    else:
        start = protected32(address, {"rsi": zero}, gdt)
    code = 64 if header.long_entry else 32 if header.version >= HAS_XLOADFLAGS else 0
    return BootPlan("Linux bzImage", tuple(pieces), start, entries, tables.rsdp, code)


def _place_kernel(image: Image, header: Header, regions: Regions) -> int:
    """Where the kernel likes to be, or the lowest aligned place above 1 MiB when it can move and does not fit there."""
    address, size = header.preferred_address, header.memory_size
    if address + size <= FOUR_GIB and regions.fits(address, size):
        return regions.claim(address, size, f"kernel {image.name}")
    if header.relocatable:
        return regions.place(size, f"kernel {image.name}", align=header.alignment, low=HIGH_START, high=FOUR_GIB)
    if address + size > FOUR_GIB:
        raise ImageError(f"kernel {image.name} must be loaded at {address:#x}, above the 4 GiB that a loader can reach")
    return regions.claim(address, size, f"kernel {image.name}")


def zero_page(
    header: Header, kernel: int, command_line: int, initrd: tuple[int, int], rsdp: int, entries: tuple[MapEntry, ...]
) -> bytes:
    """The `boot_params` structure: the file's own setup header with the loader's fields filled in, and the memory map."""
    page = bytearray(PAGE)
    page[HEADER_START : HEADER_START + len(header.raw)] = header.raw

    def put(offset: int, size: int, value: int) -> None:
        page[offset : offset + size] = value.to_bytes(size, "little")

    put(VID_MODE, 2, NORMAL_VIDEO)
    put(TYPE_OF_LOADER, 1, UNKNOWN_LOADER)
    put(LOADFLAGS, 1, page[LOADFLAGS] & ~CAN_USE_HEAP)  # the real-mode code, whose heap that is, does not run
    put(HEAP_END, 2, 0)
    put(CODE32_START, 4, kernel)
    put(COMMAND_LINE, 4, command_line)
    put(RAMDISK_IMAGE, 4, initrd[0])
    put(RAMDISK_SIZE, 4, initrd[1] & 0xFFFF_FFFF)
    put(EXT_RAMDISK_IMAGE, 4, 0)
    put(EXT_RAMDISK_SIZE, 4, initrd[1] >> 32)
    put(RSDP_FIELD, 8, rsdp)
    put(E820_COUNT, 1, len(entries))
    for index, entry in enumerate(entries):
        put(E820_TABLE + 20 * index, 8, entry.start)
        put(E820_TABLE + 20 * index + 8, 8, entry.size)
        put(E820_TABLE + 20 * index + 16, 4, entry.kind)
    return bytes(page)
