"""A machine with a guest in it: what the user is told on the way."""

from pathlib import Path

import pytest

from trapgate.build import Hearing, make_machine, soft
from trapgate.cli import guest
from trapgate.machine import MachineConfig
from unit.soft.bench import library


def test_what_the_cache_could_not_do_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run opens it at its start and at its end."""
    monkeypatch.setattr(guest, "_told", set())
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRAPGATE_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(soft, "load_library", lambda cache, progress: library())
    machine = make_machine(MachineConfig(memory=1 << 20), hearing=Hearing(note=guest.tell_once))
    machine.engine.keep()
    machine.close()
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "cannot be used, nothing will be kept" in told
