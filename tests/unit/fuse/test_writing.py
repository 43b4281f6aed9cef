"""What guests change in a share: made, written, renamed and removed as by a program of the host."""

import errno
import os
import stat
from pathlib import Path

import pytest

from trapgate.fuse import protocol
from trapgate.fuse.protocol import Operation
from trapgate.fuse.reading import INODES
from trapgate.fuse.share import Share
from unit.fuse.guest import Guest, descriptors

ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="only root gives files away")


def test_a_file_is_made_written_and_read(writer: Guest, folder: Path) -> None:
    node, handle = writer.create("new", 0o640)
    data = os.urandom(100_000)
    assert writer.write(node, handle, 0, data[:70_000]) == 70_000
    assert writer.write(node, handle, 70_000, data[70_000:]) == 30_000
    assert (folder / "new").read_bytes() == data
    assert stat.S_IMODE((folder / "new").stat().st_mode) == 0o640
    assert writer.read(node, 12345, 6789, handle) == data[12345 : 12345 + 6789]
    assert writer.write(node, handle, 1 << 20, b"") == 0
    writer.ask(Operation.FSYNC, protocol.FSYNC.pack(handle, 0, 0), node)
    writer.ask(Operation.FSYNCDIR, protocol.FSYNC.pack(0, 1, 0))
    writer.close(node, handle)
    cut = protocol.WRITE.pack(handle, 0, 10, 0, 0, 0, 0) + b"short"
    assert writer.error(Operation.WRITE, cut, node) == "EBADF"
    cut = protocol.WRITE.pack(writer.open(node, os.O_RDWR), 0, 10, 0, 0, 0, 0) + b"short"
    assert writer.error(Operation.WRITE, cut, node) == "EINVAL"


def test_no_more_than_was_offered(writer: Guest) -> None:
    node, handle = writer.create("new")
    assert writer.error(Operation.WRITE, protocol.WRITE.pack(handle, 0, (1 << 20) + 1, 0, 0, 0, 0), node) == "EINVAL"
    assert writer.change(node, size=3 << 20)[0] == 0
    body = protocol.READ.pack(handle, 0, 2 << 20, 0, 0, 0, 0)
    assert len(writer.ask(Operation.READ, body, node, room=2 << 20)) == 1 << 20


@pytest.mark.parametrize("mask", [0, 0o077])
def test_modes_are_what_the_guest_asked_for(writer: Guest, folder: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        writer.create("file2", 0o666)
        writer.ask(Operation.MKDIR, protocol.MKDIR.pack(0o2775, 0) + b"sub\0")
        writer.ask(Operation.MKNOD, protocol.MKNOD.pack(stat.S_IFIFO | 0o622, 0, 0, 0) + b"fifo\0")
        writer.ask(Operation.MKNOD, protocol.MKNOD.pack(stat.S_IFSOCK | 0o777, 0, 0, 0) + b"socket\0")
        writer.ask(Operation.MKNOD, protocol.MKNOD.pack(0o444, 0, 0, 0) + b"plain\0")
        writer.ask(Operation.SYMLINK, b"link\0../../etc\0")
    finally:
        os.umask(before)
    modes = {name: oct((folder / name).lstat().st_mode) for name in ("file2", "sub", "fifo", "socket", "plain", "link")}
    assert modes == {
        "file2": "0o100666", "sub": "0o42775", "fifo": "0o10622", "socket": "0o140777", "plain": "0o100444", "link": "0o120777",
    }  # fmt: skip
    assert os.readlink(folder / "link") == "../../etc"


@as_root
def test_what_a_guests_user_makes_is_that_users(writer: Guest, folder: Path) -> None:
    node, _ = writer.create("mine", 0o600, uid=1234, gid=99)
    directory = writer.entry(writer.ask(Operation.MKDIR, protocol.MKDIR.pack(0o755, 0) + b"sub\0", uid=1234, gid=99))
    writer.ask(Operation.SYMLINK, b"link\0x\0", uid=1234, gid=99)
    for name in ("mine", "sub", "link"):
        assert ((folder / name).lstat().st_uid, (folder / name).lstat().st_gid) == (1234, 99)
    assert writer.status(node)[11:13] == (1234, 99)
    (folder / "sub").chmod(0o2755)
    os.chown(folder / "sub", 1, 7)
    writer.ask(Operation.MKDIR, protocol.MKDIR.pack(0o755, 0) + b"inner\0", directory, uid=5, gid=6)
    inner = (folder / "sub" / "inner").stat()
    assert (inner.st_uid, inner.st_gid, oct(inner.st_mode)) == (5, 7, "0o42755"), "the group is the directory's"


def test_nobody_gets_anothers_rights_or_a_device(writer: Guest, folder: Path) -> None:
    for mode in (0o4755, 0o2755):
        assert writer.error(Operation.CREATE, protocol.CREATE.pack(os.O_RDWR, mode, 0, 0) + b"suid\0") == "EPERM"
        assert writer.error(Operation.MKNOD, protocol.MKNOD.pack(stat.S_IFREG | mode, 0, 0, 0) + b"suid\0") == "EPERM"
        assert writer.change(writer.look_up("file"), mode=mode)[0] == errno.EPERM
    for kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFDIR, stat.S_IFLNK, 0o150000):
        assert writer.error(Operation.MKNOD, protocol.MKNOD.pack(kind | 0o666, 0x103, 0, 0) + b"device\0") == "EPERM"
    assert not {"suid", "device"} & set(os.listdir(folder))


