"""Helper threads that are held back until all is ready."""

import threading

import pytest

from trapgate.hostcall import Helper, held_back


def test_helpers_that_are_held_back_start_at_the_end_in_order() -> None:
    ran: list[int] = []
    helpers = [Helper(f"number {n}", lambda n=n: ran.append(n)) for n in range(5)]  # type: ignore[misc]
    before = threading.active_count()
    with held_back():
        for one in helpers:
            one.start()
            one.join()  # there is nothing to wait for yet
        assert (threading.active_count(), ran) == (before, [])
    for one in helpers:
        one.join()
    assert sorted(ran) == [0, 1, 2, 3, 4]


def start_and_fail(helper: Helper) -> None:
    with held_back():
        helper.start()
        raise ZeroDivisionError


def test_none_starts_where_something_failed() -> None:
    ran: list[int] = []
    helper = Helper("one", lambda: ran.append(1))
    with pytest.raises(ZeroDivisionError):
        start_and_fail(helper)
    helper.join()
    assert not helper.is_alive() and not ran
    helper.start()
    helper.join()
    assert ran == [1], "no longer held back"
