"""The cache holds code that will be executed: what is damaged, foreign or half-written is never handed out."""

import ctypes
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trapgate.hostcall import HostError
from trapgate.mapping import Mapping
from trapgate.stencil.cache import KEPT, LARGE_PAGE, LITTER, Cache, CacheError, WrongContent, default_directory, pack, unpack


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_what_was_stored_comes_back(cache: Cache) -> None:
    assert cache.load("kind-1") is None
    assert cache.store("kind-1", b"code")
    assert cache.load("kind-1") == b"code"
    assert not cache.notes


def test_the_directory_is_ours_alone(cache: Cache) -> None:
    assert cache.directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data[:40], lambda data: b"", lambda data: data[:33] + b"X" + data[34:]]
)
def test_a_damaged_file_is_removed_with_a_note(cache: Cache, change: object) -> None:
    assert callable(change)
    cache.store("kind-1", b"code that was good")
    path = cache.directory / "kind-1"
    path.write_bytes(change(path.read_bytes()))
    assert cache.load("kind-1") is None
    assert "damaged" in cache.notes[0]
    assert not path.exists()


def test_a_link_is_not_followed(cache: Cache, tmp_path: Path) -> None:
    other = Cache(tmp_path / "other")
    other.store("kind-1", b"foreign")
    (cache.directory / "kind-1").symlink_to(other.directory / "kind-1")
    assert cache.load("kind-1") is None
    assert cache.notes


def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(CacheError, match="chmod 700"):
        Cache(folder)


def test_a_linked_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(CacheError, match="not a directory"):
        Cache(tmp_path / "link")


def test_no_directory_means_no_cache_but_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = Cache(tmp_path / "file" / "cache")
    assert cache.notes
    assert not cache.store("kind-1", b"code")
    assert cache.load("kind-1") is None


