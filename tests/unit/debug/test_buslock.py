"""Bus-lock reports: lines, collapsing, modes, bounds."""

import pytest

from trapgate.debug import buslock
from trapgate.debug.buslock import BusLockLog, Described, LimitState, Mode, Outcome
from trapgate.encoding import decode, encode
from trapgate.exits import BusLock

SPLIT = BusLock(rip=0x401000, address=0x60003D, size=4, cpl=3)


class Hand:
    """A clock moved by hand; ns."""

    def __init__(self) -> None:
        self.moment = 0

    def __call__(self) -> int:
        return self.moment


def test_first_lock_makes_a_line() -> None:
    log = BusLockLog(Mode.REPORT, Hand())
    assert log.record(SPLIT) == Outcome("bus lock at 0x401000: 4 bytes at 0x60003d, crosses a 64-byte line, CPL 3", False)


def test_repeats_collapse_to_one_line_a_second() -> None:
    hand = Hand()
    log = BusLockLog(Mode.REPORT, hand)
    lines = []
    for _ in range(1000):
        hand.moment += 2_500_000  # 2.5 s in all
        lines.append(log.record(SPLIT).line)
    told = [line for line in lines if line]
    assert len(told) == 3
    assert told[1].endswith("; 399 more since the last line")
    assert log.total == log.sites()[0].count == 1000


def test_sites_do_not_hide_each_other() -> None:
    log = BusLockLog(Mode.REPORT, Hand())
    others = [BusLock(0x401000 + n, 0x60003D, 4, 3) for n in range(5)]
    assert all(log.record(lock).line for lock in others)
    assert not any(log.record(lock).line for lock in others)


def test_stop_tells_every_one() -> None:
    log = BusLockLog(Mode.STOP, Hand())
    outcomes = [log.record(SPLIT) for _ in range(3)]
    assert all(one.stop and one.line for one in outcomes)


def test_off_counts_nothing() -> None:
    log = BusLockLog(Mode.OFF, Hand())
    assert log.record(SPLIT) == Outcome(None, False)
    assert log.summary() == []


@pytest.mark.parametrize(
    ("address", "size", "line_size", "split"),
    [(60, 4, 64, False), (61, 4, 64, True), (56, 8, 64, False), (57, 8, 64, True), (0x3C, 8, 64, True), (28, 8, 32, True)],
)
def test_reason(address: int, size: int, line_size: int, split: bool) -> None:
    text = buslock.why(BusLock(0, address, size, 0), line_size)
    assert text == (f"crosses a {line_size}-byte line" if split else "memory is not write-back")


def test_places_and_summary() -> None:
    log = BusLockLog(Mode.REPORT, Hand(), describe=lambda lock, cpu: Described("main.c:7" if lock.rip == 0x401000 else ""))
    for _ in range(3):
        log.record(SPLIT)
    for n in range(12):
        log.record(BusLock(0x500000 + n, 0x60003D, 8, 0))
    lines = log.summary(most=2)
    assert lines[0] == "15 bus locks at 13 places"
    assert lines[1].split() == ["3", "x", "0x401000", "(main.c:7)"]
    assert lines[3] == "  and 11 more places"
    assert len(lines) == 4


def test_who_called_follows_the_first_line_of_a_site_alone() -> None:
    hand, asked = Hand(), list[tuple[int, int]]()

    def describe(lock: BusLock, cpu: int) -> Described:
        asked.append((lock.rip, cpu))
        hand.moment += 2 * buslock.SECOND_NS  # as long as a search for a kernel takes, in a guest whose time is the host's
        return Described("here", ("  by one", "  #0  here"))

    log, stopping = (BusLockLog(mode, hand, describe=describe) for mode in (Mode.REPORT, Mode.STOP))
    first = log.record(SPLIT, 1).line
    assert first is not None
    assert first.splitlines()[1:] == ["  by one", "  #0  here"]
    assert log.record(SPLIT, 0).line is None
    hand.moment += buslock.SECOND_NS
    later = log.record(SPLIT, 0).line
    assert later is not None
    assert ("(here)" in later, "\n" in later, asked) == (True, False, [(SPLIT.rip, 1)])
    stopped = stopping.record(SPLIT).line
    assert stopped is not None
    assert "\n" not in stopped


def test_sites_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buslock, "MAX_SITES", 3)
    log = BusLockLog(Mode.REPORT, Hand())
    for rip in range(10):
        log.record(BusLock(rip, 61, 4, 3))
    assert len(log.sites()) == 3
    assert (log.total, log.unlisted) == (10, 7)
    assert "7 at places beyond the first 3" in log.summary()[-1]


@pytest.mark.parametrize("limit", [1, 3, 1000])
@pytest.mark.parametrize("pace", [1, 100_000, 330_000_000, 2_000_000_000])
def test_in_no_second_more_than_the_limit_go_through(limit: int, pace: int) -> None:
    hand = Hand()
    log = BusLockLog(Mode.LIMIT, hand, limit)
    through = []
    for _ in range(3 * limit + 2):
        outcome = log.record(SPLIT)
        assert not outcome.stop
        hand.moment = max(hand.moment, outcome.hold or 0)
        through.append(hand.moment)
        hand.moment += pace
    assert all(later - earlier >= 1_000_000_000 for earlier, later in zip(through, through[limit:], strict=False))
    if limit * pace >= 1_000_000_000:  # who keeps to it is not held
        assert through[-1] == pace * (len(through) - 1)


def test_a_limit_reports_as_well() -> None:
    log = BusLockLog(Mode.LIMIT, Hand(), 10)
    assert log.record(SPLIT).line is not None
    assert log.record(SPLIT).line is None
    assert log.summary()[0] == "2 bus locks at 1 place"


def test_a_limit_that_was_loaded_goes_on_as_the_saved_one() -> None:
    times = [0, 1, 2, 3, 1_500_000_000, 1_600_000_000, 1_700_000_000]
    hand = Hand()
    saved, loaded, lower = (BusLockLog(Mode.LIMIT, hand, limit=limit) for limit in (3, 3, 1))
    for hand.moment in times[:4]:
        saved.record(SPLIT)
    state = decode(encode(saved.save()), LimitState)
    for other in (loaded, lower):
        other.load(state)
    assert loaded.save() == state
    assert lower.save() == LimitState(state.recent[-1:])
    for hand.moment in times[4:]:
        assert loaded.record(SPLIT).hold == saved.record(SPLIT).hold
    off = BusLockLog(Mode.OFF, lambda: 0)
    off.load(state)
    assert off.save() == LimitState(())


def test_who_hears_of_each_may_have_more_tallied() -> None:
    heard: list[tuple[BusLock, int | None]] = []
    log = BusLockLog(Mode.REPORT, Hand(), levels=(3,))

    def hear(lock: BusLock, cpu: int | None) -> None:
        heard.append((lock, cpu))

    log.heard = hear
    assert log.record(SPLIT, 1).tally is None
    assert log.record(BusLock(0x1000, 0x103F, 4, 0)).tally is None
    assert heard == [(SPLIT, 1)]
    counts: list[int] = []
    log.heard = lambda lock, cpu: counts.append
    for _ in range(2):
        tally = log.record(SPLIT).tally
        assert tally is not None
        tally(3)
    assert counts == [3, 3]
