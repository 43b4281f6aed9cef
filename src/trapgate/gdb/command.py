"""Says what a `monitor` command is."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field

from trapgate.gdb.target import Target
from trapgate.values import dataclass


class MonitorError(Exception):
    """A command that cannot be understood; one line for the user."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its words, then names of arguments (in brackets when optional)."""

    words: str
    arguments: str
    help: str
    run: Callable[[Target, int, list[int]], Iterator[str]]
    offered: Callable[[Target], bool] = lambda target: True
    names: Mapping[str, int] = field(default_factory=dict)
    """Words that may stand for numbers."""
    decimal: bool = False
    """Whether its numbers are decimal."""
    named: Callable[[Target, str], Iterator[str]] | None = None
    """Takes its one argument as it is typed, instead of `run`."""

    def accepts(self, count: int) -> bool:
        """Whether it can have so many arguments."""
        names = self.arguments.split()
        return sum(not name.startswith("[") for name in names) <= count <= len(names)
