"""`trapgate report` tells kept reports again: in other formats, several as one, with suppressions and a baseline of today."""

import contextlib
import os
import sys

from trapgate.cli import errors
from trapgate.cli.reporting import Outputs, Reporting
from trapgate.finder import judging, saved
from trapgate.finder.findings import Report
from trapgate.finder.merging import merged

SUFFIX = ".json"


def run(paths: tuple[str, ...], reporting: Reporting) -> int:
    """Tell what the files have; the exit status. TrapgateError."""
    judge = judging.Judge.of(reporting.suppressions, reporting.baseline)
    report = judge.judged(merged(read(path) for path in paths for path in within(path)))
    with contextlib.ExitStack() as stack:
        Outputs(reporting, stack, sys.stdout).tell(report)
    return reporting.status_of(report) or errors.OK


def within(path: str) -> list[str]:
    """A file; of a directory, all reports in it. Failure."""
    if not os.path.isdir(path):
        return [path]
    try:
        found = sorted(entry.path for entry in os.scandir(path) if entry.name.endswith(SUFFIX))
    except OSError as error:
        raise errors.Failure(f"cannot read {path}: {error.strerror}") from error
    if not found:
        raise errors.Failure(f"there is no report in {path} (FILE{SUFFIX})")
    return found


def read(path: str) -> Report:
    """A report that was kept in a file. TrapgateError."""
    return saved.read(judging.text_of(path), path)
