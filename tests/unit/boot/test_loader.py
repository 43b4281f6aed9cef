"""Recognition by content, flat binaries, files that cannot be read, and header fuzzing: nothing but ImageError ever comes out."""

import itertools
import os
import resource
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peak import Peak
from trapgate.boot import BootOptions, BootPlan, Image, ImageError, Module, Piece, load, plan_boot, read_image
from trapgate.boot.plan import CHUNK
from trapgate.hostcall import HostError
from trapgate.memory import Ram
from unit.boot.images import MIB, bzimage, multiboot_elf, multiboot_header, options, pvh


def test_a_boot_sector_starts_at_7c00_in_real_mode() -> None:
    image = b"\xf4" + bytes(509) + b"\x55\xaa"
    plan = plan_boot(Image(image), options(memory=2 * MIB))
    start = plan.start
    assert (plan.kind, start.mode, start.rip, start.cr0, start.general) == (
        *("flat", "real16", 0x7C00, 0x10),
        {"rsp": 0x7C00, "rdx": 0x80},
    )
    assert start.segments["cs"].base == 0
    ram = Ram(2 * MIB)
    load(plan, ram)
    assert ram.read(0x7C00, 512) == image


EFER = bytes.fromhex("b9 80 00 00 c0")  # mov $0xC0000080, %ecx


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (multiboot_elf(), 32),
        (pvh(bits=32), 32),
        (multiboot_elf() + EFER, 0),  # 64-bit code in the file that multiboot loaders take
        (pvh(), 64),
        (pvh() + EFER, 64),
        (multiboot_elf(bits=64), 64),
        (bzimage(), 64),
        (bzimage(xloadflags=0), 32),
        (bzimage(version=0x20A), 0),  # says nothing of it
        (b"\xf4" * 20, 0),
        (multiboot_header(1 << 16, struct.pack("<IIIII", 0x10_0000, 0x10_0000, 0, 0, 0x10_0020)) + b"\xf4" * 64, 0),
    ],
)
def test_the_width_of_the_code(image: bytes, code: int) -> None:
    assert plan_boot(Image(image), options()).code == code


def test_a_load_address_moves_a_flat_binary() -> None:
    start = plan_boot(Image(b"\xf4" * 600), options(load_address=0x2_0000)).start
    assert (start.segments["cs"].selector, start.segments["cs"].base, start.rip) == (0x2000, 0x2_0000, 0)
    start = plan_boot(Image(b"\xf4" * 0x8000), options(load_address=0x1000)).start
    assert (start.segments["cs"].selector, start.rip, start.general["rsp"]) == (0, 0x1000, 0x1000)
    assert plan_boot(Image(b"\xf4"), options(load_address=0)).start.rip == 0


def test_ram_below_1_mib_has_no_acpi_tables() -> None:
    plan = plan_boot(Image(b"\xf4"), options(memory=512 << 10))
    assert (plan.rsdp, len(plan.pieces)) == (0, 1)


