"""Where the time of a run goes: native code, translation, each way out to Python, sleep; and which guest code is hot.

Costs nothing until it is attached: it is an `observing.Observer`. The time between two stays in native code belongs to the reason
for which the first one ended, whatever was done about it: Python, devices, the machine.

Hot code is found by *sampling*: every millisecond a thread asks native code to leave. It does so at the next block (or at an exit
before it), whose address is the sample. So nothing is added to translated code; a sample names the block behind the one that was
interrupted, and one long native function (REP MOVS) counts for what follows it. With the instruction clock, which such requests
would disturb, no samples are taken.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from iced_x86 import Mnemonic

from trapgate.hostcall import Helper
from trapgate.isa import state as s
from trapgate.soft.cpu import SoftVcpu

INTERVAL = 0.001  # s between samples
SAMPLE = 2  # in `request`: nobody waits, it is only a sample
ASLEEP = "asleep in HLT"
OURS = "samples of this profile"
REASONS = {
    s.EXIT_TRANSLATE: "a block that is not there yet",
    s.EXIT_INTERRUPTED: "an interrupt, a timer, a kick",
    s.EXIT_ACCESS: "a load or store that Python performs",
    s.EXIT_DELIVER: "an exception that Python delivers",
    s.EXIT_STEPPED: "the end of a step",
    s.EXIT_DEBUG: "a bus lock or other trap behind an instruction",
    s.EXIT_SEGMENT: "a segment check",
    s.EXIT_FETCH: "a fetch from where no RAM is",
    s.EXIT_BREAKPOINT: "a breakpoint",
    s.EXIT_REPEATING: "an interrupt or the like amid a repeated string instruction",
    s.EXIT_CRASHED: "a crash of translated code",
}
_NAMES = {value: name for name, value in vars(Mnemonic).items() if isinstance(value, int)}


@dataclass(slots=True)
class Spent:
    """How often, and how many ns in all."""

    count: int = 0
    time: int = 0

    def add(self, time_: int) -> None:
        """Once more."""
        self.count += 1
        self.time += time_


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sample was taken: linear address of a block, CPL."""

    address: int
    cpl: int


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
    """Measures a vCPU from now on, and adds it to `figures`.

    `resumed` and `paused` say when the machine runs; `close` ends the sampling thread.
    """

    def __init__(
        self,
        cpu: SoftVcpu,
        now: Callable[[], int] = time.perf_counter_ns,
        interval: float = INTERVAL,
        figures: Figures | None = None,
    ) -> None:
        self.figures = figures or Figures()
        self._cpu, self._now = cpu, now
        self._reason = ""  # why native code was left last; empty: the machine has not entered it since it was resumed
        self._left = 0  # when
        self._nested = 0  # ns of translation since
        self._begun = 0  # when what is under way began: native code, translation
        self._late = False  # a sample was asked for while Python ran: that is no guest code
        cpu.observe(self)
        self._running = False
        self._closing = threading.Event()
        self._thread = Helper("trapgate profile", partial(self._sample, interval))
        if not cpu.translator.counting:  # to be asked to leave changes what the instruction clock counts
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
        """Native code begins."""
        self._late = self._cpu.state.request == SAMPLE
        self._begun = self._now()
        self._settle(self._begun)

    def left(self) -> None:
        """Native code ends."""
        state = self._cpu.state
        self._left = self._now()
        self.figures.native += self._left - self._begun
        self._reason = self._why(state.exit_reason)
        if state.request == SAMPLE and not self._late:
            self.figures.samples[Place(self._cpu.linear(state.rip), state.cpl)] += 1

    def _why(self, reason: int) -> str:
        cpu = self._cpu
        state = cpu.state
        if state.request == SAMPLE and reason in (s.EXIT_INTERRUPTED, s.EXIT_REPEATING):
            return OURS
        if reason == s.EXIT_PORT:
            return f"{'OUT to' if state.exit_detail & s.PORT_OUT else 'IN from'} port {state.exit_detail & 0xFFFF:X}h"
        if reason != s.EXIT_INSTRUCTION:
            return REASONS[reason]
        number = state.exit_detail
        if number >= s.NATIVE_FALLBACK:
            return "a native function whose case is not plain"
        mnemonic = cpu.translator.instructions[number].mnemonic
        return ASLEEP if mnemonic == Mnemonic.HLT else f"{_NAMES[mnemonic]} in Python"

    def answered(self, reason: int) -> None:
        """A device's time is told by its page."""
        if reason == s.EXIT_ACCESS:
            self._reason = f"memory-mapped device at {self._cpu.state.walk_physical & ~0xFFF:X}h"

    def translating(self) -> None:
        """Translation begins."""
        self._begun = self._now()

    def translated(self) -> None:
        """Translation ends."""
        took = self._now() - self._begun
        self._nested += took
        self.figures.translation.add(took)

    def _sample(self, interval: float) -> None:
        state = self._cpu.state
        while not self._closing.wait(interval):
            if self._running and not state.request:
                state.request = SAMPLE  # a kick that comes in between is not lost: `_kicked` says so as well
