"""Shares under the sandbox of a run: all that a guest may ask for is done, and the process gets no more than that."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trapgate.sandbox.confine import offered

HOST = offered()
needs_both = pytest.mark.skipif(not (HOST.landlock and HOST.filters), reason=f"no sandbox here: {HOST.reasons}")
TESTS = Path(__file__).resolve().parents[2]
CONFINED = """
import errno, json, os, stat, sys
from pathlib import Path
from trapgate.cli.main import cli
from trapgate.fuse import protocol
from trapgate.fuse.protocol import Operation
from trapgate.fuse.share import Share
from trapgate.sandbox.confine import confine
from trapgate.sandbox.landlock import READ, WRITABLE
from trapgate.sandbox.policy import Needs
from unit.fuse.guest import Guest

folder, writable = Path(sys.argv[1]), sys.argv[2] == "writable"
share = Share(folder, writable=writable)
guest = Guest(share)
confine(Needs(shares=True, writes=writable), [(folder, WRITABLE if writable else READ)])

def outcome(call):
    try:
        found = call()
    except OSError as error:
        return errno.errorcode[error.errno]
    except AssertionError as error:
        return str(error)
    return errno.errorcode[found[0]] if isinstance(found, tuple) and isinstance(found[1], bytes) and found[0] else "done"

def asked(operation, body=b"", node=1):
    return lambda: guest.ask(operation, body, node)

told = {}
def tell(name, call):
    told[name] = outcome(call)

node = guest.look_up("file")
tell("read", lambda: guest.read(node, 0, 99, guest.open(node)))
tell("names", lambda: guest.names(1, plus=True))
tell("link's text", asked(Operation.READLINK, node=guest.look_up("out")))
tell("statfs", asked(Operation.STATFS))
tell("access", asked(Operation.ACCESS, protocol.ACCESS.pack(4, 0), node))
tell("other file systems", lambda: share.made_up(os.stat("/").st_dev + 1))
tell("create", lambda: guest.create("new", 0o640, uid=7, gid=8))
tell("write", lambda: guest.write(guest.look_up("empty"), guest.open(guest.look_up("empty"), os.O_RDWR), 5, b"x" * 5000))
for kind in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK):
    tell(f"mknod {kind:o}", asked(Operation.MKNOD, protocol.MKNOD.pack(kind | 0o600, 0, 0, 0) + b"%o\\0" % kind))
tell("mkdir", asked(Operation.MKDIR, protocol.MKDIR.pack(0o2775, 0) + b"sub\\0"))
tell("symlink", asked(Operation.SYMLINK, b"link\\0target\\0"))
tell("link", asked(Operation.LINK, protocol.LINK.pack(node) + b"linked\\0"))
tell("chmod", lambda: guest.change(node, mode=0o604))
tell("chown", lambda: guest.change(node, uid=os.getuid(), gid=os.getgid()))
tell("truncate", lambda: guest.change(node, size=10))
tell("utime", lambda: guest.change(node, atime=10, mtime=20))
tell("rename", asked(Operation.RENAME2, protocol.RENAME2.pack(guest.look_up("directory"), 0, 0) + b"file\\0moved\\0"))
tell("exchange", asked(Operation.RENAME2, protocol.RENAME2.pack(1, 2, 0) + b"empty\\0out\\0"))
tell("unlink", asked(Operation.UNLINK, b"pipe\\0"))
tell("rmdir", asked(Operation.RMDIR, b"inner\\0", guest.look_up("directory")))
tell("tmpfile", asked(Operation.TMPFILE, protocol.CREATE.pack(os.O_RDWR, 0o600, 0, 0) + b"#1\\0"))
handle = guest.open(node, os.O_RDWR if writable else os.O_RDONLY)
tell("fallocate", asked(Operation.FALLOCATE, protocol.FALLOCATE.pack(handle, 0, 4096, 0, 0), node))
tell("copy", asked(Operation.COPY_FILE_RANGE, protocol.COPY_FILE_RANGE.pack(handle, 0, node, handle, 8192, 99, 0), node))
tell("fsync", asked(Operation.FSYNC, protocol.FSYNC.pack(handle, 0, 0), node))
tell("fsyncdir", asked(Operation.FSYNCDIR, protocol.FSYNC.pack(0, 0, 0)))
tell("the process: write", lambda: os.open(folder / "by itself", os.O_WRONLY | os.O_CREAT))
tell("the process: chmod", lambda: os.chmod(folder / "empty", 0o600))
tell("the process: read beside", lambda: os.open(folder / ".." / "secret", os.O_RDONLY))
tell("the process: write beside", lambda: os.open(folder / ".." / "secret", os.O_WRONLY))
tell("the process: device", lambda: os.mknod(folder / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3)))
tell("the process: run", lambda: os.fork())
print(json.dumps(told))
"""
READS = {"read", "names", "link's text", "statfs", "access", "other file systems", "fsync", "fsyncdir"}


def told(folder: Path, kind: str) -> dict[str, str]:
    if kind == "writable":
        (folder / "directory" / "inner" / "deep").unlink()
    done = subprocess.run(
        [sys.executable, "-c", CONFINED, str(folder), kind],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PYTHONPATH": str(TESTS)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@needs_both
def test_a_share_that_is_read(folder: Path) -> None:
    found = told(folder, "read")
    process = {name: word for name, word in found.items() if name.startswith("the process")}
    guest = {name: word for name, word in found.items() if name not in process}
    assert {name for name, word in guest.items() if word == "done"} == READS
    assert all("EROFS" in word for name, word in guest.items() if name not in READS), guest
    assert process.pop("the process: chmod") == process.pop("the process: run") == process.pop("the process: device") == "EPERM"
    assert set(process.values()) == {"EACCES"}, process


@needs_both
def test_a_share_that_is_written(folder: Path) -> None:
    found = told(folder, "writable")
    assert {name for name, word in found.items() if word != "done"} == {
        "the process: read beside", "the process: write beside", "the process: device", "the process: run",
    }, found  # fmt: skip
    assert (folder / "directory" / "moved").stat().st_mtime >= 20
    assert (folder / "out").read_bytes() == bytes(5) + b"x" * 5000