@pytest.mark.parametrize(
    ("image", "wanted", "reason"),
    [
        (b"", options(), "empty file"),
        (b"\x1f\x8b" + bytes(600), options(), "gzip"),
        (b"070701" + bytes(600), options(), "an initrd, not a kernel"),
        (bytes(600), options(), "unknown kind of image"),
        (b"\xf4", options(load_address=0x10_0000), "cannot be reached in real mode"),
        (b"\xf4", options(load_address=0x1_0001), "cannot be reached in real mode"),
        (b"\xf4", options(load_address=-1), "cannot be reached in real mode"),
        (b"\xf4", options(command_line="x"), "no initrd, modules or command line"),
        (bzimage(), options(modules=(Module(Image(b"x")),)), "takes no modules, but an initrd"),
        (b"\xf4" * 0x20_0000, options(memory=MIB, load_address=0x7C00), "the guest has 1 MiB"),
        (b"\xf4", BootOptions(((0, MIB),), cpus=255), "1 to 254"),
        (b"\xf4", BootOptions(((0, MIB),), cpus=0), "1 to 254"),
    ],
)
def test_what_cannot_be_booted_is_said_in_one_line(image: bytes, wanted: BootOptions, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        plan_boot(Image(image, "disk.img"), wanted)


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    """Three GiB without anything in them: refused, or loaded, by what a loader looks at."""
    kernel, initrd = tmp_path / "kernel", tmp_path / "initrd"
    kernel.write_bytes(bzimage())
    for path in (kernel, initrd):
        with path.open("ab") as file:
            file.truncate(3 << 30)
    with Peak() as peak:
        with pytest.raises(ImageError, match="no room for kernel"):
            plan_boot(read_image(kernel), options())
        with pytest.raises(ImageError, match="unknown kind"):
            plan_boot(read_image(initrd), options())
        kernel.write_bytes(bzimage())
        with pytest.raises(ImageError, match="no room for initrd"):
            plan_boot(read_image(kernel), replace(options(), initrd=read_image(initrd)))
        assert peak.grown < 64 << 20


def test_what_is_zero_in_a_piece_takes_no_memory() -> None:
    ram = Ram(1 << 30)
    pieces = (Piece(1 << 20, memoryview(bytes(5) + b"x" + bytes(CHUNK * 3)), "a"), Piece(8, b"short", "b"))
    written: list[tuple[int, int]] = []
    ram.on_write = lambda address, length: written.append((address, length))
    load(BootPlan("test", pieces, plan_boot(Image(b"\xf4"), options()).start, ()), ram)
    assert written == [(1 << 20, CHUNK), (8, 5)]
    assert ram.read((1 << 20) + 5, 1) == b"x"
    assert ram.read(8, 5) == b"short"


def test_nobody_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match="is not a file"):
        read_image(tmp_path / "pipe")


def test_a_process_without_descriptors_is_no_fault_of_the_image(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    (tmp_path / "image").write_bytes(b"x")
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(HostError, match="Too many open files; raise the limit"):
            read_image(tmp_path / "image")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        read_image(tmp_path / "none")
    with pytest.raises(ImageError, match="is not a file"):
        read_image(tmp_path)
    with pytest.raises(ImageError, match="is not a file"):
        read_image("/dev/zero")
    with pytest.raises(ImageError, match=r"a\?b\?c does not exist"):
        read_image("a\0b\nc")
    with pytest.raises(ImageError, match="cannot be read: File name too long"):
        read_image("a" * 5000)
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate((4 << 30) + 1)
    with pytest.raises(ImageError, match="larger than 4 GiB"):
        read_image(huge)
    (tmp_path / "some").write_bytes(b"some")
    assert bytes(read_image(tmp_path / "some").data) == b"some"


ADDRESSES = b"".join(value.to_bytes(4, "little") for value in (0x10_0000, 0x10_0000, 0, 0, 0x10_0020))
SEEDS = [bzimage(), pvh(), pvh(bits=32), multiboot_elf(), multiboot_elf(bits=64), multiboot_header(1 << 16, ADDRESSES) + bytes(64)]
INTERESTING = [0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF, 1 << 63, 0xF_FFFF, 0x10_0000]
changes = st.tuples(
    st.integers(0, 0x300), st.sampled_from([1, 2, 4, 8]), st.sampled_from(INTERESTING) | st.integers(0, (1 << 64) - 1)
)


def planned(data: bytes, wanted: BootOptions) -> BootPlan | None:
    """The plan, or None for an ImageError of one line; anything else fails the test."""
    try:
        return plan_boot(Image(data), wanted)
    except ImageError as error:
        message = str(error)
    assert message
    assert "\n" not in message
    return None


@given(st.sampled_from(SEEDS), st.lists(changes, max_size=6), st.none() | st.integers(0, 0x1200))
def test_mutated_headers_give_a_plan_inside_ram_or_an_error(
    seed: bytes, edits: list[tuple[int, int, int]], cut: int | None
) -> None:
    image = bytearray(seed)
    for at, size, value in edits:
        image[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
    plan = planned(bytes(image[:cut]), options(memory=20 * MIB, command_line="x", initrd=b"y"))
    if plan is None:
        return
    extents = sorted((piece.address, piece.address + len(piece.data)) for piece in plan.pieces if len(piece.data))
    assert all(0 <= start < end <= 20 * MIB for start, end in extents)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(extents))
    assert 0 <= plan.start.rip < 1 << 32


@given(st.binary(max_size=2000))
def test_any_bytes_give_a_plan_or_an_error(data: bytes) -> None:
    planned(data, options(memory=MIB))
    planned(data, options(memory=MIB, load_address=0x7C00))
