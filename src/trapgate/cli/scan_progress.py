"""Tells how far a scan is: a bar on a terminal, a line for each program elsewhere."""

import contextlib
import sys
from typing import Protocol


class Progress(Protocol):
    """Tells how far it is."""

    def done(self, command: str, words: str) -> None:
        """One more has been looked at; in words, what was found."""
        ...

    def close(self) -> None:
        """Leave the terminal to others."""
        ...


def say(text: str) -> None:
    """A line on standard error."""
    with contextlib.suppress(OSError, ValueError):
        print(f"trapgate: {text}", file=sys.stderr, flush=True)


class Lines:
    """A line each."""

    def __init__(self, whole: int, before: int) -> None:
        self._whole, self._done = whole, before
        if before:
            say(f"{before} of {whole} were looked at before")

    def done(self, command: str, words: str) -> None:
        """See `Progress`."""
        self._done += 1
        say(f"[{self._done}/{self._whole}] {command}: {words}")

    def close(self) -> None:
        """See `Progress`."""


class Bar:
    """A bar below the lines of those programs in which something was found, or that could not be looked at."""

    def __init__(self, whole: int, before: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("trapgate:"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        self._progress = Progress(*columns, console=Console(stderr=True, highlight=False, markup=False), transient=True)
        self._task = self._progress.add_task("", total=whole, completed=before)
        self._progress.start()

    def done(self, command: str, words: str) -> None:
        """See `Progress`."""
        if words != "nothing":
            self._progress.console.print(f"{command}: {words}", style=None)
        self._progress.update(self._task, advance=1, description=command[:40])

    def close(self) -> None:
        """See `Progress`."""
        self._progress.stop()
