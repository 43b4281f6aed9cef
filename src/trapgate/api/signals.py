"""Lets Ctrl-C end a run of the guest between two instructions, not amid one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from trapgate.machine import Machine


@contextmanager
def interruptible(machine: Machine) -> Iterator[None]:
    """Raise KeyboardInterrupt at the end, where it would have been raised within. What the program does about SIGINT stays."""
    usual = signal.default_int_handler
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not usual:
        yield
        return
    came = False

    def pause(*_: object) -> None:
        nonlocal came
        came = True
        machine.pause()

    signal.signal(signal.SIGINT, pause)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
        if came:
            raise KeyboardInterrupt
