"""The cache holds code that will be executed: what is damaged, foreign or half-written is never handed out."""

import os
from pathlib import Path

import pytest

from trapgate.stencil.cache import KEPT, Cache, CacheError


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
