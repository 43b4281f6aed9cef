"""`trapgate run --profile` tells where the time of a run went, as lines for the user."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from trapgate.machine import Machine
from trapgate.profile import Figures, Profile, Spent
from trapgate.symbols import Symbols, symbols_of
from trapgate.vcpu import Place

MOST_EXITS, MOST_PLACES = 15, 15
WORTH_TELLING = 1_000_000_000  # ns of a run until a debugger's stop tells the profile again


class Profiler:
    """Profiles a machine with the software CPU. `symbols`: files to take names from, else `image` if it has any. SymbolsError."""

    def __init__(self, machine: Machine, image: str, symbols: Sequence[str], tell: Callable[[str], None]) -> None:
        self._tell, self._told = tell, 0
        self._symbols = symbols_of(image, symbols)
        self._machine = machine
        self.profile = self._begin(Figures())
        machine.on_resume, machine.on_stop = lambda: self.profile.resumed(), lambda: self.profile.paused()

    def _begin(self, figures: Figures) -> Profile:
        return Profile([one.vcpu for one in self._machine.processors], figures=figures)

    def follow(self) -> None:
        """The machine has another CPU now: what it does is added."""
        self.profile.close()
        self.profile = self._begin(self.profile.figures)

    def close(self) -> None:
        """End the sampling."""
        self.profile.close()

    def stopped(self) -> None:
        """A debugger sees a stop: tell what is known, if enough is new."""
        total = self.profile.figures.total
        if total - self._told >= WORTH_TELLING:
            self._told = total
            self.report()

    def report(self) -> None:
        """Tell the profile so far."""
        for line in lines(self.profile.figures, self._symbols):
            self._tell(line)


def lines(figures: Figures, symbols: Symbols) -> Iterator[str]:
    """The profile as text, a table for each question: how much of what, why native code was left, which guest code is hot."""
    total = max(figures.total, 1)
    yield f"profile of {total / 1e9:.2f} s:"
    made = figures.translation
    parts = (
        ("native code", figures.native, ""),
        ("translation", made.time, f"{made.count:,} blocks, {_each(made)} us each" if made.count else ""),
        ("Python and devices", figures.python, ""),
        ("asleep in HLT", figures.asleep.time, f"{figures.asleep.count:,} times" if figures.asleep.count else ""),
    )
    for name, spent, more in parts:
        yield f"  {name:<20}{spent / 1e9:>9.3f} s {spent / total:>5.0%}   {more}".rstrip()
    yield f"{'native code was left for':<50}{'times':>10}{'s':>10}{'us each':>10}"
    exits = sorted(figures.exits.items(), key=lambda item: -item[1].time)
    shown, rest = exits[:MOST_EXITS], exits[MOST_EXITS:]
    if rest:
        shown.append((f"{len(rest)} more reasons", Spent(sum(one.count for _, one in rest), sum(one.time for _, one in rest))))
    for name, one in shown:
        yield f"  {name:<48}{one.count:>10,}{one.time / 1e9:>10.3f}{_each(one):>10}"
    yield from _hottest(figures.samples, symbols)


def _each(spent: Spent) -> str:
    return f"{spent.time / max(spent.count, 1) / 1e3:.1f}"


def _hottest(samples: Counter[Place], symbols: Symbols) -> Iterator[str]:
    """Samples by function where there is a name, else by block."""
    count = samples.total()
    if not count:
        yield "no samples of guest code were taken"
        return
    by_name: dict[str, Counter[Place]] = {}
    for place, times in samples.items():
        found = symbols.find(place.address)
        by_name.setdefault(found[0] if found else f"{place.address:#x}", Counter())[place] = times
    yield f"hottest guest code, by {count:,} samples of native code:"
    for name, places in sorted(by_name.items(), key=lambda item: -item[1].total())[:MOST_PLACES]:
        (place, _), *_ = places.most_common(1)
        where = "" if name == f"{place.address:#x}" else f", hottest at {place.address:#x}"
        yield f"  {places.total() / count:>6.1%}  {name} (CPL {place.cpl}{where})"
