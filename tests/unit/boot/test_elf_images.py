"""PVH and multiboot images: what is loaded, what the start information says, and which files are refused."""

import struct

import pytest

from trapgate.boot import BootPlan, Image, ImageError, Module, load, plan_boot
from trapgate.memory import Ram
from unit.boot.images import CODE, MIB, elf, multiboot_elf, multiboot_header, note, options, pvh


def loaded(plan: BootPlan, memory: int = 64 * MIB) -> Ram:
    """RAM with the plan in it."""
    ram = Ram(memory)
    load(plan, ram)
    return ram


def text_at(ram: Ram, address: int) -> bytes:
    """The NUL-terminated string at an address."""
    return ram.read(address, 256).split(b"\0")[0]


@pytest.mark.parametrize("bits", [32, 64])
def test_pvh_gives_start_information_in_ebx(bits: int) -> None:
    plan = plan_boot(Image(pvh(bits=bits)), options(command_line="one two", initrd=b"module"))
    start = plan.start
    assert (plan.kind, start.mode, start.rip, start.cr0) == ("PVH", "protected32", 0x10_0010, 0x11)
    ram = loaded(plan)
    assert ram.read(0x10_0000, 64) == CODE
    magic, version, _, modules, module_list, line, rsdp, table, count, _ = struct.unpack(
        "<IIIIQQQQII", ram.read(start.general["rbx"], 56)
    )
    assert (magic, version, modules, rsdp) == (0x336EC578, 1, 1, plan.rsdp)
    assert text_at(ram, line) == b"one two"
    address, size, _, _ = struct.unpack("<QQQQ", ram.read(module_list, 32))
    assert ram.read(address, size) == b"module"
    entries = [struct.unpack("<QQII", ram.read(table + 24 * index, 24))[:3] for index in range(count)]
    assert entries == [(entry.start, entry.size, entry.kind) for entry in plan.memory_map]
    assert ram.read(rsdp, 8) == b"RSD PTR "


def test_the_pvh_note_is_found_among_others() -> None:
    notes = note(b"GNU", 18, b"\0\0\0\0") + note(b"Xen", 5, b"abc") + note(b"Xen", 18, struct.pack("<Q", 0x10_0008))
    image = elf([(4, 0, 0, notes, 0), (1, 0x10_0000, 0x10_0000, CODE, 64)], 0)
    assert plan_boot(Image(image), options()).start.rip == 0x10_0008


@pytest.mark.parametrize("bits", [32, 64])
def test_multiboot_gives_information_in_ebx(bits: int) -> None:
    plan = plan_boot(Image(multiboot_elf(bits=bits), "test.elf"), options(command_line="-x 1", initrd=b"module"))
    start = plan.start
    assert (plan.kind, start.mode, start.rip) == ("multiboot", "protected32", 0x40_000C)
    assert start.general["rax"] == 0x2BADB002
    ram = loaded(plan)
    flags, lower, upper, _, line, modules, module_list = struct.unpack("<IIIIIII", ram.read(start.general["rbx"], 28))
    assert flags == 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9
    assert (lower, upper, modules) == (639, 63 * 1024, 1)
    assert text_at(ram, line) == b"test.elf -x 1"
    begin, end, string, _ = struct.unpack("<IIII", ram.read(module_list, 16))
    assert ram.read(begin, end - begin) == b"module"
    assert text_at(ram, string) == b"initrd.img"
    length, table = struct.unpack("<II", ram.read(start.general["rbx"] + 44, 8))
    entries = [struct.unpack("<IQQI", ram.read(table + at, 24)) for at in range(0, length, 24)]
    assert entries == [(20, entry.start, entry.size, entry.kind) for entry in plan.memory_map]
    assert text_at(ram, ram.read_int(start.general["rbx"] + 64, 4)) == b"trapgate"


MODULES = (Module(Image(b"dom0 kernel", "some dir/vmlinuz"), "console=hvc0 quiet"), Module(Image(b"ramdisk", "initrd.img")))


def test_multiboot_modules_keep_their_order_and_texts() -> None:
    plan = plan_boot(Image(multiboot_elf()), options(modules=MODULES))
    ram = loaded(plan)
    count, table = struct.unpack("<II", ram.read(plan.start.general["rbx"] + 20, 8))
    seen = []
    for index in range(count):
        begin, end, string, _ = struct.unpack("<IIII", ram.read(table + 16 * index, 16))
        seen.append((ram.read(begin, end - begin), text_at(ram, string)))
    assert seen == [(b"dom0 kernel", b"some_dir/vmlinuz console=hvc0 quiet"), (b"ramdisk", b"initrd.img")]


def test_pvh_modules_come_behind_the_initrd() -> None:
    plan = plan_boot(Image(pvh()), options(initrd=b"first", modules=MODULES))
    ram = loaded(plan)
    count, table = struct.unpack("<IQ", ram.read(plan.start.general["rbx"] + 12, 12))
    entries = [struct.unpack("<QQQQ", ram.read(table + 32 * index, 32)) for index in range(count)]
    assert [ram.read(start, size) for start, size, _, _ in entries] == [b"first", b"dom0 kernel", b"ramdisk"]
    assert [text_at(ram, text) if text else None for _, _, text, _ in entries] == [None, b"console=hvc0 quiet", None]