def test_a_failed_write_leaves_the_old_file_and_no_litter(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.store("kind-1", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert not cache.store("kind-1", b"new")
    assert "No space left" in cache.notes[0]
    assert cache.load("kind-1") == b"old"
    assert [path.name for path in cache.directory.iterdir()] == ["kind-1"]


def test_old_versions_go_and_other_kinds_stay(cache: Cache) -> None:
    cache.store("other-1", b"")
    for n in range(KEPT + 3):
        cache.store(f"kind-{n}", b"code")
        os.utime(cache.directory / f"kind-{n}", (n, n))
    cache.store("kind-last", b"code")
    names = {path.name for path in cache.directory.iterdir()}
    assert "other-1" in names and "kind-last" in names
    assert len(names) == KEPT + 1
    assert "kind-0" not in names


def test_what_is_right_under_one_name_is_not_under_another(cache: Cache) -> None:
    cache.store("kind-1", b"code")
    os.rename(cache.directory / "kind-1", cache.directory / "kind-2")
    assert cache.load("kind-2") is None
    assert "damaged" in cache.notes[0]


def test_content_that_its_reader_refuses_goes(cache: Cache) -> None:
    def refuse(data: memoryview) -> None:
        raise WrongContent

    cache.store("kind-1", b"a letter home")
    assert cache.read("kind-1", bytes) == b"a letter home"
    assert cache.read("kind-1", refuse) is None
    assert "does not hold what it should; it is built again" in cache.notes[0]
    assert not (cache.directory / "kind-1").exists()
    assert cache.read("kind-1", bytes) is None


@pytest.mark.parametrize("head", [b"", b"[1", b"[" * 5000, b"\xff" * 50, b"9" * 5000], ids=lambda head: head[:5].decode("latin-1"))
def test_what_is_not_packed_is_wrong(head: bytes) -> None:
    assert unpack(pack([1, "x"], b"body")) == ([1, "x"], b"body")
    for length in (len(head), len(head) + 1, 1 << 63):
        with pytest.raises(WrongContent):
            unpack(length.to_bytes(8, "little") + head)


def test_what_is_copied_over_a_file_changes_nothing_that_was_loaded(cache: Cache) -> None:
    """As `cp` does, which does not replace it: code is cut out of what was loaded for as long as the process lives."""
    cache.store("kind-1", bytes(100_000))
    loaded = cache.load("kind-1")
    assert loaded is not None
    (cache.directory / "kind-1").write_bytes(b"\xff" * 10)
    assert loaded == bytes(100_000)


@pytest.mark.timeout(20)
def test_a_file_without_an_end_is_not_read(cache: Cache) -> None:
    cache.store("kind-1", b"code")
    os.truncate(cache.directory / "kind-1", 1 << 40)
    assert cache.load("kind-1") is None
    assert "damaged" in cache.notes[0]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["pipe", "directory", "second name", "writable by others", "socketless link"])
def test_only_plain_files_of_ours_are_used(cache: Cache, tmp_path: Path, kind: str) -> None:
    cache.store("kind-1", b"code")
    path = cache.directory / "kind-1"
    match kind:
        case "pipe":
            path.unlink()
            os.mkfifo(path)
        case "directory":
            path.unlink()
            path.mkdir()
        case "second name":
            os.link(path, tmp_path / "other")
        case "writable by others":
            path.chmod(0o622)
        case _:
            path.unlink()
            path.symlink_to("/dev/zero")
    assert cache.load("kind-1") is None
    assert "is not used: it is no plain file" in cache.notes[0] or "cannot be read" in cache.notes[0]
    assert os.path.lexists(path)
    assert cache.store("kind-1", b"code") == (kind != "directory")


def test_a_damaged_file_that_cannot_be_removed(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def unlink(path: Path, missing_ok: bool = False) -> None:
        raise OSError(30, "Read-only file system")

    cache.store("kind-1", b"code that was good")
    path = cache.directory / "kind-1"
    path.write_bytes(path.read_bytes()[:-1])
    monkeypatch.setattr(Path, "unlink", unlink)
    assert cache.load("kind-1") is None
    assert "cannot be removed: Read-only file system; it is built again at each start" in cache.notes[0]


def test_a_process_without_descriptors_has_no_damaged_cache(cache: Cache) -> None:
    cache.store("kind-1", b"code")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(HostError, match="kind-1: Too many open files; raise the limit"):
            cache.load("kind-1")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert cache.load("kind-1") == b"code"


def test_half_written_files_go_when_they_are_old(cache: Cache) -> None:
    now = time.time()
    names = {".kind-1.abc": now - LITTER - 60, ".kind-1.def": now - 60, ".profile": 0.0, "kind-1": 0.0, "letter": 0.0}
    for name, moment in names.items():
        (cache.directory / name).write_bytes(b"x")
        (cache.directory / name).chmod(0o600)
        os.utime(cache.directory / name, (moment, moment))
    Cache(cache.directory)
    assert {path.name for path in cache.directory.iterdir()} == set(names) - {".kind-1.abc"}


BUSY = """
import sys
from trapgate.stencil.cache import Cache
cache = Cache()
for turn in range(200):
    key = f"kind-{turn % 9}"
    assert cache.store(key, key.encode() * 5000)
    found = cache.load(key)
    assert found is None or found == key.encode() * 5000
assert not cache.notes, cache.notes
"""


def test_many_processes_at_once(private_caches: Path) -> None:
    """Each stores, loads and removes old ones, and sees nothing but whole files, and no complaint."""
    running = [subprocess.Popen([sys.executable, "-c", BUSY], stderr=subprocess.PIPE) for _ in range(6)]
    for process in running:
        _, text = process.communicate(timeout=60)
        assert (process.returncode, text) == (0, b"")
    assert 1 <= len(list(private_caches.iterdir())) <= 9


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRAPGATE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def nobody(number: int) -> None:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert default_directory() == Path(f"/tmp/trapgate-{os.geteuid()}")


def test_a_large_file_lies_in_the_large_pages_that_guest_ram_gets(cache: Cache) -> None:
    """Linux itself says where it would put some (`THPeligible` in /proc/PID/smaps): nowhere where the host has none."""
    ram = Mapping(2 * LARGE_PAGE, "RAM")
    ram.prefer_large_pages()
    cache.store("kind-1", bytes(3 * LARGE_PAGE - 5))
    found = cache.load("kind-1")
    assert found is not None
    assert len(found) == 3 * LARGE_PAGE - 5
    address = ctypes.addressof(ctypes.c_char.from_buffer(found.obj))
    assert _large_pages(address) == _large_pages(ram.address)


def _large_pages(address: int) -> str:
    """The line of smaps that tells whether memory at an address is eligible for large pages."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif inside and line.startswith("THPeligible"):
            return line
    raise AssertionError("this host's kernel does not tell")
