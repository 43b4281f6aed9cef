"""bzImage: where everything goes, what the zero page says, and which headers are refused."""

import struct
from pathlib import Path

import pytest

from trapgate.boot import BootPlan, Image, ImageError, load, plan_boot, read_image
from trapgate.boot.linux import is_linux
from trapgate.memory import Ram
from unit.boot.images import CODE, MIB, bzimage, options

GUESTS = Path(__file__).parents[3] / "build" / "guests"


def piece(plan: BootPlan, what: str) -> tuple[int, bytes]:
    """The address and bytes of the one piece of that name."""
    (found,) = [one for one in plan.pieces if one.what == what]
    return found.address, bytes(found.data)


def test_the_kernel_starts_in_64_bit_mode_with_rsi_at_the_zero_page() -> None:
    plan = plan_boot(Image(bzimage()), options(command_line="quiet a=b", initrd=b"I" * 5000))
    kernel, data = piece(plan, "kernel")
    assert (kernel, data) == (0x100_0000, bytes(0x200) + CODE)
    zero, page = piece(plan, "zero page")
    start = plan.start
    assert (start.mode, start.rip, start.general) == ("long64", kernel + 0x200, {"rsi": zero})
    assert (start.cr0, start.cr4, start.efer, start.rflags) == (0x8000_0011, 0x20, 0x500, 2)
    assert (start.segments["cs"].selector, start.segments["cs"].attributes) == (0x10, 0xA09B)
    assert (start.segments["ss"].selector, start.segments["ss"].attributes) == (0x18, 0xC093)
    initrd, contents = piece(plan, "initrd")
    assert contents == b"I" * 5000
    assert initrd == 64 * MIB - 0x2000
    line, text = piece(plan, "command line")
    assert text == b"quiet a=b\0"
    field = {0x210: 0xFF, 0x214: kernel, 0x218: initrd, 0x21C: 5000, 0x228: line, 0x70: plan.rsdp}
    for offset, value in field.items():
        size = 1 if offset == 0x210 else 4
        assert int.from_bytes(page[offset : offset + size], "little") == value, hex(offset)
    assert page[0x1EF] == 0  # the sentinel: a loader that leaves it set is taken for a careless one
    assert page[0x202:0x206] == b"HdrS"
    count = page[0x1E8]
    table = [struct.unpack_from("<QQI", page, 0x2D0 + 20 * index) for index in range(count)]
    assert table == [(entry.start, entry.size, entry.kind) for entry in plan.memory_map]


def test_the_page_tables_map_4_gib_onto_themselves() -> None:
    plan = plan_boot(Image(bzimage()), options())
    ram = Ram(64 * MIB)
    load(plan, ram)
    for address in (0, 0x1234, 0x100_0200, 0x3FFF_FFFF, 0x4000_0000, 0xFFFF_FFFF):
        table = plan.start.cr3
        for level in (39, 30, 21):
            entry = ram.read_int(table + 8 * (address >> level & 511), 8)
            assert entry & 3 == 3
            table = entry & ~0xFFF
        assert entry & 0x80
        assert table + (address & 0x1F_FFFF) == address
    gdt = ram.read(plan.start.gdt_base, plan.start.gdt_limit + 1)
    assert gdt[0x10:0x18] == bytes.fromhex("ffff0000009baf00")
    assert gdt[0x18:0x20] == bytes.fromhex("ffff00000093cf00")


def test_without_a_64_bit_entry_it_starts_in_32_bit_mode() -> None:
    for image in (bzimage(xloadflags=0), bzimage(version=0x20A)):
        start = plan_boot(Image(image), options()).start
        assert (start.mode, start.rip, start.cr3) == ("protected32", 0x100_0000, 0)
        assert start.segments["cs"].attributes == 0xC09B


def test_an_old_kernel_goes_to_1_mib() -> None:
    plan = plan_boot(Image(bzimage(version=0x206, relocatable=0)), options())
    assert plan.start.rip == 0x10_0000


def test_a_relocatable_kernel_moves_when_its_favourite_place_is_not_there() -> None:
    plan = plan_boot(Image(bzimage(preferred=0x1000_0000)), options())
    assert plan.start.rip == 0x20_0200
    with pytest.raises(ImageError, match="give it more memory"):
        plan_boot(Image(bzimage(preferred=0x1000_0000, relocatable=0)), options())


def test_the_initrd_stays_below_its_limit_and_clear_of_the_kernel() -> None:
    plan = plan_boot(Image(bzimage(initrd_max=0x1FF_FFFF)), options(initrd=b"x" * 3 * MIB))
    assert piece(plan, "initrd")[0] == 0x200_0000 - 3 * MIB
    plan = plan_boot(Image(bzimage(initrd_max=0x10F_FFFF)), options(initrd=b"x" * 3 * MIB))
    assert piece(plan, "initrd")[0] == 0x100_0000 - 3 * MIB


@pytest.mark.parametrize(
    ("image", "memory", "reason"),
    [
        (bzimage(version=0x205), 64, "boot protocol 2.05, at least 2.06"),
        (bzimage(loadflags=0), 64, "zImage"),
        (bzimage(code32_start=0), 64, "it starts in real mode and needs a BIOS"),
        (bzimage(paragraphs=0x1000), 64, "cut short"),
        (bzimage()[:0x300], 64, "cut short"),
        (bzimage()[:0x206], 64, "cut short"),
        (bzimage(alignment=0x30_0000), 64, "alignment"),
        (bzimage(alignment=0), 64, "alignment"),
        (bzimage(memory_size=0xFFFF_FFFF), 64, "no room for kernel"),
        (bzimage(preferred=1 << 60, relocatable=0), 64, "above the 4 GiB"),
        (bzimage(), 1, "no room for kernel"),
    ],
)
def test_bad_kernels_are_refused_in_one_line(image: bytes, memory: int, reason: str) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        plan_boot(Image(image, "vmlinuz"), options(memory=memory * MIB))
    assert "vmlinuz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_goes_with_the_kernel_is_checked_too() -> None:
    plan_boot(Image(bzimage()), options(command_line="x" * 255))
    with pytest.raises(ImageError, match="256 bytes, this image takes at most 255"):
        plan_boot(Image(bzimage()), options(command_line="x" * 256))
    with pytest.raises(ImageError, match="NUL"):
        plan_boot(Image(bzimage()), options(command_line="a\0b"))
    with pytest.raises(ImageError, match=r"no room for initrd initrd.img \(64 MiB\)"):
        plan_boot(Image(bzimage()), options(initrd=bytes(64 * MIB)))
    with pytest.raises(ImageError, match="empty initrd"):
        plan_boot(Image(bzimage()), options(initrd=b""))
    with pytest.raises(ImageError, match="load address"):
        plan_boot(Image(bzimage()), options(load_address=0x7C00))


@pytest.mark.parametrize("series", ["6.1", "6.12"])
def test_a_real_kernel_is_planned(series: str) -> None:
    path = GUESTS / f"vmlinuz-{series}"
    if not path.is_file():
        pytest.skip("no kernel in build/guests: run `make linux-guests`")
    image = read_image(path)
    assert is_linux(image)
    plan = plan_boot(image, options(memory=256 * MIB, command_line="console=ttyS0"))
    assert (plan.kind, plan.start.mode, plan.start.rip) == ("Linux bzImage", "long64", 0x100_0200)
    with pytest.raises(ImageError, match="cut short"):
        plan_boot(Image(image.data[: len(image) // 2]), options(memory=256 * MIB))
