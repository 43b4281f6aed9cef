"""Names files that people hand over and that cannot be started here, each with what to do instead.

Sources: Multiboot2 Specification 2.0, 3.1; PE format (Microsoft), sections 2 to 4; UEFI 2.10, 5 (GPT); Platform Initialization 1.7,
volume 3, 3.2.1 (firmware volumes); the signatures of file(1) as their makers publish them. Disk images: diskformats.py.
"""

import struct

from trapgate.boot.image import Image
from trapgate.boot.regions import FIRMWARE_START
from trapgate.diskformats import format_of

_KERNEL = "leave out IMAGE and write --disk FILE, and firmware starts what it holds, or give the kernel that it holds"
_RAW = "then --disk FILE without an IMAGE starts what it holds"
_UNPACK = "if a kernel is in it, unpack it first"
_FIRMWARE = "write --firmware FILE, and --disk FILE for what it starts; or give the kernel, or a flat real-mode binary"

MAGICS = (  # (offset, magic, what it is and what to do)
    (0, b"\x1f\x8b", f"a gzip file: {_UNPACK}, with gunzip"),
    (0, b"\xfd7zXZ\0", f"an xz file: {_UNPACK}, with unxz"),
    (0, b"\x28\xb5\x2f\xfd", f"a zstd file: {_UNPACK}, with unzstd"),
    (0, b"BZh", f"a bzip2 file: {_UNPACK}, with bunzip2"),
    (0, b"\x02\x21\x4c\x18", f"an LZ4 file: {_UNPACK}, with unlz4"),
    (0, b"\x04\x22\x4d\x18", f"an LZ4 file: {_UNPACK}, with unlz4"),
    (0, b"\x89LZO\0", f"an LZO file: {_UNPACK}, with lzop -d"),
    (0, b"\x5d\0\0", f"an LZMA file: {_UNPACK}, with unlzma"),
    (0, b"PK\x03\x04", f"a zip file: {_UNPACK}, with unzip"),
    (0, b"070701", "a cpio archive: an initrd, not a kernel; give it by --initrd"),
    (0, b"!<arch>", "an ar archive or a Debian package: extract the kernel from it"),
    (0, b"#!", "a script, not a guest image: give the image that it starts"),
    (0, b"\x27\x05\x19\x56", "a U-Boot image (uImage): extract the kernel from it, with dumpimage"),
    (0, b"\xd0\x0d\xfe\xed", "a device tree or a U-Boot FIT image: extract the kernel from it"),
    (0x38, b"ARM\x64", "a Linux kernel for AArch64, not for x86"),
    (0x38, b"RSC\x05", "a Linux kernel for RISC-V, not for x86"),
    (
        0x8001,
        b"CD001",
        "a CD image: leave out IMAGE and write --cdrom FILE, and firmware starts it, or give the kernel that it holds",
    ),
    (0x200, b"EFI PART", f"a disk image with a GUID partition table: {_KERNEL}"),
    (0, b"hsqs", "a squashfs file system, not a kernel"),
    (0x438, b"\x53\xef", "an ext2, ext3 or ext4 file system, not a kernel"),
    (0, b"\x55\xaa", "an option ROM, which firmware would start: give the kernel, or a flat real-mode binary"),
    (
        0x28,
        b"_FVH",
        "UEFI firmware, which is not for this board: give the kernel, or --firmware with SeaBIOS for machines without PCI",
    ),
)
FLOPPIES = {163840: "160 KB", 184320: "180 KB", 327680: "320 KB", 368640: "360 KB", 737280: "720 KB"}
FLOPPIES |= {1228800: "1.2 MB", 1474560: "1.44 MB", 1720320: "1.68 MB", 2949120: "2.88 MB"}
"""Bytes of a floppy disk, and what its makers call it."""

MULTIBOOT2, MULTIBOOT2_SEARCH = 0xE852_50D6, 32768
EFI_SUBSYSTEMS = (10, 11, 12, 13)  # application, boot service driver, run-time driver, ROM
SECTOR, ENTRIES, ENTRY = 512, 446, 16  # a master boot record: its partition table and one entry of it
FLASH_BLOCK = 0x1_0000  # firmware fills flash memory, whose last 16 bytes are the first code of a CPU
ROOM = FIRMWARE_START - 0x7C00  # for a flat image at 7C00h


