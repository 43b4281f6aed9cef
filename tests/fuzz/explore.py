"""The loop: choose an input, change it, run it, judge it, keep it when it reached something new."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fuzz import corpus
from fuzz.mutate import Mutator, Words
from fuzz.probes import HITS, MOST, Probes
from fuzz.target import Target
from peak import Peak

_NONE = bytes(MOST)
GROWTH = 256 << 20  # bytes of resident memory that one input may make it grow by


class Finding(Exception):
    """What an input did that nothing may do; the cause is the error itself."""

    def __init__(self, data: bytes, what: str) -> None:
        super().__init__(what)
        self.data = data


@dataclass(slots=True)
class Entry:
    """An input that reached something new, and how often it was chosen since."""

    data: bytes
    chosen: int = 0


class Explorer:
    """One target in this process. `announce` is told of each input before it runs, with the number of runs so far."""

    def __init__(self, target: Target, probes: Probes, seed: int, announce: Callable[[int, bytes], None]) -> None:
        self._announce = announce
        self._random = random.Random(seed)
        self._target = target
        words = Words(sorted(probes.integers), sorted(probes.texts), target.words)
        self._mutator = Mutator(self._random, words, target.lines)
        self._seen = 0  # a bit for each probe that ran
        self._ends = set[str]()
        self.kept: list[Entry] = []
        self.runs = 0

    @property
    def reached(self) -> int:
        """Branches and ends seen so far."""
        return self._seen.bit_count() + len(self._ends)

    def trial(self, data: bytes) -> bool:
        """Run an input; whether it reached something new. Finding."""
        self._announce(self.runs, data)
        self.runs += 1
        HITS[:] = _NONE
        with Peak() as peak:
            try:
                end = self._target.run(data)
            except Exception as error:
                raise Finding(data, f"{type(error).__name__}: {error}") from error
        if peak.grown > GROWTH:
            raise Finding(data, f"memory grew by {peak.grown >> 20} MiB")
        reached = self._seen | int.from_bytes(HITS, "little")
        if reached == self._seen and end in self._ends:
            return False
        self._seen = reached
        self._ends.add(end)
        return True

    def replay(self, inputs: Iterable[bytes]) -> None:
        """Run inputs and keep those that reach something new. Finding."""
        for data in inputs:
            if self.trial(data):
                self.kept.append(Entry(data))

    def step(self) -> None:
        """One changed input. Finding."""
        if not self.kept:
            self.kept.append(Entry(b""))
        one, other = self._random.choice(self.kept), self._random.choice(self.kept)
        parent = min(one, other, key=lambda entry: entry.chosen)
        parent.chosen += 1
        data = self._mutator.mutated(parent.data, [self._random.choice(self.kept).data])
        if self.trial(data):
            self.kept.append(Entry(data))

    def shortest(self) -> list[bytes]:
        """Few and short inputs that reach together what all that were kept do."""
        inputs = sorted((entry.data for entry in self.kept), key=lambda data: (len(corpus.line_of(data)), data))
        self._seen, self._ends = 0, set()
        return [data for data in inputs if self.trial(data)]
