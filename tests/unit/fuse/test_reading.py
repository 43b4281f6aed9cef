"""What guests read of a share, and what they cannot."""

import os
import socket
import stat
from pathlib import Path

import pytest

from trapgate.fuse import handles, protocol
from trapgate.fuse.protocol import Operation
from trapgate.fuse.reading import INODES
from unit.fuse.guest import Guest

CONTENT = bytes(range(256)) * 40


def test_a_file_is_what_it_is_on_the_host(guest: Guest, folder: Path) -> None:
    node = guest.look_up("file")
    handle = guest.open(node)
    assert guest.read(node, 0, 1 << 20, handle) == CONTENT
    assert guest.read(node, 5000, 1234, handle) == CONTENT[5000:6234]
    assert guest.read(node, len(CONTENT), 10, handle) == guest.read(node, 1 << 40, 10, handle) == b""
    guest.close(node, handle)
    assert guest.error(Operation.READ, protocol.READ.pack(handle, 0, 9, 0, 0, 0, 0), node) == "EBADF"


def test_without_opening_where_nothing_changes(lasting: Guest) -> None:
    node = lasting.look_up("file")
    assert lasting.error(Operation.OPEN, protocol.OPEN.pack(os.O_RDONLY, 0), node) == "ENOSYS"
    assert lasting.error(Operation.OPENDIR, protocol.OPEN.pack(os.O_RDONLY, 0)) == "ENOSYS"
    assert lasting.read(node, 100, 3000) == CONTENT[100:3100]
    assert {name for name, _, _ in lasting.names(1, 300)} >= {b".", b"..", b"file", b"pipe"}


@pytest.mark.parametrize("name", ["file", "empty", "directory", "out", "pipe", "directory/again", "directory/inner/deep"])
def test_attributes(either: Guest, folder: Path, name: str) -> None:
    expected = os.lstat(folder / name)
    number, size, blocks, *times, mode, links, uid, gid, device, block_size, _ = either.status(either.look_up(name))
    assert (number, size, blocks, mode, links) == (
        expected.st_ino & INODES, expected.st_size, expected.st_blocks, expected.st_mode, expected.st_nlink,
    )  # fmt: skip
    assert (uid, gid, device, block_size) == (expected.st_uid, expected.st_gid, 0, expected.st_blksize)
    split = [divmod(time, 10**9) for time in (expected.st_atime_ns, expected.st_mtime_ns, expected.st_ctime_ns)]
    assert times == [second % 2**64 for second, _ in split] + [ns for _, ns in split]


def test_one_file_by_two_names_is_one_node(either: Guest) -> None:
    assert either.look_up("file") == either.look_up("directory/again")


def test_symlinks_are_text(either: Guest) -> None:
    assert either.ask(Operation.READLINK, node=either.look_up("out")) == b"/etc/passwd"
    assert either.ask(Operation.READLINK, node=either.look_up("up")) == b"../.."
    assert either.error(Operation.READLINK, node=either.look_up("file")) == "EINVAL"


@pytest.mark.parametrize("name", [b"..", b".", b"", b"../secret", b"/etc/passwd", b"directory/inner", b"a\0b", b"x" * 256])
def test_names_that_lead_elsewhere_are_none(either: Guest, name: bytes) -> None:
    assert either.error(Operation.LOOKUP, name + b"\0") in ("EINVAL", "ENAMETOOLONG")
    assert either.error(Operation.LOOKUP, name) in ("EINVAL", "ENAMETOOLONG")


@pytest.mark.parametrize("link", ["out", "up"])
def test_nothing_is_below_a_symlink(either: Guest, link: str) -> None:
    node = either.look_up(link)
    assert either.error(Operation.LOOKUP, b"secret\0", node) == "ENOTDIR"
    assert either.error(Operation.READ, protocol.READ.pack(0, 0, 9, 0, 0, 0, 0), node) in ("EBADF", "EACCES")
    assert either.error(Operation.OPEN, protocol.OPEN.pack(os.O_RDONLY, 0), node) in ("EACCES", "ENOSYS")


def test_a_directory_that_becomes_a_symlink_leads_nowhere(guest: Guest, folder: Path) -> None:
    directory = guest.look_up("directory/inner")
    other = Guest(guest.share)
    (folder / "directory" / "inner").rename(folder.parent / "inner")
    (folder / "directory" / "inner").symlink_to(folder.parent)
    assert guest.error(Operation.LOOKUP, b"secret\0", directory) == "ESTALE"
    assert other.error(Operation.LOOKUP, b"secret\0", other.look_up("directory/inner")) == "ENOTDIR"
    other.session.close()


