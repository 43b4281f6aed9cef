"""What a target is: how its inputs look, what is run with one, and what may come out."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from fuzz.probes import Probes
from fuzz.targets import ROOMS

GIB = 1 << 30

Run = Callable[[bytes], str]
"""Runs one input and says in a few words how that ended; words that are new are as good as a new branch.

Anything that it raises is a finding: it catches what the code under test declares, and asserts what must hold.
"""


@dataclass(frozen=True, slots=True)
class Target:
    """One thing to fuzz.

    `first` are its first inputs, `lines` says whether they are text of lines, `words` what helps to make more. `memory`: bytes that
    the process may ask for from then on. `short`: changed inputs of a short session, as CI has it: a second or two. `plant` breaks
    the code under test in a way that only some inputs show: tests demand that a short session finds it.
    """

    run: Run
    first: Sequence[bytes]
    plant: Callable[[], None]
    lines: bool = False
    words: Sequence[bytes] = ()
    memory: int = GIB
    short: int = 2000


def without_numbers(text: str) -> str:
    """An error's words: what a run ended with, whatever the numbers were."""
    return re.sub(r"[\w.]*\d[\w.]*", "N", text)


def load(name: str) -> tuple[Target, Probes]:
    """A target with probes in its rooms, nothing of which may have been imported before."""
    probes = Probes(ROOMS[name])
    probes.install()
    target = import_module(f"fuzz.targets.{name}").TARGET
    assert isinstance(target, Target)
    assert probes.found == set(ROOMS[name]), f"rooms that are not there: {set(ROOMS[name]) - probes.found}"
    return target, probes
