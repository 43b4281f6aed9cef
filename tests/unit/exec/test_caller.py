"""What the kernel says of this process, and that looking changes nothing."""

import os
import signal

import pytest

from trapgate.exec import caller


@pytest.mark.parametrize("mask", [0o077, 0, 0o22])
def test_the_umask_is_seen_and_stays(mask: int) -> None:
    before = os.umask(mask)
    try:
        assert (caller.umask(), caller.umask()) == (mask, mask)
    finally:
        assert os.umask(before) == mask


def test_ignored_signals_are_seen_but_not_those_that_python_ignores() -> None:
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
    for number in (signal.SIGUSR2, signal.SIGRTMAX):
        before = signal.signal(number, signal.SIG_IGN)
        try:
            assert number in caller.ignored()
            assert signal.SIGPIPE not in caller.ignored()
        finally:
            signal.signal(number, before)
        assert number not in caller.ignored()
