"""Is a plugin for pytest: a test with the mark `no_bus_locks` runs in a guest, and fails where it, or what it calls, locks the bus.

What becomes of the test in there comes back as reports, as pytest itself makes values of them; so skipped and expected failures,
sections and durations are those of the test. Fixtures are set up in the guest alone.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from trapgate.errors import TrapgateError

if TYPE_CHECKING:
    from trapgate.finder.findings import Report

MARK = "no_bus_locks"
INSIDE = "TRAPGATE_PYTEST_REPORTS"
"""In a guest: the file that reports go to."""
_START = "from trapgate.cli.entry import main; main()"
MOST_OUTPUT = 1 << 20  # characters that are told where a test could not be run
_OPTIONS = ("timeout", "suppressions")


def pytest_addoption(parser: pytest.Parser) -> None:
    """One option."""
    parser.getgroup("trapgate").addoption(
        "--no-bus-locks", action="store_true", help=f"Run each test in a guest, as if it had the mark {MARK}."
    )


def pytest_configure(config: pytest.Config) -> None:
    """Name the mark, and where this is a guest's pytest, tell reports to the one outside."""
    config.addinivalue_line(
        "markers", f"{MARK}(timeout=S, suppressions=FILE): run the test in a guest of trapgate's; it fails where it locks the bus"
    )
    if file := os.environ.get(INSIDE):
        config.pluginmanager.register(_Inside(config, Path(file)))


class _Inside:
    """Writes the reports of tests to a file, a line each."""

    def __init__(self, config: pytest.Config, file: Path) -> None:
        self._config, self._file = config, file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        with self._file.open("a") as file:
            file.write(json.dumps(data) + "\n")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test that has the mark elsewhere."""
    mark = item.get_closest_marker(MARK)
    if os.environ.get(INSIDE) or not (mark or item.config.getoption("--no-bus-locks")):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _reports(item, dict(mark.kwargs) if mark else {}):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    # What tests before it have left set up goes, as at the end of pytest's own protocol, which has no public name for that.
    item.session._setupstate.teardown_exact(nextitem)  # noqa: SLF001
    return True


def _reports(item: pytest.Item, asked: dict[str, Any]) -> Iterator[pytest.TestReport]:
    unknown = set(asked) - set(_OPTIONS)
    if unknown:
        yield _failure(item, f"the mark {MARK} takes {' and '.join(_OPTIONS)}, not {', '.join(sorted(unknown))}")
        return
    with tempfile.TemporaryDirectory(prefix="trapgate-") as name:
        folder = Path(name)
        kept, told = folder / "report.json", folder / "guest" / "reports"
        told.parent.mkdir()
        options = ["--exit-zero", "--format", f"json:{kept}", "--write", str(told.parent)]
        for option in _OPTIONS:
            if option in asked:
                options += [f"--{option}", str(asked[option])]
        command = [sys.executable, "-c", _START, "buslocks", *options, "--", *_inside(item)]
        environment = {**os.environ, INSIDE: str(told)}
        with tempfile.TemporaryFile("w+", errors="replace") as output:
            done = subprocess.run(
                command,
                cwd=item.config.rootpath,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
            output.seek(0)
            said = output.read(MOST_OUTPUT)
        reports = list(_told(item, told))
        try:
            from trapgate.finder import judging, saved

            found = saved.read(judging.text_of(str(kept)), str(kept))
        except TrapgateError:
            found = None
    if found is None or not reports:
        yield _failure(item, f"the test was not run in a guest ({done.returncode}):\n{said}")
        return
    yield from _judged(item, reports, found)


def _inside(item: pytest.Item) -> list[str]:
    """The test as pytest in the guest is asked for it: chosen by its name alone."""
    options = ["-p", "no:cacheprovider", "-m", "", "-k", "", *(["-n", "0"] if item.config.pluginmanager.hasplugin("xdist") else [])]
    if item.config.inipath is not None:
        options += ["-c", str(item.config.inipath)]
    return [sys.executable, "-m", "pytest", *options, "--rootdir", str(item.config.rootpath), item.nodeid]


def _told(item: pytest.Item, file: Path) -> Iterator[pytest.TestReport]:
    if file.exists():
        for line in file.read_text().splitlines():
            report = item.config.hook.pytest_report_from_serializable(config=item.config, data=json.loads(line))
            if isinstance(report.longrepr, list):  # where and why a test was skipped, a tuple before it was JSON
                report.longrepr = tuple(report.longrepr)
            yield report


def _judged(item: pytest.Item, reports: list[pytest.TestReport], found: "Report") -> Iterator[pytest.TestReport]:
    """The reports; that of the call fails where something was found."""
    from trapgate.finder.formats.text import render

    for report in reports:
        if report.when == "call" and found.findings:
            text = "\n".join(render(found))
            if report.outcome == "passed":
                report.outcome, report.longrepr = "failed", text
            else:
                report.sections.append(("bus locks", text))
        yield report
    if found.findings and not any(report.when == "call" for report in reports):
        yield _failure(item, "\n".join(render(found)))


def _failure(item: pytest.Item, text: str) -> pytest.TestReport:
    return pytest.TestReport(item.nodeid, item.location, dict.fromkeys(item.keywords, 1), "failed", text, "call")
