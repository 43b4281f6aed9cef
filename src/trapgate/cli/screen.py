"""Prints what commands say, by rich; but a reader that leaves ends them as for any other output (exit status 141, never 1)."""

from typing import NoReturn

from rich.console import Console


class Screen(Console):
    """A Console that lets BrokenPipeError through: `main.status_of` makes an exit status of it."""

    def on_broken_pipe(self) -> NoReturn:
        """Called by rich inside its handler of BrokenPipeError; its own way would be to exit with 1, which is a verdict here."""
        raise BrokenPipeError
