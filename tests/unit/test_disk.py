"""Files as disks: what is taken for one, who else may have it, what is kept where."""

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from trapgate.disk import BLOCK, Disk, DiskError, DiskState
from trapgate.encoding import decode, encode
from trapgate.state import StateError

SIZE = 5 * BLOCK + 512


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "d").write_bytes(random.Random(1).randbytes(SIZE))
    return tmp_path / "d"


def test_what_is_no_disk(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="No such file"):
        Disk(tmp_path / "none")
    with pytest.raises(DiskError, match="neither a file nor a block device"):
        Disk(tmp_path, read_only=True)
    with pytest.raises(DiskError, match="neither"):
        Disk("/dev/null")


@pytest.mark.parametrize(
    ("at", "magic", "told"),
    [
        (
            0,
            b"QFI\xfb\0\0\0\x03",
            "a qcow2 disk image; disks are raw here: qemu-img convert -f qcow2 -O raw 'an image.img' 'an image.raw'",
        ),
        (0, b"QFI\xfb\0\0\0\x01", "a qcow disk image; .* -f qcow -O"),
        (0, b"KDMV", "a VMDK disk image; .* -f vmdk -O"),
        (0, b"# Disk DescriptorFile\nversion=1", "a VMDK .* -f vmdk -O"),
        (0x40, b"\x7f\x10\xda\xbe", "a VDI disk image; .* -f vdi -O"),
        (0, b"conectix", "a VHD disk image; .* -f vpc -O"),
        (-512, b"conectix", "a VHD disk image; .* -f vpc -O"),
        (0, b"vhdxfile", "a VHDX disk image; .* -f vhdx -O"),
        (-512, b"koly", "a DMG disk image; .* -f dmg -O"),
        (0, b"QED\0", "a QED disk image; .* -f qed -O"),
    ],
)
def test_what_is_not_raw_is_named(at: int, magic: bytes, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = bytearray(SIZE)
    at %= SIZE
    content[at : at + len(magic)] = magic
    Path("an image.img").write_bytes(content)
    for more in ({}, {"read_only": True}, {"snapshot": True}):
        with pytest.raises(DiskError, match=f"^an image.img: {told}"):
            Disk("an image.img", **more)
    Disk("an image.img", raw=True).close()


def test_files_that_end_within_a_magic_are_raw(tmp_path: Path) -> None:
    for content in (b"", b"QFI", b"vhdxfil", bytes(0x40) + b"\x7f\x10", b"conecti".ljust(511, b"\0")):
        (tmp_path / "d").write_bytes(content)
        Disk(tmp_path / "d").close()


@pytest.mark.parametrize(
    ("mine", "theirs", "shared"),
    [
        ({}, {}, False),
        ({}, {"read_only": True}, False),
        ({"snapshot": True}, {"read_only": True}, True),
        ({"snapshot": True}, {}, False),
    ],
)
def test_who_else_may_have_it(path: Path, mine: dict[str, bool], theirs: dict[str, bool], shared: bool) -> None:
    disk = Disk(path, **mine)
    program = f"from trapgate.disk import Disk; Disk({str(path)!r}, **{theirs!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == shared
    assert shared or "another program has it in use" in done.stderr
    disk.close()
    disk.close()
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_reads_and_writes_in_any_pieces_as_a_file_has_them(path: Path) -> None:
    chance, content = random.Random(2), bytearray(path.read_bytes())
    kept, disk = bytes(content), Disk(path, snapshot=True)
    for _ in range(300):
        offset = chance.randrange(SIZE)
        sizes = [chance.randrange(0, 3000) for _ in range(3)]
        while offset + sum(sizes) > SIZE:
            sizes.pop()
        data = chance.randbytes(sum(sizes))
        cuts = [memoryview(bytearray(data))[sum(sizes[:n]) : sum(sizes[: n + 1])] for n in range(len(sizes))]
        if chance.random() < 0.5:
            disk.write_from(offset, cuts)
            content[offset : offset + len(data)] = data
        else:
            disk.read_into(offset, cuts)
            assert b"".join(cuts) == content[offset : offset + len(data)]
    assert path.read_bytes() == kept
    again = Disk(path, snapshot=True)
    again.load(decode(encode(disk.save()), DiskState))
    place = memoryview(bytearray(SIZE))
    again.read_into(0, [place])
    assert place == content
    assert again.save() == disk.save()
    disk.close()
    again.close()


def test_zeros_beyond_one_write(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"\xff" * (3 << 20))
    disk = Disk(tmp_path / "big")
    disk.zero(512, (2 << 20) + 512)
    disk.flush()
    assert (tmp_path / "big").read_bytes() == b"\xff" * 512 + bytes((2 << 20) + 512) + b"\xff" * ((1 << 20) - 1024)
    disk.close()


def test_the_state_of_another_disk(path: Path) -> None:
    disk, plain = Disk(path, snapshot=True), Disk(path, read_only=True)
    state = disk.save()
    for one, wrong, story in (
        (disk, replace(state, size=512), "a disk of 512 bytes"),
        (disk, replace(state, written=((6, bytes(BLOCK)),)), "has no block 6"),
        (disk, plain.save(), "kept elsewhere"),
        (plain, state, "kept elsewhere"),
    ):
        with pytest.raises(StateError, match=story):
            one.load(wrong)
    assert disk.save() == state
    disk.close()
    plain.close()


@pytest.mark.parametrize("snapshot", [False, True])
def test_a_small_file_as_a_larger_disk(path: Path, snapshot: bool) -> None:
    """Zeros behind its end, in any pieces; what is written there stays, in the file or in memory."""
    least, content = SIZE + 10 * BLOCK, path.read_bytes()
    disk = Disk(path, least=least, snapshot=snapshot)
    assert disk.size == least // 512 * 512
    expected = bytearray(content.ljust(disk.size, b"\0"))

    def check() -> None:
        for start, sizes in (
            (0, (disk.size,)),
            (SIZE - 512, (512, 512, 1024)),
            (SIZE - 700 & ~511, (2048,)),
            (SIZE + 512, (3 * BLOCK,)),
        ):
            places = [bytearray(b"?" * size) for size in sizes]
            disk.read_into(start, [memoryview(one) for one in places])
            assert b"".join(places) == expected[start : start + sum(sizes)]

    check()
    for start, data in ((SIZE + 2 * BLOCK, b"x" * 1024), (SIZE - 512, b"y" * 1024)):
        disk.write_from(start, [memoryview(data)])
        expected[start : start + len(data)] = data
        check()
    disk.close()
    assert path.read_bytes() == (content if snapshot else bytes(expected[: SIZE + 2 * BLOCK + 1024]))
