"""The CD drive as its commands find it: what Linux and SeaBIOS ask, and what no host should be troubled by."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapgate.devices.cd import BLOCK, CdDrive, Extent, Refused, starts
from trapgate.disk import Disk

BLOCKS = 1000


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> CdDrive:
    path = tmp_path_factory.mktemp("cd") / "x.iso"
    path.write_bytes(bytes(BLOCKS * BLOCK + 512))
    return CdDrive(Disk(path, read_only=True))


def block(*words: int) -> bytes:
    return bytes(words).ljust(32, b"\0")


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (block(0x00), b""),
        (block(0x12, 0, 0, 0, 36), b"\x05\x80\x05\x02\x1f\0\0\0TRAPGATECD-ROM          1   "),
        (block(0x12, 0, 0, 0, 5), b"\x05\x80\x05\x02\x1f"),
        (block(0x12, 1, 0, 0, 255), b"\x05\0\0\x01\0"),
        (block(0x25), bytes.fromhex("000003e7 00000800")),
        (block(0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12), bytes.fromhex("00000000000003e7 00000800")),
        (block(0x28, 0, 0, 0, 0, 16, 0, 0, 1), Extent(16 * BLOCK, BLOCK)),
        (block(0xA8, 0, 0, 0, 3, 0xE7, 0, 0, 0, 1), Extent(999 * BLOCK, BLOCK)),
        (block(0x88, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 2), Extent(5 * BLOCK, 2 * BLOCK)),
        (block(0x08, 0, 0, 7, 0), Extent(7 * BLOCK, 256 * BLOCK)),
        (block(0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 16), bytes.fromhex("00000008 00000000 0000000000000000")),
        (block(0x43, 0, 0, 0, 0, 0, 0, 0, 12), bytes.fromhex("0012 01 01 00140100 00000000")),
        (block(0x43, 2, 0, 0, 0, 0, 0xAA, 0, 12), bytes.fromhex("000a 01 01 0014aa00 00000f19")),  # 1,150 frames: 15 s, 25
        (block(0x43, 0, 1, 0, 0, 0, 0, 0, 12), bytes.fromhex("000a 01 01 00140100 00000000")),
        (block(0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8), bytes.fromhex("0006 04 10 00020000")),
        (block(0x46, 2, 0, 0x10, 0, 0, 0, 0, 255), bytes.fromhex("00000010 0000 0008 0010 01 08 00000800 00010000")),
        (block(0x5A, 0, 0x2A, 0, 0, 0, 0, 0, 12), bytes.fromhex("001a 000000000000 2a12 0b00")),
        (block(0x1A, 0, 0x3F, 0, 8), bytes.fromhex("23000000 010a0000")),
        (block(0x03, 0, 0, 0, 18), bytes.fromhex("70000000 0000000a 00000000 00000000 0000")),
    ],
)
def test_answers(drive: CdDrive, command: bytes, answer: bytes | Extent) -> None:
    assert drive.command(command) == answer


@pytest.mark.parametrize(
    ("command", "unit", "key", "code"),
    [
        (block(0x2A), 0, 5, 0x20),  # WRITE
        (block(0x28, 0, 0, 0, 3, 0xE7, 0, 0, 2), 0, 5, 0x21),
        (block(0x88, 0, *[0xFF] * 8, 0xFF, 0xFF, 0xFF, 0xFF), 0, 5, 0x21),
        (block(0x12, 1, 0x83, 0, 255), 0, 5, 0x24),
        (block(0x5A, 0, 0x1C), 0, 5, 0x24),
        (block(0x5A, 0, 0xEA), 0, 5, 0x39),
        (block(0x43, 0, 0, 0, 0, 0, 2, 0, 12), 0, 5, 0x24),
        (block(0x4A), 0, 5, 0x24),
        (block(0x00), 1, 5, 0x25),
    ],
)
def test_what_is_refused(drive: CdDrive, command: bytes, unit: int, key: int, code: int) -> None:
    with pytest.raises(Refused) as refused:
        drive.command(command, unit)
    assert (refused.value.sense[2], refused.value.sense[12]) == (key, code)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 0x3FFF))
def test_any_command_is_answered_or_refused(drive: CdDrive, command: bytes, unit: int) -> None:
    try:
        answer = drive.command(command, unit)
    except Refused:
        return
    if isinstance(answer, Extent):
        assert 0 <= answer.offset <= answer.offset + answer.length <= BLOCKS * BLOCK
    else:
        assert len(answer) <= 1 << 16


def test_a_large_disc_is_a_dvd_and_an_empty_one_reads_nothing(tmp_path: Path) -> None:
    with (tmp_path / "dvd").open("wb") as file:
        file.truncate(4 << 30)
    (tmp_path / "none").write_bytes(b"")
    dvd, none = (CdDrive(Disk(tmp_path / name, read_only=True)) for name in ("dvd", "none"))
    assert dvd.command(block(0x46, 2, 0xFF, 0xFF, 0, 0, 0, 0, 8))[6:] == b"\0\x10"  # type: ignore[index]
    assert none.command(block(0x25)) == bytes.fromhex("00000000 00000800")
    with pytest.raises(Refused):
        none.command(block(0x28, 0, 0, 0, 0, 0, 0, 0, 1))


@pytest.mark.parametrize("size", [0, 17, 17 * 2048, 18 * 2048])
def test_firmware_starts_a_disc_with_a_boot_record_alone(tmp_path: Path, size: int) -> None:
    path = tmp_path / "disc.iso"
    path.write_bytes(bytes(size))
    with contextlib.closing(Disk(str(path), read_only=True)) as disc:
        assert not starts(disc)
    with path.open("r+b") as file:
        file.seek(17 * 2048)
        file.write(b"\0CD001\1EL TORITO SPECIFICATION".ljust(2048, b"\0"))
    with contextlib.closing(Disk(str(path), read_only=True)) as disc:
        assert starts(disc)