def is_multiboot2(image: Image) -> bool:
    """Whether a multiboot 2 header with a right checksum lies where GRUB looks for it."""
    head = bytes(image.data[:MULTIBOOT2_SEARCH])
    magic = MULTIBOOT2.to_bytes(4, "little")
    at = head.find(magic)
    while at >= 0:
        if at % 8 == 0 and at + 16 <= len(head) and sum(struct.unpack_from("<IIII", head, at)) & 0xFFFF_FFFF == 0:
            return True
        at = head.find(magic, at + 1)
    return False


MULTIBOOT2_TOLD = "a multiboot 2 kernel: that protocol is not known here; give it a multiboot 1 header or a PVH note as well"


def is_firmware(image: Image) -> bool:
    """Whether the file fills flash memory up to a reset vector that jumps away, as PC firmware does, and is no boot sector."""
    if len(image) < FLASH_BLOCK or len(image) % FLASH_BLOCK or image.has(510, b"\x55\xaa"):
        return False
    vector = bytes(image.data[-16:])
    far = vector[0] == 0xEA and vector[3:5] == b"\x00\xf0"  # jmp F000h:...
    prepared = vector[:2] in (b"\x0f\x09", b"\xfa\xfc", b"\x90\x90") and vector[2] in (0xE9, 0xEB)
    return far or prepared or (vector[0] in (0xE9, 0xEB) and not any(vector[8:]))


def name(image: Image) -> str | None:
    """What a file is that no protocol knows, with what to do; None when nothing tells. The caller has looked for kernels."""
    if is_multiboot2(image):
        return MULTIBOOT2_TOLD
    disk = format_of(lambda offset, length: bytes(image.data[offset : offset + length]), len(image))
    if disk is not None:
        return f"a {disk.name} disk image: make a raw image of it (qemu-img convert -f {disk.word} -O raw), {_RAW}"
    for offset, magic, what in MAGICS:
        if image.has(offset, magic):
            return what
    if image.has(0, b"MZ"):
        return _portable_executable(image)
    if is_firmware(image):
        return f"PC firmware: {_FIRMWARE}"
    return _disk(image) if image.has(510, b"\x55\xaa") else None


def _portable_executable(image: Image) -> str:
    at = int.from_bytes(image.data[0x3C:0x40], "little")
    if not image.has(at, b"PE\0\0") or at + 94 > len(image):
        return "a DOS program: there is no DOS here"
    sections, optional = (int.from_bytes(image.data[at + field : at + field + 2], "little") for field in (6, 20))
    if int.from_bytes(image.data[at + 92 : at + 94], "little") not in EFI_SUBSYSTEMS:
        return "a Windows program: there is no Windows here"
    table = at + 24 + optional
    names = [bytes(image.data[table + 40 * one : table + 40 * one + 8]).rstrip(b"\0") for one in range(min(sections, 96))]
    if b".linux" in names:
        return "a unified kernel image: take the kernel out of it, with objcopy -O binary -j .linux, and the initrd with -j .initrd"
    return "a UEFI program: there is no UEFI here; give a kernel that starts without (Linux bzImage, PVH, multiboot, flat binary)"


def _disk(image: Image) -> str | None:
    """A boot sector with what lies behind it: a disk when it has partitions, or more than fits where boot sectors are loaded."""
    if _partitioned(image):
        return f"a disk image with a partition table: {_KERNEL}; if it is a boot program all the same, --load-at 0x7c00 starts it"
    if len(image) <= ROOM:
        return None
    floppy = FLOPPIES.get(len(image))
    return f"{f'a floppy image of {floppy}' if floppy else 'a disk image'}: {_KERNEL}"


def _partitioned(image: Image) -> bool:
    """Whether a master boot record names at least one partition that lies in the file, and nothing else stands in its table."""
    found = False
    for number in range(4):
        status, kind, first, count = image.unpack("B3xB3xII", ENTRIES + ENTRY * number, "a partition entry")
        if status not in (0, 0x80) or (not kind and (first or count)):
            return False
        if kind:
            if not first or not count or (first + count) * SECTOR > len(image):
                return False
            found = True
    return found
