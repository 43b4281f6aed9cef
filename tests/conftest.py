"""What every test may use: caches of its own, so that none depends on what a user's home holds. And who judges here."""

import gc
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# On a busy host any example may take long: what a test is given for all of them is `timeout` in pyproject.toml.
settings.register_profile("trapgate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("trapgate")

# The rooms whose helpers assert for the tests: a failure there says the values as well.
pytest.register_assert_rewrite("behaviour", "fuzz", "kvm", "silicon", "system", "unit")

import judges  # noqa: E402
from trapgate.stencil import library  # noqa: E402

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH, signal.SIGCHLD, signal.SIGUSR1, signal.SIGALRM)
PATIENCE = 2.0  # s
QUICK_EXAMPLES = 25
LIMITED = (resource.RLIMIT_NOFILE, resource.RLIMIT_AS, resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_STACK)


@pytest.fixture
def private_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory for this test alone, also for the processes it starts."""
    monkeypatch.setenv("TRAPGATE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def open_files() -> Iterator[None]:
    """The test must close every file descriptor that it opens."""
    before = _descriptors()
    yield
    assert _descriptors() <= before, "file descriptors are left open"


def pytest_addoption(parser: pytest.Parser) -> None:
    """`make quick` leaves out whatever would have to compile the software CPU or load it."""
    parser.addoption("--quick", action="store_true", help="skip the tests that need the stencils")


def pytest_configure(config: pytest.Config) -> None:
    """With --quick there are fewer examples, and asking for the stencils skips the test that asks, whichever it is."""

    def refuse(*_: object, **__: object) -> None:
        pytest.skip("needs the stencils: not for --quick")

    if config.getoption("quick"):
        settings.register_profile("quick", settings.get_profile("trapgate"), max_examples=QUICK_EXAMPLES)
        settings.load_profile("quick")
        for name in ("load_library", "build_library"):
            setattr(library, name, refuse)


@pytest.fixture(autouse=True)
def left_as_found(pytestconfig: pytest.Config) -> Iterator[None]:
    """The test leaves the process as it found it, for those that come after it; a SIGINT that a script has ignored is not.

    Blocked signals are looked at everywhere, all else with --quick: elsewhere rooms keep files open from one test to the next.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    mask, before = signal.pthread_sigmask(signal.SIG_BLOCK, ()), _process() if pytestconfig.getoption("quick") else {}
    yield
    left_mask = signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    assert left_mask == mask, "signals are left blocked"
    if before and (left := _process()) != before:
        gc.collect()  # what only garbage holds is not left, nor what a thread is about to close
        end = time.monotonic() + PATIENCE
        while not _descriptors() <= before["descriptors"] and time.monotonic() < end:
            time.sleep(0.01)
        left["descriptors"] = before["descriptors"] | _descriptors()
        assert left == before


def _process() -> dict[str, Any]:
    """What a process has one of."""
    return {
        "handlers": {number: signal.getsignal(number) for number in HANDLED},
        "limits": {number: resource.getrlimit(number) for number in LIMITED},
        "environment": {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
        "directory": os.getcwd(),
        "descriptors": _descriptors(),
    }


def _descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def pytest_report_header() -> str:
    """A run says which judges it has."""
    return judges.line()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked kvm skip themselves where /dev/kvm is no judge, and say why."""
    marked = [item for item in items if item.get_closest_marker("kvm")]
    if marked and (trouble := judges.kvm_trouble()):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=f"KVM is no judge here: {trouble}"))
