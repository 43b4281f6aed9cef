"""The BIOS data areas and services: what is in them, and that they give way to an image that lies there."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from trapgate.boot import Image, bios, load, plan_boot
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


@pytest.mark.skipif(shutil.which("as") is None, reason="binutils is not installed")
def test_the_services_are_what_their_source_says(tmp_path: Path) -> None:
    made, plain = tmp_path / "made.o", tmp_path / "plain"
    subprocess.run(["as", "--32", "-o", str(made)], input=bios.SERVICES_SOURCE, text=True, check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", str(made), str(plain)], check=True)
    assert plain.read_bytes() == bios.SERVICES


def test_vectors_lead_to_the_services_only() -> None:
    ram = Ram(2 * MIB)
    load(plan_boot(Image(b"\xf4"), options(memory=2 * MIB)), ram)
    vectors = [struct.unpack("<HH", ram.read(4 * number, 4)) for number in range(256)]
    assert [number for number, vector in enumerate(vectors) if vector != (0, 0)] == list(range(0x10, 0x1B))
    assert ram.read(0xF0000, len(bios.SERVICES)) == bios.SERVICES
    for offset, segment in vectors[0x10:0x1B]:
        assert segment == 0xF000
        assert offset % 16 == 0
        assert offset < len(bios.SERVICES)


def test_an_image_over_the_vectors_has_no_services() -> None:
    image = b"\xf4" * 0x41
    plan = plan_boot(Image(image), options(memory=2 * MIB, load_address=0))
    assert not any("services" in piece.what or "vectors" in piece.what for piece in plan.pieces)
    assert any(piece.what == "BIOS data area" for piece in plan.pieces)


def test_without_memory_below_video_there_are_none() -> None:
    plan = plan_boot(Image(b"\xf4"), options(memory=512 << 10))
    assert not any("BIOS" in piece.what for piece in plan.pieces)
