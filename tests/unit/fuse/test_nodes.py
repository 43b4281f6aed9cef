"""Files without descriptors: found again by name, and refused when something else has it."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from trapgate.fuse import nodes, protocol
from trapgate.fuse.protocol import Operation
from trapgate.fuse.share import Share, ShareError
from unit.fuse.guest import Guest, Refused, descriptors


@contextmanager
def few_descriptors(most: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("lasting", [False, True])
def test_a_tree_takes_no_more_descriptors_than_there_are(tmp_path: Path, lasting: bool) -> None:
    for one in range(100):
        (tmp_path / str(one) / "inner").mkdir(parents=True)
        for two in range(5):
            (tmp_path / str(one) / "inner" / str(two)).write_text(f"{one}.{two}")
    before, most = descriptors(), 0
    with few_descriptors(before + 100):
        share = Share(tmp_path, lasting=lasting)
        guest = Guest(share)
        found = {}
        for one in range(100):
            for name, _, node in guest.names(guest.look_up(f"{one}/inner"), plus=True):
                found[one, name] = node
            most = max(most, descriptors() - before)
        for two in range(5):
            for one in range(100):
                node = found[one, b"%d" % two]
                handle = 0 if lasting else guest.open(node)
                assert guest.read(node, 0, 99, handle) == b"%d.%d" % (one, two)
                most = max(most, descriptors() - before)
                if not lasting:
                    guest.close(node, handle)
        guest.session.close()
        share.close()
    assert 10 < most < 70
    assert descriptors() == before


def test_a_guest_has_only_so_much_open(writer: Guest) -> None:
    with few_descriptors(descriptors() + 120):
        small = Guest(writer.share)
        node, opened = small.look_up("file"), []
        for _ in range(100):
            with suppress(Refused):
                opened.append(small.open(node))
        assert 16 <= len(opened) < 100
        assert small.error(Operation.OPEN, protocol.OPEN.pack(0, 0), node) == "ENFILE"
        assert small.error(Operation.OPENDIR, protocol.OPEN.pack(0, 0)) == "ENFILE"
        small.close(node, opened.pop())
        small.open(1, operation=Operation.OPENDIR)
        small.session.close()


def test_what_took_a_files_place_is_another_file(guest: Guest, folder: Path) -> None:
    node = guest.look_up("file")
    (folder / "new").write_text("new")
    (folder / "new").replace(folder / "file")
    assert guest.error(Operation.GETATTR, protocol.GETATTR.pack(0, 0, 0), node) == "ESTALE"
    assert guest.error(Operation.OPEN, protocol.OPEN.pack(os.O_RDONLY, 0), node) == "ESTALE"
    other = guest.look_up("file")
    assert other != node
    assert guest.read(other, 0, 9, guest.open(other)) == b"new"
    assert guest.look_up("directory/again") == node
    guest.status(node)


def test_what_the_host_renames_is_found_by_its_new_name(guest: Guest, folder: Path) -> None:
    inner = guest.look_up("directory/inner")
    deep = guest.look_up("deep", inner)
    (folder / "directory").rename(folder / "renamed")
    guest.status(deep)  # the directory is still open
    guest.session.nodes._directories.clear()
    assert guest.error(Operation.GETATTR, protocol.GETATTR.pack(0, 0, 0), deep) == "ESTALE"
    assert guest.error(Operation.LOOKUP, b"deep\0", inner) == "ESTALE"
    assert guest.look_up("renamed/inner/deep") == deep
    guest.status(deep)


def test_no_end_of_nodes(guest: Guest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "MOST", len(guest.session.nodes) + 1)
    guest.look_up("file")
    assert guest.error(Operation.LOOKUP, b"empty\0") == "ENFILE"
    assert all(node == 0 for name, _, node in guest.names(1, plus=True) if name != b"file")


def test_directories_in_each_other_have_an_end(guest: Guest, folder: Path) -> None:
    one, two = guest.look_up("directory"), guest.look_up("directory/inner")
    known = guest.session.nodes
    known[one].parent = known[two]
    known._directories.clear()
    assert guest.error(Operation.LOOKUP, b"deep\0", two) == "ESTALE"
    assert guest.look_up("directory") == one
    assert guest.look_up("deep", two)


@pytest.mark.parametrize("made_up", ["/proc", "/proc/self", "/sys"])
def test_files_of_the_kernels_are_not_shared(made_up: str) -> None:
    with pytest.raises(ShareError, match="has this process as well"):
        Share(made_up)


def test_the_kernels_directories_are_empty_ones() -> None:
    share = Share("/")
    guest = Guest(share)
    for name in ("proc", "sys"):
        node = guest.look_up(name)
        assert guest.status(node)[9] == os.stat(f"/{name}").st_mode
        assert {name for name, _, _ in guest.names(node)} == {b".", b".."}
        assert {name for name, _, _ in guest.names(node, plus=True)} == {b".", b".."}
        assert protocol.ENTRY.unpack(guest.ask(Operation.LOOKUP, b"self\0", node))[0] == 0
        assert guest.error(Operation.OPEN, protocol.OPEN.pack(0, 0), node) == "EISDIR"
    numbers = [guest.status(guest.look_up(name))[0] for name in ("proc", "sys", "usr")]
    assert len(set(numbers)) == 3
    guest.session.close()
    share.close()


@pytest.mark.parametrize("tag", ["", "x" * 37, "ä" * 19, "a\0b", "a\udcff"])
def test_tags_that_are_none(tmp_path: Path, tag: str) -> None:
    with pytest.raises(ShareError, match="no tag"):
        Share(tmp_path, tag=tag)


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = descriptors()
    for name, reason in (("nothing", errno.ENOENT), ("file", errno.ENOTDIR)):
        with pytest.raises(ShareError, match=f"{name}: {os.strerror(reason)}"):
            Share(tmp_path / name)
    assert descriptors() == before
