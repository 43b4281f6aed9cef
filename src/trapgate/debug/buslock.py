"""Reports of bus locks: one line when a site is first seen, then at most one a second of guest time, with what came since."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from trapgate.exits import BusLock

REPEAT_NS = 1_000_000_000
MAX_SITES = 65536  # a guest can make sites without end; our memory has one


class Mode(Enum):
    """What `--bus-locks` asks for."""

    OFF = "off"
    REPORT = "report"
    STOP = "stop"


@dataclass(slots=True)
class Site:
    """One locking instruction: how often it locked the bus, and the last operand it did it with."""

    rip: int
    last: BusLock
    count: int = 0
    reported: int = 0  # how many of `count` the printed lines have told
    last_report: int = 0  # ns of guest time


@dataclass(frozen=True, slots=True)
class Outcome:
    """What to do about one bus lock: print `line` if there is one, stop the guest if `stop`."""

    line: str | None
    stop: bool


def why(lock: BusLock, line_size: int) -> str:
    """Why an access locked the bus: it crosses a cache line of `line_size` bytes, or its memory is not write-back."""
    return f"crosses a {line_size}-byte line" if lock.address % line_size + lock.size > line_size else "memory is not write-back"


@dataclass
class BusLockLog:
    """Counts bus locks by site and decides which of them are told.

    `now` gives guest time in ns. `describe` turns an address into a place (symbol, line); its result follows RIP in the line.
    """

    mode: Mode
    now: Callable[[], int]
    line_size: int = 64
    describe: Callable[[int], str] = lambda address: ""
    _sites: dict[int, Site] = field(default_factory=dict)
    total: int = 0
    unlisted: int = 0  # locks at sites beyond MAX_SITES

    def record(self, lock: BusLock) -> Outcome:
        """Count one bus lock and say whether it makes a line and whether it stops the guest. In mode OFF nothing is counted."""
        if self.mode is Mode.OFF:
            return Outcome(None, False)
        self.total += 1
        stop = self.mode is Mode.STOP
        site = self._sites.get(lock.rip)
        if site is None:
            if len(self._sites) >= MAX_SITES:
                self.unlisted += 1
                return Outcome(self._line(lock, 0) if stop else None, stop)
            site = self._sites[lock.rip] = Site(lock.rip, lock)
        site.count += 1
        site.last = lock
        now = self.now()
        if not stop and site.reported and now - site.last_report < REPEAT_NS:
            return Outcome(None, False)
        line = self._line(lock, site.count - site.reported - 1)
        site.reported = site.count
        site.last_report = now
        return Outcome(line, stop)

    def sites(self) -> list[Site]:
        """Every site, the busiest first."""
        return sorted(self._sites.values(), key=lambda site: (-site.count, site.rip))

    def summary(self, most: int = 10) -> list[str]:
        """What to print at the end: the total and the `most` busiest sites, one line each; nothing when there was no bus lock."""
        if not self.total:
            return []
        sites = self.sites()
        lines = [f"{self.total} bus lock{'s' * (self.total != 1)} at {len(sites)} place{'s' * (len(sites) != 1)}"]
        lines += [f"  {site.count:>8} x {self._place(site.rip)}" for site in sites[:most]]
        if len(sites) > most:
            lines.append(f"  and {len(sites) - most} more places")
        if self.unlisted:
            lines.append(f"  and {self.unlisted} at places beyond the first {MAX_SITES}, not listed")
        return lines

    def _place(self, rip: int) -> str:
        place = self.describe(rip)
        return f"{rip:#x} ({place})" if place else f"{rip:#x}"

    def _line(self, lock: BusLock, skipped: int) -> str:
        more = f"; {skipped} more since the last line" if skipped else ""
        return (
            f"bus lock at {self._place(lock.rip)}: {lock.size} bytes at {lock.address:#x}, "
            f"{why(lock, self.line_size)}, CPL {lock.cpl}{more}"
        )
