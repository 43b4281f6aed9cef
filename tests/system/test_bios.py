"""A boot sector that calls the BIOS: what it prints comes out of COM1, and what is not there says so."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cases import kit

TRAPGATE = str(Path(sys.executable).with_name("trapgate"))
# Prints "BIOS"; then the exit port: 1 when INT 12h says 639 KiB, and INT 13h and 15h answer CF = 1, AH = 86h, BX and SP kept.
SECTOR = """
    .code16
    cli; xor %ax,%ax; mov %ax,%ds; mov %ax,%ss; mov $0x7000,%sp
    mov $text,%si; cld
next: lodsb; test %al,%al; jz asked
    mov $0x0E,%ah; mov $7,%bx; int $0x10; jmp next
asked: mov $0x1234,%bx
    int $0x12; cmp $639,%ax; jne wrong
    clc; mov $0x4100,%ax; int $0x13; jnc wrong; cmp $0x86,%ah; jne wrong
    clc; mov $0xE820,%ax; int $0x15; jnc wrong; cmp $0x86,%ah; jne wrong
    int $0x11; cmp $0x202,%ax; jne wrong
    cmp $0x1234,%bx; jne wrong
    cmp $0x7000,%sp; jne wrong
    mov $1,%al; out %al,$0xF4
wrong: mov $2,%al; out %al,$0xF4
text: .asciz "BIOS"
"""


@pytest.mark.skipif(shutil.which("as") is None, reason="binutils is not installed")
def test_a_boot_sector_prints_and_hears_what_is_not_there(tmp_path: Path) -> None:
    made, linked, image = tmp_path / "made.o", tmp_path / "linked", tmp_path / "image"
    subprocess.run(["as", "--32", "-o", str(made)], input=SECTOR, text=True, check=True)
    subprocess.run(["ld", "-m", "elf_i386", "-Ttext=0x7C00", "-e", "0x7C00", "-o", str(linked), str(made)], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", str(linked), str(image)], check=True)
    image.write_bytes(image.read_bytes().ljust(510, b"\0") + b"\x55\xaa")
    done = subprocess.run([TRAPGATE, "run", str(image)], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == (b"BIOS", 3), done


ASKED = (  # in the guest's order: letter, whether it is there, what is asked; docs/guests.md says the same of all services
    ("o", True, "INT 10h, 0Eh: a character"),
    ("v", False, "INT 10h, 0Fh: the video mode"),
    ("q", True, "INT 11h: the equipment"),
    ("m", True, "INT 12h: low memory"),
    ("d", False, "INT 13h, 41h: disk extensions"),
    ("r", False, "INT 13h, 0: disk reset"),
    ("E", False, "INT 15h, E820h: the memory map"),
    ("e", False, "INT 15h, E801h: memory above 1 and 16 MiB"),
    ("x", False, "INT 15h, 88h: extended memory"),
    ("a", False, "INT 15h, 2401h: A20 on"),
    ("k", False, "INT 16h, 1: a key"),
    ("t", False, "INT 1Ah, 0: the time"),
    ("P", True, "port 92h: A20 on"),
    ("L", True, "the A20 line is open"),
)


@pytest.mark.skipif(bool(kit.LACKING), reason=kit.LACKING)
def test_what_a_boot_loader_asks_for(tmp_path: Path) -> None:
    image = kit.sector("bios_services", tmp_path)
    done = subprocess.run([TRAPGATE, "run", image], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert done.stdout.decode() == "".join(letter if there else "." for letter, there, _ in ASKED)
    assert done.returncode == 33


@pytest.mark.skipif(bool(kit.LACKING), reason=kit.LACKING)
def test_a_rom_behind_a_sector_that_loads_it(tmp_path: Path) -> None:
    """At its reset vector a far jump to F000:0000, which prints what lies at F000:0020 and leaves by the exit port."""
    code = "8cc8 8ed8 be2000 b90300 baf803 ac ee e2fc b87f00 e6f4"  # DS = CS; 3 times from 20h on: LODSB, OUT 3F8h; OUT F4h, 7Fh
    rom = bytes.fromhex(code).ljust(0x20, b"\0") + b"ROM"
    rom = rom.ljust(0xFFF0, b"\0") + bytes.fromhex("ea000000f0").ljust(16, b"\0")
    image = Path(kit.sector("rom_loader", tmp_path))
    image.write_bytes(image.read_bytes() + rom)
    done = subprocess.run([TRAPGATE, "run", str(image)], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == (b"ROM", 255), done
