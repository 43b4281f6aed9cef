"""`trapgate cache`: it counts and deletes what trapgate made, and nothing else."""

from pathlib import Path

import pytest

from trapgate.cli.main import status_of


def fill(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True)
    (folder / "stencils-1").write_bytes(bytes(1000))
    (folder / ".stencils-1.tmp").write_bytes(bytes(10))
    (folder / "translations-7").write_bytes(bytes(2000))
    (folder / "loops-1").write_bytes(bytes(500))
    (folder / "machines-1").write_bytes(bytes(3))
    (folder / "mine.txt").write_text("not trapgate's")
    (folder / "stencils-link").symlink_to(folder / "mine.txt")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_show(private_caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(private_caches)
    assert status_of(["cache", "show"]) == 0
    out = capsys.readouterr().out
    assert str(private_caches) in out
    assert "2 files      1.0 kB" in out
    assert "1 file       2.0 kB" in out
    assert "1 file    500 bytes" in out


def test_clear_all(private_caches: Path) -> None:
    fill(private_caches)
    assert status_of(["cache", "clear"]) == 0
    assert names(private_caches) == {"mine.txt", "stencils-link"}


@pytest.mark.parametrize(
    ("option", "left"),
    [
        ("--stencils", {"translations-7", "loops-1", "machines-1"}),
        ("--translations", {"stencils-1", ".stencils-1.tmp", "machines-1"}),
        ("--guests", {"translations-7", "loops-1", "stencils-1", ".stencils-1.tmp"}),
    ],
)
def test_clear_one(private_caches: Path, option: str, left: set[str]) -> None:
    fill(private_caches)
    assert status_of(["cache", "clear", option]) == 0
    assert names(private_caches) == left | {"mine.txt", "stencils-link"}


def test_no_cache_is_an_empty_one(private_caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["cache", "show"]) == 0
    assert status_of(["cache", "clear"]) == 0
    assert capsys.readouterr().out.count("0 files") == 10
    assert not private_caches.exists()


def test_a_cache_that_is_a_file(private_caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    private_caches.write_text("")
    assert status_of(["cache", "show"]) == 2
    assert capsys.readouterr().err == f"trapgate: error: cache {private_caches} cannot be read: Not a directory\n"
