"""A pytest plugin for the nested machine: each test's outcome over the serial line as soon as it is known."""

import pytest

from tools.nested.inside import tell


def pytest_collection_finish(session: pytest.Session) -> None:
    """How many there are."""
    tell({"tests": len(session.items)})


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A test that ended, or did not come to its call."""
    if report.when == "call" or report.outcome != "passed":
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        tell({"test": report.nodeid, "outcome": report.outcome, "when": report.when, "seconds": report.duration, "text": text})
