"""Tells where the time of a run goes: native code, translation, each way out to Python, sleep; and which guest code is hot.

Costs nothing until it is attached: it is a `vcpu.Observer`. The time between two stays in native code belongs to the reason
for which the first one ended, whatever was done about it: Python, devices, the machine.

Hot code is found by *sampling*: every millisecond a thread asks native code to leave. It does so at the next block (or at an exit
before it), whose address is the sample. So nothing is added to translated code; a sample names the block behind the one that was
interrupted, and one long native function (REP MOVS) counts for what follows it. With the instruction clock, which such requests
would disturb, no samples are taken.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import field
from functools import partial

from trapgate.hostcall import Helper
from trapgate.values import dataclass
from trapgate.vcpu import ASLEEP, Place, Vcpu

INTERVAL = 0.001  # s between samples


@dataclass(slots=True)
class Spent:
    """How often, and how many ns in all."""

    count: int = 0
    time: int = 0

    def add(self, time_: int) -> None:
        """Once more."""
        self.count += 1
        self.time += time_


@dataclass(slots=True)
class Figures:
    """What was measured so far. Times in ns; `exits` by reason without `asleep`; translation is in no exit's time."""

    native: int = 0
    translation: Spent = field(default_factory=Spent)
    asleep: Spent = field(default_factory=Spent)
    exits: dict[str, Spent] = field(default_factory=dict)
    samples: Counter[Place] = field(default_factory=Counter)

    @property
    def python(self) -> int:
        """ns in Python, translation and sleep not among them."""
        return sum(one.time for one in self.exits.values())

    @property
    def total(self) -> int:
        """ns of the whole run, stops under a debugger not among them."""
        return self.native + self.translation.time + self.asleep.time + self.python


class Profile:
    """Measures vCPUs, which take turns on one thread, from now on, and adds it to `figures`.

    `resumed` and `paused` say when the machine runs; `close` ends the sampling thread.
    """

    def __init__(
        self,
        vcpus: Sequence[Vcpu],
        now: Callable[[], int] = time.perf_counter_ns,
        interval: float = INTERVAL,
        figures: Figures | None = None,
    ) -> None:
        self.figures = figures or Figures()
        self._vcpus, self._now = vcpus, now
        self._reason = ""  # why native code was left last; empty: the machine has not entered it since it was resumed
        self._left = 0  # when
        self._nested = 0  # ns of translation since
        self._begun = 0  # when what is under way began: native code, translation
        for vcpu in vcpus:
            vcpu.observe(self)
        self._running = False
        self._closing = threading.Event()
        self._thread = Helper("trapgate profile", partial(self._sample, interval))
        self._thread.start()

    def resumed(self) -> None:
        """The machine runs from here."""
        self._running, self._reason, self._left, self._nested = True, "", self._now(), 0

    def paused(self) -> None:
        """The machine has stopped."""
        self._running = False
        self._settle(self._now())
        self._reason = ""

    def close(self) -> None:
        """End the sampling thread."""
        self._closing.set()
        self._thread.join()

    def _settle(self, now: int) -> None:
        """Book the time since native code was left."""
        spent, figures = now - self._left - self._nested, self.figures
        self._nested = 0
        if self._reason == ASLEEP:
            figures.asleep.add(spent)
        elif self._reason:
            exit_ = figures.exits.get(self._reason)
            if exit_ is None:
                exit_ = figures.exits[self._reason] = Spent()
            exit_.add(spent)

    def entering(self) -> None:
        """Guest code begins."""
        self._begun = self._now()
        self._settle(self._begun)

    def left(self) -> None:
        """Guest code ends."""
        self._left = self._now()
        self.figures.native += self._left - self._begun

    def because(self, why: str, sample: Place | None) -> None:
        """Why that was so, and where, if it is a sample."""
        self._reason = why
        if sample is not None:
            self.figures.samples[sample] += 1

    def answered(self, why: str) -> None:
        """A device's time is told by its page."""
        self._reason = why

    def translating(self) -> None:
        """Translation begins."""
        self._begun = self._now()

    def translated(self) -> None:
        """Translation ends."""
        took = self._now() - self._begun
        self._nested += took
        self.figures.translation.add(took)

    def _sample(self, interval: float) -> None:
        while not self._closing.wait(interval):
            if self._running and not all([vcpu.sample() for vcpu in self._vcpus]):
                return