@pytest.mark.parametrize("name", [b"..", b".", b"", b"../x", b"/tmp/x", b"a\0b", b"x" * 256])
@pytest.mark.parametrize("operation", [Operation.MKDIR, Operation.MKNOD, Operation.CREATE, Operation.UNLINK, Operation.RMDIR])
def test_names_that_lead_elsewhere_are_none(writer: Guest, folder: Path, operation: Operation, name: bytes) -> None:
    fields = {Operation.MKDIR: bytes(8), Operation.MKNOD: bytes(16), Operation.CREATE: bytes(16)}
    before = sorted(os.listdir(folder)), sorted(os.listdir(folder.parent))
    assert writer.error(operation, fields.get(operation, b"") + name + b"\0") in ("EINVAL", "ENAMETOOLONG")
    assert writer.error(Operation.SYMLINK, name + b"\0target\0") in ("EINVAL", "ENAMETOOLONG")
    assert writer.error(Operation.LINK, protocol.LINK.pack(writer.look_up("file")) + name + b"\0") in ("EINVAL", "ENAMETOOLONG")
    for both in (name + b"\0x\0", b"file\0" + name + b"\0"):
        assert writer.error(Operation.RENAME2, protocol.RENAME2.pack(1, 0, 0) + both) in ("EINVAL", "ENAMETOOLONG")
    assert before == (sorted(os.listdir(folder)), sorted(os.listdir(folder.parent)))


def test_a_symlink_is_never_written_through(writer: Guest, folder: Path) -> None:
    secret = folder.parent / "secret"
    (folder / "file").unlink()
    (folder / "file").symlink_to(secret)
    assert writer.error(Operation.CREATE, protocol.CREATE.pack(os.O_RDWR | os.O_TRUNC, 0o644, 0, 0) + b"file\0") == "EACCES"
    node = writer.look_up("file")
    assert writer.change(node, size=0)[0] == errno.EACCES
    assert writer.change(node, mtime=5)[0] == 0
    assert writer.change(node, mode=0o600)[0] in (0, errno.EOPNOTSUPP)
    writer.ask(Operation.LINK, protocol.LINK.pack(node) + b"again\0")
    assert (folder / "again").is_symlink()
    assert secret.read_text() == "outside"
    assert secret.stat().st_mtime > 5
    assert stat.S_IMODE(secret.stat().st_mode) == 0o644
    assert (folder / "file").lstat().st_mtime == 5


