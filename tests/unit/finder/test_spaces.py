"""What a process has mapped: from text, from the living, from the dead."""

import os
import struct
from pathlib import Path

import pytest

from trapgate.finder import spaces
from trapgate.finder.spaces import Mapped, SpaceError

MAPS = """\
55d0c8a00000-55d0c8a01000 r--p 00000000 fe:00 1234                       /srv/a program
55d0c8a01000-55d0c8a02000 r-xp 00001000 fe:00 1234                       /srv/a program
7f0000000000-7f0000001000 r-xp 00002000 fe:00 77                         /usr/lib/x.so (deleted)
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
7ffc00100000-7ffc00101000 rw-p 00000000 00:00 0
"""


def test_a_copy_of_maps(tmp_path: Path) -> None:
    path = tmp_path / "maps"
    path.write_text(MAPS)
    space = spaces.of_text(str(path))
    assert [(one.path, one.offset) for one in space] == [
        ("/srv/a program", 0),
        ("/srv/a program", 0x1000),
        ("/usr/lib/x.so", 0x2000),
    ]
    assert spaces.find(space, 0x55D0C8A01FFF) is space[1]
    assert spaces.find(space, 0x55D0C8A02000) is None


def test_this_process() -> None:
    space = spaces.of_process(os.getpid())
    assert any("python" in one.path for one in space)


@pytest.mark.parametrize("text", ["", "nothing of the kind\n", MAPS.splitlines()[3]])
def test_text_that_lists_no_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "maps"
    path.write_text(text)
    with pytest.raises(SpaceError, match="lists no mapped file"):
        spaces.of_text(str(path))


def core(files: list[Mapped], *, count: int | None = None) -> bytes:
    """A core dump of nothing but the note that names files."""
    body = struct.pack("<2Q", len(files) if count is None else count, 4096)
    body += b"".join(struct.pack("<3Q", one.start, one.end, one.offset // 4096) for one in files)
    body += b"".join(one.path.encode() + b"\0" for one in files)
    other = struct.pack("<III", 5, 3, 1) + b"CORE\0\0\0\0abc\0"
    note = other + struct.pack("<III", 5, len(body), 0x46494C45) + b"CORE\0\0\0\0" + body.ljust(-(-len(body) // 4) * 4, b"\0")
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1".ljust(16, b"\0"), 4, 62, 1, 0, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    return header + struct.pack("<IIQQQQQQ", 4, 0, 120, 0, 0, len(note), 0, 4) + note


def test_a_core_dump(tmp_path: Path) -> None:
    files = [Mapped(0x400000, 0x401000, 0, "/srv/a"), Mapped(0x7F0000000000, 0x7F0000002000, 0x3000, "/usr/lib/b.so")]
    path = tmp_path / "core"
    path.write_bytes(core(files))
    assert spaces.of_core(str(path)) == files


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x7fELF" + bytes(60), id="no class"),
        pytest.param(core([])[:130], id="cut"),
        pytest.param(core([], count=1 << 60), id="a count from nowhere"),
        pytest.param(core([])[:120], id="no note"),
    ],
)
def test_broken_core_dumps(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "core"
    path.write_bytes(data)
    with pytest.raises(SpaceError):
        spaces.of_core(str(path))


def test_what_is_not_there(tmp_path: Path) -> None:
    for read in (spaces.of_text, spaces.of_core):
        with pytest.raises(SpaceError, match="cannot read"):
            read(str(tmp_path / "none"))
    with pytest.raises(SpaceError, match="process 4194305"):
        spaces.of_process(4194305)
