"""Shows what the user sees while a machine is made: a bar while the CPU is compiled, a line for what is less than expected."""

from collections.abc import Callable

import click

_told: set[str] = set()  # what the user knows already: a run opens the cache at its start and at its end


class Compiling:
    """A bar on standard error for the compilation of stencils; nothing (and no library loaded for it) until it moves."""

    def __init__(self) -> None:
        self._stop: Callable[[], None] = lambda: None
        self._update: Callable[[int, int], None] | None = None

    def __enter__(self) -> Callable[[int, int], None]:
        return self._move

    def __exit__(self, *error: object) -> None:
        self._stop()

    def _move(self, done: int, total: int) -> None:
        if self._update is None:
            self._update = self._start()
        self._update(done, total)

    def _start(self) -> Callable[[int, int], None]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("compiling the CPU, once:"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        console = Console(stderr=True)
        if not console.is_terminal:
            return lambda done, total: None
        bar = Progress(*columns, console=console, transient=True)
        task = bar.add_task("")
        bar.start()
        self._stop = bar.stop
        return lambda done, total: bar.update(task, completed=done, total=total)


def tell_once(note: str) -> None:
    """A line about what is less than the user may expect, once."""
    if note not in _told:
        click.echo(f"trapgate: {note}", err=True)
        _told.add(note)
