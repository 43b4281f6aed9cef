"""Recognise an image by its content and plan its start. This is what a machine calls."""

from dataclasses import replace

from trapgate.boot import bios, elf, flat, linux, multiboot, pvh
from trapgate.boot.image import Image
from trapgate.boot.plan import BootOptions, BootPlan

_FOREIGN = (  # what people hand over by mistake: (offset, magic, what it is)
    (0, b"\x1f\x8b", "a gzip file: unpack it first"),
    (0, b"\xfd7zXZ\0", "an xz file: unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file: unpack it first"),
    (0, b"070701", "a cpio archive: an initrd, not a kernel"),
    (0, b"QFI\xfb", "a qcow2 disk image: disks cannot be booted, give the kernel"),
    (0, b"!<arch>", "an ar archive or a Debian package: extract the kernel from it"),
    (0, b"#!", "a script, not a guest image"),
    (0x8001, b"CD001", "a CD image: disks cannot be booted, give the kernel"),
    (0x40, b"\x7f\x10\xda\xbe", "a VDI disk image: disks cannot be booted, give the kernel"),
)


def plan_boot(image: Image, options: BootOptions) -> BootPlan:
    """Plan the start of an image, with the BIOS data area beside it. ImageError when it cannot be booted."""
    plan = _plan(image, options)
    return replace(plan, pieces=(*plan.pieces, *bios.pieces(options, plan.pieces)))


def _plan(image: Image, options: BootOptions) -> BootPlan:
    """By the protocol of a bzImage, an ELF file with a PVH note, a multiboot image or, when it is none of these, a flat binary.

    An ELF64 file with both goes the PVH way, for multiboot knows only ELF32.
    """
    if linux.is_linux(image):
        _no_load_address(image, options)
        return linux.plan(image, options)
    header = multiboot.find_header(image)
    if elf.is_elf(image):
        _no_load_address(image, options)
        parsed = elf.parse(image)
        entry = pvh.entry_of(parsed) if header is None or parsed.bits == 64 else None
        if entry is not None:
            return pvh.plan(parsed, entry, options)
        if header is None:
            raise image.error("an ELF file with neither a PVH note nor a multiboot header: it does not say how to start it")
    if header is not None:
        _no_load_address(image, options)
        return multiboot.plan(image, header, options)
    for offset, magic, what in _FOREIGN:
        if image.has(offset, magic):
            raise image.error(what)
    if not len(image):
        raise image.error("an empty file")
    if options.load_address is None and not _is_boot_sector(image):
        raise image.error("unknown kind of image; if it is a flat real-mode binary, say where to load it")
    return flat.plan(image, options)


def _is_boot_sector(image: Image) -> bool:
    """Whether the first sector ends with the signature 55h AAh, or the file is smaller than a sector."""
    return len(image) < 512 or image.has(510, b"\x55\xaa")


def _no_load_address(image: Image, options: BootOptions) -> None:
    if options.load_address is not None:
        raise image.error("a load address is for flat binaries only; this image says itself where it goes")
