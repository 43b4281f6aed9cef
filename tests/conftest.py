"""What every test may use: caches of its own, so that none depends on what a user's home holds. And who judges here."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import judges
from trapgate.stencil import library


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


def pytest_addoption(parser: pytest.Parser) -> None:
    """`make quick` leaves out whatever would have to compile the software CPU or load it."""
    parser.addoption("--quick", action="store_true", help="skip the tests that need the stencils")


def pytest_configure(config: pytest.Config) -> None:
    """With --quick, asking for the stencils skips the test that asks, whichever it is."""

    def refuse(*_: object, **__: object) -> None:
        pytest.skip("needs the stencils: not for --quick")

    if config.getoption("quick"):
        for name in ("load_library", "build_library"):
            setattr(library, name, refuse)


def pytest_report_header() -> str:
    """A run says which judges it has."""
    return judges.line()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked kvm skip themselves where /dev/kvm is no judge, and say why."""
    marked = [item for item in items if item.get_closest_marker("kvm")]
    if marked and (trouble := judges.kvm_trouble()):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=f"KVM is no judge here: {trouble}"))
