"""Guest time and its timers."""

import time
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from trapgate.clock import FAR, HostClock, InstructionClock, TimerState


def test_timers_run_in_order_of_deadline_then_of_request() -> None:
    clock, seen = InstructionClock(lambda: 0), list[str]()
    clock.at(20, lambda: seen.append("late"))
    clock.at(10, lambda: seen.append("first"))
    clock.at(10, lambda: seen.append("second"))
    clock.at(30, lambda: seen.append("never"))
    clock.skip_to(20)
    clock.run_due()
    assert seen == ["first", "second", "late"]
    assert clock.next_deadline() == 30


def test_cancelled_timers_are_gone() -> None:
    clock, seen = InstructionClock(lambda: 0), list[int]()
    timer = clock.at(10, lambda: seen.append(1))
    timer.cancel()
    assert clock.next_deadline() is None
    clock.skip_to(10)
    clock.run_due()
    assert not seen


def test_a_timer_may_cancel_one_that_is_due_too() -> None:
    clock, seen = InstructionClock(lambda: 0), list[int]()
    clock.at(5, lambda: second.cancel())
    second = clock.at(6, lambda: seen.append(2))
    clock.skip_to(10)
    clock.run_due()
    assert not seen


def test_timers_that_set_timers_cannot_hold_the_guest_up() -> None:
    executed = 0

    def count() -> int:
        nonlocal executed
        executed += 1  # time goes on while callbacks run
        return executed

    clock, runs = InstructionClock(count), 0

    def again() -> None:
        nonlocal runs
        runs += 1
        clock.at(clock.now() + 1, again)

    clock.at(0, again)
    clock.run_due()
    assert runs == 1


def test_cancelled_timers_do_not_pile_up() -> None:
    clock, seen = InstructionClock(lambda: 0), list[int]()
    for moment in range(100):
        clock.at(moment, lambda moment=moment: seen.append(moment))  # type: ignore[misc]
    for _ in range(10_000):
        clock.at(1 << 62, lambda: None).cancel()
    assert len(clock._timers) < 1000
    clock.skip_to(100)
    clock.run_due()
    assert seen == list(range(100))


def test_instruction_clock_counts_and_skips_forward_only() -> None:
    executed = [0]
    clock = InstructionClock(lambda: executed[0])
    executed[0] = 100
    clock.skip_to(1000)
    clock.skip_to(50)
    executed[0] += 5
    assert clock.now() == 1005
    clock.pause()
    clock.resume()
    assert clock.now() == 1005


def test_host_clock_follows_the_host_but_for_pauses() -> None:
    clock = HostClock()
    start = time.monotonic_ns()
    clock.pause()
    clock.pause()
    stopped = clock.now()
    time.sleep(0.02)
    assert clock.now() == stopped
    clock.resume()
    clock.resume()
    assert stopped <= clock.now() <= stopped + time.monotonic_ns() - start - 20_000_000 + 5_000_000


@given(st.lists(st.integers(0, 1000)), st.integers(0, 1000))
def test_exactly_the_due_ones_run(deadlines: list[int], moment: int) -> None:
    clock, seen = InstructionClock(lambda: 0), list[int]()
    for deadline in deadlines:
        clock.at(deadline, lambda deadline=deadline: seen.append(deadline))  # type: ignore[misc]
    clock.skip_to(moment)
    clock.run_due()
    assert seen == sorted(deadline for deadline in deadlines if deadline <= moment)
    assert clock.next_deadline() == min((deadline for deadline in deadlines if deadline > moment), default=None)


def test_the_host_clock_tells_how_long_it_has_stood_still() -> None:
    clock = HostClock()
    clock.pause()
    first = clock.stood()
    second = clock.stood()
    assert 0 <= first <= second
    clock.resume()
    clock.pause()
    assert clock.stood() >= second  # the first pause counts on


def test_guest_time_can_be_moved_and_no_timer_is_left() -> None:
    counted, host = InstructionClock(lambda: 1000), HostClock()
    host.pause()
    for clock in (counted, host):
        heard: list[int] = []
        timer = clock.at(clock.now(), lambda heard=heard: heard.append(1))  # type: ignore[misc]
        state = replace(clock.save(), now=5_000_000)
        clock.fresh = False
        clock.load(state)
        assert clock.fresh
        assert clock.now() == 5_000_000
        assert clock.save() == state
        clock.run_due()
        assert clock.next_deadline() is None
        other = clock.again(timer, TimerState(FAR, 3), lambda: None)
        assert other is not None
        assert other.save() == TimerState(FAR, 3)
        assert timer.cancelled
        assert clock.next_deadline() is None
        assert clock.again(other, None, lambda: None) is None
        assert other.cancelled
        clock.again(None, TimerState(1, 1), lambda heard=heard: heard.append(2))  # type: ignore[misc]
        clock.run_due()
        assert heard == [2]
    stood = host.stood()
    host.resume()
    assert 5_000_000 <= host.now() < 10**12
    assert host.stood() < stood + 10**12


def test_a_moment_beyond_all_time_is_never() -> None:
    clock = InstructionClock(lambda: 0)
    assert [clock.at(deadline, lambda: None).save().deadline for deadline in (-5, FAR + 5)] == [0, FAR]


def test_who_waits_hears_of_timers_that_are_due_before_those_that_it_has_seen() -> None:
    host, counted = HostClock(), InstructionClock(lambda: 0)
    for clock, later in ((host, False), (counted, True)):  # where instructions are counted, of all: runs repeat
        clock.at(10**15, lambda: None)
        assert clock.fresh
        clock.look()
        assert not clock.fresh
        clock.at(2 * 10**15, lambda: None)
        assert clock.fresh == later
        clock.at(10**14, lambda: None)
        assert clock.fresh
