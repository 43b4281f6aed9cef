"""Reports bus locks: one line when a site is first seen, then at most one a second of guest time, with what came since.

A limit also holds the guest back, whatever its privilege level: after a bus lock that comes too soon it waits until its second is
over, so that only so many a second go through, as with Linux' split_lock_detect=ratelimit. A guest that keeps to the limit is not
held.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import field
from enum import Enum
from typing import Annotated

from trapgate.clock import Moment
from trapgate.exits import BusLock
from trapgate.state import Length, State
from trapgate.values import dataclass

SECOND_NS = 1_000_000_000
LIMIT_MOST = 1000  # bus locks a second, as Linux has it for split_lock_detect=ratelimit
EVERY_LEVEL, USER_LEVEL, KERNEL_LEVELS = (0, 1, 2, 3), (3,), (0, 1, 2)  # CPLs
MAX_SITES = 65536  # a guest can make sites without end; our memory has one


class Mode(Enum):
    """What `--bus-locks` asks for."""

    OFF = "off"
    REPORT = "report"
    STOP = "stop"
    LIMIT = "limit"  # report, and at most so many a second


@dataclass(frozen=True, slots=True)
class Described:
    """An instruction that locked the bus in words: its `place` (symbol, line), and a line each for who called."""

    place: str = ""
    callers: tuple[str, ...] = ()


@dataclass(slots=True)
class Site:
    """One locking instruction: how often it locked the bus, the last operand it did it with, and where it was the first time."""

    rip: int
    last: BusLock
    place: str = ""
    count: int = 0
    reported: int = 0  # how many of `count` the printed lines have told
    last_report: int = 0  # ns of guest time


@dataclass(frozen=True, slots=True)
class Outcome:
    """What to do about one bus lock: print `line` if there is one, stop the guest if `stop`, or hold it until that moment (ns).

    `tally`: more of the same need not be told one by one, if it hears how many they were.
    """

    line: str | None
    stop: bool
    hold: int | None = None
    tally: Callable[[int], None] | None = None


def why(lock: BusLock, line_size: int) -> str:
    """Why an access locked the bus: it crosses a cache line of `line_size` bytes, or its memory is not write-back."""
    return f"crosses a {line_size}-byte line" if lock.address % line_size + lock.size > line_size else "memory is not write-back"


@dataclass(frozen=True, slots=True)
class LimitState(State):
    """When the guest could go on after each of the last bus locks that a limit let through."""

    recent: Annotated[tuple[Moment, ...], Length(0, LIMIT_MOST)]


@dataclass(slots=True)
class BusLockLog:
    """Counts bus locks by site and decides which of them are told.

    `now` gives guest time in ns. `limit` is how many go through in a second in mode LIMIT, 1 to `LIMIT_MOST`. `levels`: the CPLs
    that count. `describe` is asked at the first of each site, with the number of the CPU; the place follows RIP in the line, which
    those who called follow. `heard` is told of each that counts, amid the run, with the number of the CPU if there are several, and
    may have more of the same tallied.
    """

    mode: Mode
    now: Callable[[], int]
    limit: int = 0
    line_size: int = 64
    levels: tuple[int, ...] = EVERY_LEVEL
    describe: Callable[[BusLock, int], Described] = lambda lock, cpu: Described()
    heard: Callable[[BusLock, int | None], Callable[[int], None] | None] = lambda lock, cpu: None
    _sites: dict[int, Site] = field(default_factory=dict)
    total: int = 0
    unlisted: int = 0  # locks at sites beyond MAX_SITES
    _recent: deque[int] = field(default_factory=deque)  # when the guest could go on behind the last `limit` locks

    def __post_init__(self) -> None:
        assert self.mode is not Mode.LIMIT or 1 <= self.limit <= LIMIT_MOST, self.limit

    def record(self, lock: BusLock, cpu: int | None = None) -> Outcome:
        """Count one bus lock and say whether it makes a line, and stops the guest. Not counted: in mode OFF, at other levels.

        `cpu`: the number of the CPU that locked, if there are several.
        """
        if self.mode is Mode.OFF or lock.cpl not in self.levels:
            return Outcome(None, False)
        self.total += 1
        tally = self.heard(lock, cpu)
        now, stop = self.now(), self.mode is Mode.STOP
        hold = self._hold(now) if self.mode is Mode.LIMIT else None
        site, described = self._sites.get(lock.rip), None
        if site is None:
            if len(self._sites) >= MAX_SITES:
                self.unlisted += 1
                return Outcome(self._line(lock, self.describe(lock, cpu or 0).place, 0, cpu) if stop else None, stop, hold)
            described = self.describe(lock, cpu or 0)
            site = self._sites[lock.rip] = Site(lock.rip, lock, described.place)
        site.count += 1
        site.last = lock
        if not stop and site.reported and now - site.last_report < SECOND_NS:
            return Outcome(None, False, hold, tally)
        line = self._line(lock, site.place, site.count - site.reported - 1, cpu)
        if described is not None and not stop:  # a debugger that is stopped at it can see for itself
            line = "\n".join((line, *described.callers))
        site.reported = site.count
        site.last_report = now if described is None else self.now()  # looking it up takes time of a guest that follows the host's
        return Outcome(line, stop, hold, tally)

    def _hold(self, now: int) -> int | None:
        """When the guest may go on behind a bus lock, if not at once: a second after the one `limit` before it."""
        earliest = self._recent.popleft() + SECOND_NS if len(self._recent) == self.limit else now
        self._recent.append(max(now, earliest))
        return earliest if earliest > now else None

    def save(self) -> LimitState:
        """What a limit looks at. What was counted and told is the run's, not the guest's."""
        return LimitState(tuple(self._recent))

    def load(self, state: LimitState) -> None:
        """What a limit looks at; the last of it where this one has a lower limit. Sites are told again when they lock next."""
        self.restart()
        self._recent.extend(state.recent[-self.limit :] if self.limit else ())

    def restart(self) -> None:
        """Guest time begins at 0 again; what was counted stays."""
        self._recent.clear()
        for site in self._sites.values():
            site.last_report = -SECOND_NS

    def sites(self) -> list[Site]:
        """Every site, the busiest first."""
        return sorted(self._sites.values(), key=lambda site: (-site.count, site.rip))

    def summary(self, most: int = 10) -> list[str]:
        """What to print at the end: the total and the `most` busiest sites, one line each; nothing when there was no bus lock."""
        if not self.total:
            return []
        sites = self.sites()
        lines = [f"{self.total} bus lock{'s' * (self.total != 1)} at {len(sites)} place{'s' * (len(sites) != 1)}"]
        lines += [f"  {site.count:>8} x {_place(site.rip, site.place)}" for site in sites[:most]]
        if len(sites) > most:
            lines.append(f"  and {len(sites) - most} more places")
        if self.unlisted:
            lines.append(f"  and {self.unlisted} at places beyond the first {MAX_SITES}, not listed")
        return lines

    def line(self, lock: BusLock, cpu: int | None) -> str:
        """A bus lock as a line for whoever has asked to stop at each."""
        return self._line(lock, self.describe(lock, cpu or 0).place, 0, cpu)

    def _line(self, lock: BusLock, place: str, skipped: int, cpu: int | None) -> str:
        by = "" if cpu is None else f", CPU {cpu}"
        more = f"; {skipped} more since the last line" if skipped else ""
        return (
            f"bus lock at {_place(lock.rip, place)}: {lock.size} bytes at {lock.address:#x}, "
            f"{why(lock, self.line_size)}, CPL {lock.cpl}{by}{more}"
        )


def _place(rip: int, place: str) -> str:
    return f"{rip:#x} ({place})" if place else f"{rip:#x}"
