"""Writes reports where the user wants them, in the formats that were asked for."""

import contextlib
import os
import sys
from collections.abc import Iterable
from typing import TextIO

from trapgate.cli import errors
from trapgate.finder.findings import Report
from trapgate.finder.formats import text
from trapgate.finder.formats.registry import Renderer, renderer
from trapgate.hostcall import REMEDIES
from trapgate.values import dataclass


@dataclass(frozen=True, slots=True)
class Format:
    """A format of a report by its name, and the file that it goes to; None: the usual place."""

    name: str
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Reporting:
    """How findings are told, which of them, and the exit status that they make (None: the program's).

    `usual`: where formats without a file go, if not on standard error.
    """

    formats: tuple[Format, ...]
    usual: str | None = None
    status: int | None = None
    suppressions: tuple[str, ...] = ()
    baseline: str | None = None

    def status_of(self, report: Report) -> int | None:
        """The exit status that a report makes; None where nothing in it counts."""
        return self.status if any(not one.known for one in report.findings) else None


class Outputs:
    """The files that reports go to, open until `stack` closes them, and what writes them: before a sandbox bars that. Failure."""

    def __init__(self, reporting: Reporting, stack: contextlib.ExitStack, standard: TextIO | None = None) -> None:
        self._files: list[tuple[Renderer, str, TextIO | None]] = []
        self._standard = standard
        for one in reporting.formats:
            path = one.path or reporting.usual
            option = f"-o {path}" if one.path is None else f"--format {one.name}:{path}"
            try:
                file = None if path is None else stack.enter_context(_opened(path))
            except OSError as error:
                raise errors.Failure(f"{option}: {error.strerror}") from error
            self._files.append((renderer(one.name), option, file))

    def tell(self, report: Report) -> None:
        """Write it everywhere; of files alone the last lines are on standard error. Failure; BrokenPipeError: nobody reads."""
        for one, option, file in self._files:
            lines = one.render(report)
            if file is not None:
                _write(file, option, lines)
            elif self._standard is not None:
                _write(self._standard, "standard output", lines)
            else:
                _complain(lines)
        if all(file is not None for _, _, file in self._files):
            _complain(text.endings(report))


def _opened(path: str) -> TextIO:
    return open(path, "w", encoding="utf-8", errors="backslashreplace")


def _write(file: TextIO, where: str, lines: Iterable[str]) -> None:
    try:
        file.writelines(f"{line}\n" for line in lines)
        file.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        with contextlib.suppress(OSError):  # what is left of it would be tried once more at the end
            if file is sys.stdout:
                os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
            else:
                file.close()
        remedy = f"; {REMEDIES[error.errno]}" if error.errno in REMEDIES else ""
        raise errors.Failure(f"{where} cannot be written: {error.strerror}{remedy}", errors.GUEST_FAILED) from error


def _complain(lines: Iterable[str]) -> None:
    """On standard error: where that cannot be written, there is nowhere to say so."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.writelines(f"{line}\n" for line in lines)
        sys.stderr.flush()
