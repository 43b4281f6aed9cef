"""COM1 in a file and on a pseudo-terminal: full disks and absent readers never stop the guest."""

import os
from pathlib import Path

import pytest

from trapgate.cli.errors import Failure
from trapgate.cli.serial import OutputFile, SerialPty


@pytest.mark.usefixtures("open_files")
def test_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("old contents that are longer")
    serial = OutputFile("--serial", str(tmp_path / "out"))
    serial.write(b"hello ")
    serial.write(b"guest")
    serial.close()
    assert (tmp_path / "out").read_bytes() == b"hello guest"


@pytest.mark.parametrize("path", ["/nonexistent/x", "/", "a\0b"])
def test_file_that_cannot_be(path: str) -> None:
    with pytest.raises(Failure, match="cannot be written"):
        OutputFile("--serial", path)


def test_full_disk_is_told_once() -> None:
    serial = OutputFile("--serial", "/dev/full")
    serial.write(b"lost")
    assert "No space left" in serial.trouble
    serial.write(b"lost too")
    serial.close()


@pytest.mark.usefixtures("open_files")
def test_pty_both_ways() -> None:
    serial = SerialPty()
    other = os.open(serial.name, os.O_RDWR | os.O_NOCTTY)
    serial.write(b"a\r\n\x03")
    assert os.read(other, 100) == b"a\r\n\x03"
    os.write(other, b"\x03\x01x\r")
    assert os.read(serial.input, 100) == b"\x03\x01x\r"
    os.close(other)
    serial.close()


@pytest.mark.usefixtures("open_files")
def test_pty_nobody_reads() -> None:
    serial = SerialPty()
    for _ in range(100):
        serial.write(bytes(4096))
    serial.close()