def test_attributes_are_changed_one_by_one(writer: Guest, folder: Path) -> None:
    node, path = writer.look_up("file"), folder / "file"
    assert writer.change(node, mode=stat.S_IFREG | 0o604)[0] == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    assert writer.change(node, size=100)[0] == 0
    assert path.stat().st_size == 100
    handle = writer.open(node, os.O_RDWR)
    assert writer.change(node, size=300, handle=handle)[0] == 0
    assert path.read_bytes()[100:] == bytes(200)
    before = path.stat().st_atime_ns
    assert writer.change(node, mtime=(1 << 64) - 7, mtime_ns=123)[0] == 0
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (before, -7 * 10**9 + 123)
    assert writer.change(node, atime=1 << 32, atime_now=0, mtime=5, mtime_ns=10**9)[0] == errno.EINVAL
    assert writer.change(node, mtime=0, mtime_now=0)[0] == 0
    assert path.stat().st_mtime > 10**9
    assert writer.change(node, size=1 << 63)[0] == errno.EINVAL
    assert writer.change(node, size=(1 << 63) - 1)[0] in (errno.EFBIG, errno.EINVAL)
    if ROOT:
        assert writer.change(node, uid=12, gid=(1 << 32) - 1)[0] == 0
        assert (path.stat().st_uid, path.stat().st_gid) == (12, 0)


def test_what_is_removed_stays_until_it_is_forgotten(writer: Guest, folder: Path) -> None:
    node, handle = writer.create("gone")
    writer.write(node, handle, 0, b"still here")
    writer.ask(Operation.UNLINK, b"gone\0")
    writer.close(node, handle)
    assert writer.status(node)[10] == 0
    assert writer.read(node, 0, 99, writer.open(node)) == b"still here"
    assert writer.error(Operation.LINK, protocol.LINK.pack(node) + b"back\0") == "ENOENT"
    directory = writer.look_up("directory/inner")
    deep = writer.look_up("directory/inner/deep")
    writer.ask(Operation.UNLINK, b"deep\0", directory)
    assert writer.error(Operation.RMDIR, b"directory\0") == "ENOTEMPTY"
    writer.ask(Operation.RMDIR, b"inner\0", writer.look_up("directory"))
    assert writer.status(directory)[10] in (0, 1)
    assert writer.error(Operation.MKDIR, protocol.MKDIR.pack(0o755, 0) + b"x\0", directory) == "ENOENT"
    writer.send(Operation.FORGET, protocol.FORGET.pack(1 << 40), node)
    assert writer.error(Operation.GETATTR, bytes(16), node) == "ESTALE"
    assert writer.status(deep)[10] == 0


def test_a_link_outlasts_the_name_that_a_file_was_found_by(writer: Guest, folder: Path) -> None:
    node = writer.look_up("file")
    writer.ask(Operation.LINK, protocol.LINK.pack(node) + b"other\0", writer.look_up("directory"))
    writer.ask(Operation.UNLINK, b"file\0")
    assert writer.look_up("directory/other") == node == writer.look_up("directory/again")
    assert writer.status(node)[10] == 2


def rename(guest: Guest, old: str, new: str, flags: int = 0) -> int:
    (source, name), (target, other) = (
        (guest.look_up(head), tail) if head else (1, tail) for head, _, tail in (path.rpartition("/") for path in (old, new))
    )
    return guest.send(Operation.RENAME2, protocol.RENAME2.pack(target, flags, 0) + f"{name}\0{other}\0".encode(), source)[0]


def test_renames(writer: Guest, folder: Path) -> None:
    file, empty, inner = (writer.look_up(name) for name in ("file", "empty", "directory/inner"))
    assert rename(writer, "file", "empty", flags=1) == errno.EEXIST
    assert rename(writer, "file", "empty", flags=4) == errno.EINVAL
    assert rename(writer, "file", "directory/inner/moved") == 0
    assert writer.status(file)[1] == 10240
    assert writer.look_up("directory/inner/moved") == file
    assert rename(writer, "directory/inner/moved", "empty") == 0
    assert writer.status(empty)[10] == 0
    assert writer.look_up("empty") == file
    assert rename(writer, "directory/inner", "empty", flags=2) == 0
    assert (writer.look_up("empty"), writer.look_up("directory/inner")) == (inner, file)
    assert writer.look_up("empty/deep") == writer.look_up("deep", inner)
    assert rename(writer, "directory", "directory/below") == errno.EINVAL
    assert rename(writer, "nothing", "something") == errno.ENOENT
    assert rename(writer, "empty", "empty") == 0
    body = protocol.RENAME.pack(1) + b"empty\0back\0"
    writer.ask(Operation.RENAME, body)
    assert sorted(os.listdir(folder / "back")) == ["deep"]
    assert writer.status(inner)[0] == (folder / "back").stat().st_ino & INODES


