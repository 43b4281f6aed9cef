"""Recognises an image by its content and plans its start. This is what a machine calls."""

from trapgate.boot import bios, elf, flat, foreign, linux, multiboot, pvh
from trapgate.boot.image import Image
from trapgate.boot.plan import BootOptions, BootPlan
from trapgate.values import replace


def plan_boot(image: Image, options: BootOptions) -> BootPlan:
    """Plan the start of an image, with the BIOS data area beside it. ImageError when it cannot be booted."""
    plan = _plan(image, options)
    return replace(plan, pieces=(*plan.pieces, *bios.pieces(options, plan.pieces)), code=plan.code or elf.code_width(image))


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
            raise image.error(_no_protocol(parsed))
    if header is not None:
        if not elf.is_elf(image) and foreign.is_firmware(image):  # U-Boot has a header as well, for other loaders
            raise image.error(foreign.name(image) or "firmware")
        _no_load_address(image, options)
        return multiboot.plan(image, header, options)
    if options.load_address is None and (what := foreign.name(image)) is not None:
        raise image.error(what)
    if not len(image):
        raise image.error("an empty file")
    if options.load_address is None and not _is_boot_sector(image):
        raise image.error("unknown kind of image; if it is a flat real-mode binary, say where it starts, as in --load-at 0x7c00")
    return flat.plan(image, options)


def _no_protocol(parsed: elf.Elf) -> str:
    """What to say of an ELF file that no protocol known here starts."""
    if foreign.is_multiboot2(parsed.image):
        return foreign.MULTIBOOT2_TOLD
    if any(segment.kind == elf.PT_INTERP for segment in parsed.segments):
        return "a program for an operating system, with neither a PVH note nor a multiboot header: give the kernel that runs it"
    return (
        "an ELF file with neither a PVH note nor a multiboot header: it does not say how to start it; add one of them, or give "
        "the bzImage if it is Linux"
    )


def _is_boot_sector(image: Image) -> bool:
    """Whether the first sector ends with the signature 55h AAh, or the file is smaller than a sector."""
    return len(image) < 512 or image.has(510, b"\x55\xaa")


def _no_load_address(image: Image, options: BootOptions) -> None:
    if options.load_address is not None:
        raise image.error("a load address is for flat binaries only; this image says itself where it goes")
