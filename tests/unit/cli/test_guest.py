"""A machine with a guest in it: what the user is told on the way."""

from pathlib import Path

import pytest

from trapgate.cli import guest
from trapgate.stencil.cache import Cache


def test_what_the_cache_could_not_do_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run opens it at its start and at its end."""
    monkeypatch.setattr(guest, "_told", set())
    (tmp_path / "file").write_text("")
    for _ in range(2):
        guest.tell_notes(Cache(tmp_path / "file" / "cache"))
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "cannot be used, nothing will be kept" in told