def test_a_file_without_a_name_gets_one(writer: Guest, folder: Path) -> None:
    data = writer.ask(Operation.TMPFILE, protocol.CREATE.pack(os.O_RDWR, stat.S_IFREG | 0o600, 0, 0) + b"#1\0")
    node, handle = writer.entry(data), protocol.OPEN_ANSWER.unpack(data[128:])[0]
    writer.write(node, handle, 0, b"made whole")
    assert writer.status(node)[10] == 0
    writer.ask(Operation.LINK, protocol.LINK.pack(node) + b"whole\0")
    assert (folder / "whole").read_bytes() == b"made whole"
    assert writer.look_up("whole") == node


def test_space_and_copies(writer: Guest, folder: Path) -> None:
    node, handle = writer.create("space")
    writer.ask(Operation.FALLOCATE, protocol.FALLOCATE.pack(handle, 0, 8192, 0, 0), node)
    assert (folder / "space").stat().st_size == 8192
    writer.write(node, handle, 0, b"x" * 8192)
    assert writer.send(Operation.FALLOCATE, protocol.FALLOCATE.pack(handle, 0, 4096, 3, 0), node)[0] in (0, errno.EOPNOTSUPP)
    for numbers in ((0, 0, 0), (1 << 63, 1, 0), (0, 1, 1 << 31), (0, 1, 1 << 20)):
        offset, length, mode = numbers
        error = writer.error(Operation.FALLOCATE, protocol.FALLOCATE.pack(handle, offset, length, mode, 0), node)
        assert error in ("EINVAL", "EOPNOTSUPP", "ENOTSUP")
    source = writer.open(writer.look_up("file"))
    body = protocol.COPY_FILE_RANGE.pack(source, 100, node, handle, 5000, 3000, 0)
    assert protocol.WRITE_ANSWER.unpack(writer.ask(Operation.COPY_FILE_RANGE, body, node)) == (3000,)
    assert (folder / "space").read_bytes()[5000:8000] == (folder / "file").read_bytes()[100:3100]
    assert (
        writer.error(Operation.COPY_FILE_RANGE, protocol.COPY_FILE_RANGE.pack(source, 0, node, handle, 0, 9, 1), node) == "EINVAL"
    )


def test_a_name_that_is_there_is_opened(writer: Guest, folder: Path) -> None:
    node, handle = writer.create("file", flags=os.O_RDWR | os.O_CREAT)
    assert node == writer.look_up("file")
    assert writer.read(node, 0, 4, handle) == b"\0\1\2\3"
    body = protocol.CREATE.pack(os.O_RDWR | os.O_EXCL, 0o644, 0, 0) + b"file\0"
    assert writer.error(Operation.CREATE, body) == "EEXIST"
    assert writer.error(Operation.CREATE, protocol.CREATE.pack(os.O_RDONLY, 0o644, 0, 0) + b"pipe\0") == "EACCES"
    assert writer.error(Operation.CREATE, protocol.CREATE.pack(os.O_RDONLY, 0o644, 0, 0) + b"directory\0") == "EISDIR"


def test_what_fails_leaves_nothing_open(writer: Guest, folder: Path) -> None:
    count, before = len(writer.session.nodes), descriptors()
    for _ in range(50):
        writer.error(Operation.CREATE, protocol.CREATE.pack(os.O_RDONLY, 0o644, 0, 0) + b"pipe\0")
        writer.error(Operation.RMDIR, b"directory\0")
        writer.error(Operation.UNLINK, b"directory\0")
    assert (len(writer.session.nodes), descriptors()) == (count, before)


def test_what_a_reader_cannot_change(folder: Path) -> None:
    share = Share(folder)
    guest = Guest(share)
    node = guest.look_up("file")
    assert guest.change(node, mode=0o777)[0] == errno.EROFS
    assert guest.error(Operation.CREATE, protocol.CREATE.pack(os.O_RDWR, 0o644, 0, 0) + b"new\0") == "EROFS"
    handle = guest.open(node)
    assert guest.error(Operation.WRITE, protocol.WRITE.pack(handle, 0, 1, 0, 0, 0, 0) + b"x", node) == "EROFS"
    guest.session.close()
    share.close()
