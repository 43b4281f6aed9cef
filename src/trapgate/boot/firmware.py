"""Plans the start of PC firmware: its file ends where the first MiB does, and the CPU begins at its reset vector.

What firmware made for QEMU asks of the board, it finds as files of the firmware configuration device: the memory map (which the
board puts there), ACPI tables with a script that links them (`tableloader`), the serial port that is its screen and keyboard.

Source: SeaBIOS, docs/Runtime_config (the files that it reads); SDM vol. 3, 10.1.4 (the first instruction).
"""

from pathlib import Path

from trapgate.arch import layout
from trapgate.arch.control import CR0_RESET
from trapgate.boot import tableloader
from trapgate.boot.image import Image, ImageError, read_image
from trapgate.boot.plan import BootOptions, BootPlan, Piece
from trapgate.boot.regions import FIRMWARE_END, memory_map
from trapgate.vcpu import CpuStart, SegmentStart

PLACES = ("/usr/share/seabios/bios-microvm.bin", "/usr/share/qemu/bios-microvm.bin")
"""Where hosts have SeaBIOS for machines without PCI: Debian's package seabios, and QEMU's own."""
BLOCK = 1 << 16  # firmware is a multiple of so many bytes: half of what the mirror holds
SELECTOR, RESET_IP = 0xF000, 0xFFF0
SERIAL_FILE = "etc/sercon-port"  # where SeaBIOS has INT 10h and INT 16h on a serial port
NO_MENU_FILE = "etc/show-boot-menu"  # 0: it does not wait for a key
CYLINDER = 16 * 63 * 512  # bytes: a smaller disk has no sector for SeaBIOS by cylinder, head and number


def find() -> Path:
    """The firmware of this host. ImageError says where to get one."""
    for place in PLACES:
        if Path(place).is_file():
            return Path(place)
    raise ImageError("a disk is started by firmware, and this host has none: install the package seabios, or give --firmware FILE")


def read(path: str | Path) -> Image:
    """A file of firmware. ImageError: it is none that could run here."""
    image = read_image(path)
    if not len(image) or len(image) % BLOCK or len(image) > layout.MIRROR_LENGTH:
        raise image.error(
            f"{len(image)} bytes are no firmware for this board, which takes 64 or 128 KiB: SeaBIOS for machines without PCI "
            "(bios-microvm.bin)"
        )
    return image


def plan(image: Image, options: BootOptions) -> BootPlan:
    """Firmware that fills the memory below 1 MiB, and what it is told. ImageError: there is no RAM for it."""
    if options.initrd is not None or options.modules or options.command_line:
        raise image.error("firmware starts what a disk holds: it takes no initrd, modules or command line")
    if not any(start == 0 and end > FIRMWARE_END for start, end in options.ram):
        raise image.error("firmware needs more than 1 MiB of memory: give the guest more")
    data = SegmentStart(0, 0, 0xFFFF, 0x0093)
    start = CpuStart(
        mode="real16",
        rip=RESET_IP,
        cr0=CR0_RESET,
        segments={
            "cs": SegmentStart(SELECTOR, 0xFFFF_0000, 0xFFFF, 0x009B),
            **dict.fromkeys(("ds", "es", "fs", "gs", "ss"), data),
            "tr": SegmentStart(0, 0, 0xFFFF, 0x008B),
        },
        gdt_limit=0xFFFF,
        idt_limit=0xFFFF,
    )
    files = {
        **tableloader.files(options.cpus, options.virtio),
        SERIAL_FILE: layout.COM1_PORT.to_bytes(2, "little"),
        NO_MENU_FILE: bytes(1),
    }
    pieces = (Piece(FIRMWARE_END - len(image), image.data, "firmware"),)
    return BootPlan("firmware", pieces, start, memory_map(options.ram), files=tuple(files.items()))