def test_special_files_are_never_opened(guest: Guest, folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(folder / "socket"))
        for name in ("pipe", "socket"):
            assert guest.error(Operation.OPEN, protocol.OPEN.pack(os.O_RDONLY, 0), guest.look_up(name)) == "EACCES"
    assert guest.error(Operation.OPEN, protocol.OPEN.pack(os.O_RDONLY, 0), guest.look_up("directory")) == "EISDIR"
    node = guest.look_up("file")
    (folder / "file").unlink()
    os.mkfifo(folder / "file")
    assert guest.error(Operation.OPEN, protocol.OPEN.pack(os.O_RDONLY, 0), node) == "ESTALE"


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("size", [300, 4096])
def test_names_come_in_pieces(guest: Guest, folder: Path, size: int, plus: bool) -> None:
    for number in range(100):
        (folder / "directory" / f"{number}{'x' * number}").touch()
    found = guest.names(guest.look_up("directory"), size, plus=plus)
    expected = {(os.fsencode(one.name), stat.S_IFMT(one.lstat().st_mode) >> 12) for one in (folder / "directory").iterdir()}
    assert sorted((name, kind) for name, kind, _ in found) == sorted({(b".", 4), (b"..", 4)} | expected)
    if plus:
        for name, _, node in found:
            assert node == (0 if name in (b".", b"..") else guest.look_up(f"directory/{os.fsdecode(name)}"))


@pytest.mark.parametrize("kind", ["guest", "writer"])
def test_a_list_is_as_it_was_until_the_guest_begins_again(folder: Path, kind: str, request: pytest.FixtureRequest) -> None:
    guest: Guest = request.getfixturevalue(kind)
    handle = guest.open(1, operation=Operation.OPENDIR) if kind == "writer" else 0
    before = guest.names(1, 64, handle=handle)
    (folder / "new").touch()
    middle = protocol.READ.pack(handle, 2, 4096, 0, 0, 0, 0)
    assert b"new" not in guest.ask(Operation.READDIR, middle)
    assert len(guest.names(1, 64, handle=handle)) == len(before) + 1
    assert guest.ask(Operation.READDIR, protocol.READ.pack(handle, 1 << 60, 4096, 0, 0, 0, 0)) == b""


def test_lists_have_an_end(guest: Guest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handles, "MOST_LISTED", 24)
    for one in range(5):
        (folder / "directory" / str(one)).mkdir()
        for two in range(20 if one == 4 else 5):
            (folder / "directory" / str(one) / str(two)).touch()
    for one in (0, 1, 2, 3, 0, 4, 1):
        node = guest.look_up(f"directory/{one}")
        assert len(guest.names(node)) == (22 if one == 4 else 7)
    for two in range(30):
        (folder / "directory" / "4" / f"more {two}").touch()
    body = protocol.READ.pack(0, 0, 4096, 0, 0, 0, 0)
    assert guest.error(Operation.READDIR, body, guest.look_up("directory/4")) == "ENOMEM"


def test_a_name_that_is_not_there_is_told_for_a_while(either: Guest) -> None:
    node, generation, valid, *_ = protocol.ENTRY.unpack(either.ask(Operation.LOOKUP, b"nothing\0"))
    assert (node, generation) == (0, 0)
    assert valid == (60 if not either.share.lasting else 10 * 365 * 86400)


def test_statfs_access_and_lseek(guest: Guest, folder: Path) -> None:
    found = os.statvfs(folder)
    answer = protocol.STATFS_ANSWER.unpack(guest.ask(Operation.STATFS))
    assert (answer[0], answer[5], answer[6], answer[7]) == (found.f_blocks, found.f_bsize, found.f_namemax, found.f_frsize)
    node = guest.look_up("file")
    assert guest.ask(Operation.ACCESS, protocol.ACCESS.pack(os.R_OK, 0), node) == b""
    assert guest.error(Operation.ACCESS, protocol.ACCESS.pack(os.W_OK, 0), node) == "EROFS"
    assert guest.error(Operation.ACCESS, protocol.ACCESS.pack(os.X_OK, 0), node) == "EACCES"
    handle = guest.open(node)
    assert protocol.LSEEK_ANSWER.unpack(guest.ask(Operation.LSEEK, protocol.LSEEK.pack(handle, 5, os.SEEK_HOLE, 0), node)) == (
        10240,
    )
    assert guest.error(Operation.LSEEK, protocol.LSEEK.pack(handle, 5, os.SEEK_SET, 0), node) == "EINVAL"
    assert guest.error(Operation.LSEEK, protocol.LSEEK.pack(handle, 1 << 63, os.SEEK_DATA, 0), node) == "EINVAL"
    assert guest.error(Operation.READ, protocol.READ.pack(handle, 1 << 63, 5, 0, 0, 0, 0), node) == "EINVAL"


def test_a_share_that_vanishes_is_an_error_of_the_guests_calls(guest: Guest, folder: Path) -> None:
    node = guest.look_up("file")
    folder.rename(folder.parent / "elsewhere")
    assert guest.read(node, 0, 10, guest.open(node)) == CONTENT[:10], "it is the directory, not its name"
    for one in sorted((folder.parent / "elsewhere").rglob("*"), reverse=True):
        one.rmdir() if one.is_dir() and not one.is_symlink() else one.unlink()
    (folder.parent / "elsewhere").rmdir()
    assert guest.error(Operation.OPEN, protocol.OPEN.pack(os.O_RDONLY, 0), node) == "ESTALE"
    assert guest.names(1) == [(b".", 4, 0), (b"..", 4, 0)]
