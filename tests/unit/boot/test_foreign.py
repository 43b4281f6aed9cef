"""Files that cannot be started: each is named as what it is; and what looks like one of them but is none is started."""

import gzip
import struct
from pathlib import Path

import pytest

from cases import kit
from trapgate.boot import Image, ImageError, foreign, plan_boot, read_image
from unit.boot.images import MIB, elf, multiboot_header, options

SECTOR = b"\xf4" + bytes(509) + b"\x55\xaa"
SEGMENT = (1, 0x10_0000, 0x10_0000, b"\xf4" * 64, 64)
MULTIBOOT2 = struct.pack("<IIIIHHI", 0xE85250D6, 0, 24, -(0xE85250D6 + 24) & 0xFFFF_FFFF, 0, 0, 8)
FIRMWARE = (Path("/usr/share/seabios/bios.bin"), Path("/usr/share/seabios/bios-256k.bin"), Path("/usr/share/OVMF/OVMF_CODE.fd"))
needs_tools = pytest.mark.skipif(bool(kit.LACKING), reason=kit.LACKING)


def portable(subsystem: int, *sections: bytes) -> bytes:
    """A PE32+ file with the headers alone."""
    head = b"MZ" + bytes(58) + struct.pack("<I", 0x80)
    coff = b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, len(sections), 0, 0, 0, 240, 0x22)
    optional = struct.pack("<H66xH", 0x20B, subsystem).ljust(240, b"\0")
    return head.ljust(0x80, b"\0") + coff + optional + b"".join(name.ljust(40, b"\0") for name in sections) + bytes(512)


def at(offset: int, magic: bytes, size: int = 0x9000) -> bytes:
    return (bytes(offset) + magic).ljust(size, b"\0")


def rom(vector: str, size: int = 1 << 17, head: bytes = b"") -> bytes:
    return head.ljust(size - 16, b"\0") + bytes.fromhex(vector).ljust(16, b"\0")


def partitions(*entries: tuple[int, int, int, int], size: int = 64) -> bytes:
    """A master boot record of (status, type, first sector, sectors) and `size` sectors of disk."""
    table = b"".join(struct.pack("<B3xB3xII", *entry) for entry in entries).ljust(64, b"\0")
    return (b"\xf4".ljust(446, b"\0") + table + b"\x55\xaa").ljust(size * 512, b"\0")


HEADER_AT_THE_TOP = multiboot_header(1 << 16, struct.pack("<IIIII", *(0xFFF0_0000,) * 2, 0, 0, 0))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        *((at(offset, magic), what) for offset, magic, what in foreign.MAGICS),
        (gzip.compress(bytes(4096), mtime=0), "a gzip file: if a kernel is in it, unpack it first, with gunzip"),
        (MULTIBOOT2.ljust(4096, b"\0"), "a multiboot 2 kernel"),
        (elf([(1, 0x10_0000, 0x10_0000, MULTIBOOT2, 64)], 0x10_0000), "a multiboot 2 kernel"),
        (elf([SEGMENT], 0x10_0000), "neither a PVH note nor a multiboot header: it does not say how to start it; add one"),
        (portable(10, b".text"), "a UEFI program: there is no UEFI here"),
        (portable(10, b".osrel", b".linux", b".initrd"), "a unified kernel image: take the kernel out of it"),
        (portable(3, b".text"), "a Windows program"),
        (b"MZ" + bytes(600), "a DOS program"),
        (b"MZ", "a DOS program"),
        (rom("ea5be000f030362f32332f393900fc00"), "PC firmware"),  # SeaBIOS
        (rom("fafce90bf8ffffff42696e4d"), "PC firmware"),  # U-Boot
        (rom("fafce90bf8ffffff42696e4d", head=HEADER_AT_THE_TOP), "PC firmware"),
        (rom("9090e95bff9090909090909090909090"), "PC firmware"),
        (partitions((0x80, 0x83, 1, 63)), "a disk image with a partition table"),
        (partitions((0, 0x0C, 1, 20), (0, 0x83, 21, 43)), "a disk image with a partition table"),
        (partitions((0, 0xEE, 1, 63))[:512] + b"EFI PART" + bytes(63 * 512), "a GUID partition table"),
        (partitions((0x80, 0x17, 0, 64), size=65)[:0x8001] + b"CD001" + bytes(4096), "a CD image"),  # a hybrid one
        (SECTOR + bytes(1474560 - 512), "a floppy image of 1.44 MB: leave out IMAGE and write --disk FILE"),
        (SECTOR + bytes(2 * MIB), "a disk image: leave out IMAGE and write --disk FILE"),
        (SECTOR + bytes(1024) + b"conectix".ljust(512, b"\0"), "a VHD disk image"),
        (bytes(600), "unknown kind of image; .* as in --load-at 0x7c00"),
    ],
)
def test_named_as_what_it_is(data: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words.replace("(", r"\(").replace(")", r"\)")) as caught:
        plan_boot(Image(data, "the image"), options())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", FIRMWARE, ids=lambda path: path.name)
def test_firmware_of_this_host(path: Path) -> None:
    if not path.exists():
        pytest.skip(f"no {path}")
    with pytest.raises(ImageError, match="PC firmware: write --firmware FILE"):
        plan_boot(read_image(path), options())


@pytest.mark.parametrize(
    "data",
    [
        SECTOR,
        SECTOR + bytes(100 << 10),
        partitions((0x12, 0x83, 1, 63)),  # code where a partition table would be
        partitions((0x80, 0x83, 1, 64)),  # a partition that the file does not hold
        rom("ea5be000f0", head=SECTOR),
    ],
)
def test_boot_sectors_start(data: bytes) -> None:
    assert plan_boot(Image(data), options()).start.rip == 0x7C00


@pytest.mark.parametrize("data", [partitions((0x80, 0x83, 1, 63)), rom("ea5be000f0", 1 << 16), bytes(600), b"#!" + bytes(600)])
def test_who_says_where_to_load_it_means_a_flat_binary(data: bytes) -> None:
    assert plan_boot(Image(data), options(load_address=0x8000)).start.rip == 0x8000


@needs_tools
def test_notes_are_padded_as_their_segment_is_aligned(tmp_path: Path) -> None:
    plan = plan_boot(read_image(kit.linked("i03_pvh_notes", tmp_path, "-T", str(kit.HERE / "i03.ld"))), options())
    assert (plan.kind, plan.start.rip) == ("PVH", 0x10_0000)


@needs_tools
def test_kernels_of_other_loaders(tmp_path: Path) -> None:
    flags = ("-no-pie", "-Wl,-Ttext=0x100000", "-Wl,-z,max-page-size=4096")
    with pytest.raises(ImageError, match="a multiboot 2 kernel"):
        plan_boot(read_image(kit.linked("i04_multiboot2", tmp_path, *flags)), options())
    assert (
        plan_boot(
            read_image(kit.linked("i06_multiboot_vbe", tmp_path, "-no-pie", "-T", str(kit.COMMON / "link.ld"))), options()
        ).kind
        == "multiboot"
    )


@needs_tools
def test_a_disk_of_two_sectors_starts_and_a_floppy_does_not(tmp_path: Path) -> None:
    image = Path(kit.sector("g06_disk_sector2", tmp_path))
    assert plan_boot(read_image(image), options()).start.rip == 0x7C00
    with image.open("ab") as file:
        file.truncate(1474560)
    with pytest.raises(ImageError, match=r"a floppy image of 1\.44 MB"):
        plan_boot(read_image(image), options())
