"""Option values: what is taken, and that everything else is refused by one sentence that says how to write it."""

import click
import pytest

from trapgate.cli.options import (
    BusLockChoice,
    BusLocks,
    DiskChoice,
    DiskImage,
    GdbAddress,
    PhysicalAddress,
    ShareChoice,
    SharedDirectory,
    Size,
    Where,
    WhereChoice,
)
from trapgate.debug.buslock import Mode
from trapgate.gdb.address import TcpAddress, UnixAddress


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512M", 512 << 20),
        ("2G", 2 << 30),
        ("64", 64 << 20),
        ("1g", 1 << 30),
        ("4096K", 4 << 20),
        ("1T", 1 << 40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert Size().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1.5G", "512X", "0", "1023K", "2T", "9" * 30, "1025K", "0x10", "512M ram"])
def test_sizes_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Size().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":1234", TcpAddress("127.0.0.1", 1234)),
        ("0.0.0.0:1", TcpAddress("0.0.0.0", 1)),
        ("[::1]:99", TcpAddress("::1", 99)),
        ("unix:/tmp/gdb", UnixAddress("/tmp/gdb")),
    ],
)
def test_gdb_addresses(text: str, address: object) -> None:
    assert GdbAddress().convert(text, None, None) == address


@pytest.mark.parametrize("text", ["", "1234x", ":65536", "unix:", "::1:1234", "unix:" + "x" * 200])
def test_gdb_addresses_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        GdbAddress().convert(text, None, None)


def test_serial() -> None:
    assert Where("stdio", "pty").convert("stdio", None, None) == WhereChoice("stdio")
    assert Where("stdio", "pty").convert("pty", None, None) == WhereChoice("pty")
    assert Where("stdio", "pty").convert("file:a:b", None, None) == WhereChoice("file", "a:b")


@pytest.mark.parametrize("text", ["", "file:", "file", "tty", "stdio:x", "pty:1"])
def test_serial_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Where("stdio", "pty").convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("off", BusLockChoice(Mode.OFF)),
        ("stop", BusLockChoice(Mode.STOP)),
        ("report:user", BusLockChoice(Mode.REPORT, levels=(3,))),
        ("stop:kernel", BusLockChoice(Mode.STOP, levels=(0, 1, 2))),
        ("limit:1000", BusLockChoice(Mode.LIMIT, 1000)),
    ],
)
def test_bus_locks(text: str, choice: BusLockChoice) -> None:
    assert BusLocks().convert(text, None, None) == choice


@pytest.mark.parametrize("text", ["", "on", "limit", "limit:", "limit:0", "limit:1001", "limit:-1", "limit:1e3", "report:3"])
def test_bus_locks_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        BusLocks().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("a.img", DiskChoice("a.img")),
        ("a.img,ro", DiskChoice("a.img", read_only=True)),
        ("a.img,snapshot", DiskChoice("a.img", snapshot=True)),
        ("a.img,snapshot,ro,ro", DiskChoice("a.img", read_only=True, snapshot=True)),
        ("a.img,raw,ro", DiskChoice("a.img", read_only=True, raw=True)),
        ("a,ro,b.img", DiskChoice("a,ro,b.img")),
        ("./ro", DiskChoice("./ro")),
    ],
)
def test_disks(text: str, choice: DiskChoice) -> None:
    assert DiskImage().convert(text, None, None) == choice


@pytest.mark.parametrize("text", ["", ",ro", ",snapshot,ro"])
def test_disks_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="names no file"):
        DiskImage().convert(text, None, None)


def test_addresses() -> None:
    for text in ("0x7c00", "0X7C00", "7C00h", "31744"):
        assert PhysicalAddress().convert(text, None, None) == 0x7C00
    for text in ("", "7C00", "-1", "0x", "h", "0x1_0"):
        with pytest.raises(click.BadParameter, match="is no address; write it like 0x7c00"):
            PhysicalAddress().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("d", ShareChoice("d")),
        ("/a/b,rw", ShareChoice("/a/b", writable=True)),
        ("d,lasting,tag=x", ShareChoice("d", lasting=True, tag="x")),
        ("d,tag=x,rw", ShareChoice("d", writable=True, tag="x")),
        ("a,rw,b", ShareChoice("a,rw,b")),
    ],
)
def test_shares(text: str, choice: ShareChoice) -> None:
    assert SharedDirectory().convert(text, None, None) == choice


@pytest.mark.parametrize(("text", "words"), [(",rw", "names no directory"), ("d,rw,lasting", "leave out rw or lasting")])
def test_shares_refused(text: str, words: str) -> None:
    with pytest.raises(click.BadParameter, match=words):
        SharedDirectory().convert(text, None, None)
