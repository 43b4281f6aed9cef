"""Runs the machine on a thread of its own, so that the main one hears signals, and ends it when the user wants to quit."""

import threading
from collections.abc import Callable

from trapgate.hostcall import Helper
from trapgate.stops import MachineExit

LOOK = 0.2  # seconds until a signal is noticed at the latest
PATIENCE = 5.0  # seconds for the machine to stop when the user wants to quit


class Runner:
    """Runs `body` on a thread of its own until it ends or the user quits; `stop` asks it to end, from any thread."""

    def __init__(self, body: Callable[[], MachineExit], stop: Callable[[], None]) -> None:
        self._body, self._stop = body, stop
        self._done = threading.Event()
        self._end: MachineExit | None = None
        self._error: BaseException | None = None
        self.asked: int | None = None
        """The status that somebody wants to quit with."""
        self.stuck = False
        """Whether the machine did not stop when it was asked to: its thread still runs."""

    def quitting(self) -> bool:
        """Whether somebody wants to quit."""
        return self.asked is not None

    def quit(self, status: int) -> None:
        """Ask the machine to stop; `run` gives this status. From any thread, and from signal handlers."""
        self.asked = status
        self._stop()
        self._done.set()

    def run(self) -> MachineExit | int:
        """How the machine ended, or the status that the user quit with."""
        thread = Helper("machine", self._work)
        thread.start()
        while not self._done.wait(LOOK):  # a signal that the kernel gave to another thread is seen only when this one wakes
            pass
        thread.join(PATIENCE)
        self.stuck = thread.is_alive()
        if self._error is not None:
            raise self._error
        if self.asked is not None:
            return self.asked
        assert self._end is not None
        return self._end

    def _work(self) -> None:
        try:
            self._end = self._body()
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()
