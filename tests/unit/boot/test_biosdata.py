"""The BIOS data areas: what is in them, and that they give way to an image that lies there."""

import pytest

from trapgate.boot import Image, load, plan_boot
from trapgate.memory import Ram
from unit.boot.images import MIB, bzimage, multiboot_elf, options, pvh


@pytest.mark.parametrize("image", [bzimage(), multiboot_elf(), pvh(), b"\xf4"])
def test_low_memory_ends_at_the_extended_area(image: bytes) -> None:
    ram = Ram(64 * MIB)
    load(plan_boot(Image(image), options()), ram)
    assert ram.read_int(0x40E, 2) << 4 == 0x9FC00
    assert ram.read_int(0x413, 2) == 639
    assert ram.read_int(0x400, 2) == 0x3F8
    assert ram.read_int(0x9FC00, 1) == 1


def test_an_image_in_page_0_keeps_its_bytes() -> None:
    image = b"\xf4" * 0x600
    ram = Ram(2 * MIB)
    load(plan_boot(Image(image), options(memory=2 * MIB, load_address=0)), ram)
    assert ram.read(0, len(image)) == image
    assert ram.read_int(0x9FC00, 1) == 1


def test_without_memory_below_video_there_are_none() -> None:
    plan = plan_boot(Image(b"\xf4"), options(memory=512 << 10))
    assert not any("BIOS" in piece.what for piece in plan.pieces)
