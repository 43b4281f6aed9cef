"""What every test may use: caches of its own, so that none depends on what a user's home holds."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def private_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory for this test alone, also for the processes it starts."""
    monkeypatch.setenv("TRAPGATE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def open_files() -> Iterator[None]:
    """The test must close every file descriptor that it opens."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) <= before, "file descriptors are left open"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked kvm skip themselves where /dev/kvm cannot be used."""
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        return
    for item in items:
        if item.get_closest_marker("kvm"):
            item.add_marker(pytest.mark.skip(reason="/dev/kvm cannot be used here"))