def test_a_virtual_entry_point_is_moved_to_where_it_lies() -> None:
    image = elf([(1, 0xC010_0000, 0x10_0000, multiboot_header() + CODE, 0x1000)], 0xC010_0010, 32)
    assert plan_boot(Image(image), options()).start.rip == 0x10_0010


def test_multiboot_addresses_in_the_header_win_over_any_format() -> None:
    fields = struct.pack("<IIIII", 0x20_0040, 0x20_0010, 0, 0x20_2000, 0x20_0060)
    image = bytes(0x30) + b"\xaa" * 0x10 + b"\xbb" * 0x30 + multiboot_header(1 << 16, fields) + CODE
    plan = plan_boot(Image(image), options())
    ram = loaded(plan)
    assert plan.start.rip == 0x20_0060
    assert ram.read(0x20_0010, 0x30) == b"\xbb" * 0x30
    assert ram.read_int(0x20_0040, 4) == 0x1BADB002
    assert ram.read(0x20_0060, 64) == CODE


def test_bss_is_claimed_though_not_in_the_file() -> None:
    plan_boot(Image(pvh(size=60 * MIB)), options())
    with pytest.raises(ImageError, match="the guest has 64 MiB"):
        plan_boot(Image(pvh(size=64 * MIB)), options())
    with pytest.raises(ImageError, match="no room for initrd"):
        plan_boot(Image(pvh(size=60 * MIB)), options(initrd=bytes(4 * MIB)))


SEGMENT = (1, 0x10_0000, 0x10_0000, CODE, 64)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (elf([SEGMENT], 0x10_0000), "neither a PVH note nor a multiboot header"),
        (elf([SEGMENT], 0x10_0000, machine=183), "for AArch64, not for x86"),
        (elf([SEGMENT], 0x10_0000, kind=1), "relocatable object file: link it first"),
        (elf([SEGMENT], 0x10_0000, kind=4), "core dump"),
        (elf([SEGMENT], 0x10_0000, kind=9), "no executable"),
        (elf([SEGMENT], 0x10_0000, bits=32, machine=62), "an ELF32 file of x86-64 code: link it as ELF64"),
        (elf([SEGMENT], 0x10_0000, bits=64, machine=3), "link it as ELF32"),
        (b"\x7fELF\x02\x02\x01" + bytes(12) + b"\x16" + bytes(44), "big-endian ELF file for s390"),
        (elf([SEGMENT, (3, 0, 0, b"/lib/ld.so\0", 0)], 0x10_0000), "a program for an operating system"),
        (pvh()[:40], "cut short"),
        (pvh()[:100], "cut short"),
        (pvh()[:0x1010], "cut short"),
        (pvh(entry=0x30_0000), "in no loaded segment"),
        (pvh(physical=0xE_0000, entry=0xE_0000), "ACPI tables at 0xe0000.* would overwrite segment 0"),
        (pvh(physical=0, entry=0), "page 0"),
        (pvh(physical=1 << 63, entry=0), "the guest has"),
        (pvh(size=10), "more bytes in the file than in memory"),
        (elf([SEGMENT, SEGMENT, (4, 0, 0, note(b"Xen", 18, bytes(4)), 0)], 0), "would overwrite segment 0"),
        (elf([(4, 0, 0, note(b"Xen", 18, bytes(4)), 0)], 0), "nothing to load"),
        (elf([SEGMENT, (4, 0, 0, note(b"Xen", 18, b"abc"), 0)], 0), "note of 3 bytes"),
        (elf([SEGMENT, (4, 0, 0, note(b"a", 1, b"") * 257, 0)], 0), "more than 256 ELF notes"),
        (elf([SEGMENT, (4, 0, 0, struct.pack("<III", 1 << 31, 0, 18), 0)], 0), "cut short"),
        (elf([SEGMENT] * 257, 0), "257 ELF program headers"),
        (multiboot_elf(flags=1 << 5), "needs what is unknown"),
        (multiboot_header() + CODE, "without load addresses, in a file that is not ELF"),
        (multiboot_header(1 << 16, struct.pack("<IIIII", 0x10_0000, 0x20_0000, 0, 0, 0)), "before its own load address"),
        (multiboot_header(1 << 16, struct.pack("<IIIII", 0x20_0000, 0x10_0000, 0, 0, 0)), "before the file does"),
        (multiboot_header(1 << 16, struct.pack("<IIIII", 0x10_0000, 0x10_0000, 0x8_0000, 0, 0)), "before it begins"),
        (multiboot_header(1 << 16, struct.pack("<IIIII", 0x10_0000, 0x10_0000, 0x20_0000, 0, 0)), "cut short"),
        (multiboot_header(1 << 16, struct.pack("<IIIII", 0x10_0000, 0x10_0000, 0, 0, 0x9_0000)), "entry point"),
        (multiboot_header(1 << 16, b"abc"), "cut short"),
    ],
)
def test_bad_files_are_refused_in_one_line(image: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        plan_boot(Image(image, "guest"), options())
    assert "guest" in str(caught.value)
    assert "\n" not in str(caught.value)
