"""The signal that ends KVM_RUN: blocked where a vCPU may be kicked, and nowhere behind the last one."""

import signal
import threading
from collections.abc import Callable

import pytest

from trapgate.kvm import kicks
from trapgate.kvm.kicks import KICK, Kicks


@pytest.fixture(autouse=True)
def first(monkeypatch: pytest.MonkeyPatch) -> None:
    """No vCPU ran in this thread before, one that nobody closed least of all."""
    monkeypatch.setattr(kicks, "_here", threading.local())


def blocked() -> bool:
    return KICK in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def elsewhere(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_the_last_vcpu_of_a_thread_lets_it_through() -> None:
    one, other = Kicks(), Kicks()
    one.hold_back()
    other.hold_back()
    one.let_through()
    assert blocked()
    other.let_through()
    assert not blocked()


def test_a_kick_that_nobody_waited_for_ends_nothing() -> None:
    one = Kicks()
    one.hold_back()
    signal.pthread_kill(threading.get_ident(), KICK)
    one.let_through()
    assert not blocked()
    assert KICK not in signal.sigpending()


def test_who_blocked_it_before_keeps_it_so() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {KICK})
    one = Kicks()
    one.hold_back()
    one.let_through()
    assert blocked()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {KICK})


def test_a_vcpu_that_ran_in_two_threads_leaves_both() -> None:
    one = Kicks()
    one.hold_back()
    elsewhere(one.hold_back)
    one.let_through()
    assert not blocked()
    one.hold_back()
    elsewhere(lambda: (one.hold_back(), one.let_through()))
    assert blocked()  # a thread's signals are its own
    other = Kicks()
    other.hold_back()
    other.let_through()
    assert not blocked()
