"""Writes what the guest sends byte by byte in fewer pieces, from a thread of its own: a reader that does not read delays nobody."""

import threading
import time
from collections.abc import Callable

from trapgate.hostcall import Helper

DELAY = 0.002  # seconds that a byte waits for more: each piece costs the host a system call, and its reader a wake-up
LIMIT = 1 << 18  # bytes that wait until the guest has to
PATIENCE = 1.0  # seconds for a sink that takes nothing any more when all is to end


class Gathered:
    """Hands bytes on to a sink, in order, and leaves nothing out. `write` never waits for the sink, which one thread alone calls.

    `backlog(True)` says that more should not come, `backlog(False)` that it may again. More is taken all the same.
    """

    def __init__(self, name: str = "serial output") -> None:
        self.name = name
        self._sink: Callable[[bytes], None] = lambda data: None
        self._backlog: Callable[[bool], None] = lambda waits: None
        self._waiting, self._much = bytearray(), False
        self._lock, self._some = threading.Lock(), threading.Event()  # something is not handed on yet
        self._ending = threading.Event()  # nothing more is waited for
        self.used = False
        """Whether anything was ever written."""
        self._closed: bool | None = None  # whether the sink had taken all
        self._thread: Helper | None = None

    def lead_to(
        self,
        sink: Callable[[bytes], None],
        backlog: Callable[[bool], None] = lambda waits: None,
        failed: Callable[[BaseException], None] | None = None,
    ) -> None:
        """Where bytes go from now on, until `close`. `failed` gets what the sink raises; all is lost from then on. HostError."""
        self._sink, self._backlog = sink, backlog
        self._thread = Helper(self.name, self._work, failed)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Take bytes; from any thread. After `close` they go to the sink at once, if it had taken all until then."""
        self.used = True
        if self._closed is not None:
            if self._closed:
                self._sink(data)
            return
        with self._lock:
            self._waiting += data
            if not self._some.is_set():
                self._some.set()
            if len(self._waiting) > LIMIT and not self._much:
                self._much = True
                self._backlog(True)

    def drain(self, given_up: Callable[[], bool] = lambda: True) -> None:
        """Wait until the sink has taken all that was written, `PATIENCE` at most if nobody wants to wait any longer."""
        end = time.monotonic() + PATIENCE
        while self._some.is_set() and self._thread is not None and self._thread.is_alive():
            if given_up() and time.monotonic() > end:
                break
            time.sleep(DELAY)

    def close(self, given_up: Callable[[], bool] = lambda: True) -> bool:
        """Hand on what waits; False when some of it is lost, which is after `PATIENCE` if nobody wants to wait any longer.

        Again is harmless.
        """
        if self._closed is None:
            self._ending.set()
            self.drain(given_up)
            with self._lock:
                self._closed = not self._some.is_set()
                self._some.set()
            if self._closed and self._thread is not None:
                self._thread.join()
        return self._closed

    def _work(self) -> None:
        while True:
            self._some.wait()
            if self._closed is not None:
                return
            self._ending.wait(DELAY)
            with self._lock:
                data = bytes(self._waiting)
                self._waiting.clear()
            self._sink(data)
            with self._lock:
                if not self._waiting and self._closed is None:
                    self._some.clear()
                if self._much and len(self._waiting) <= LIMIT // 2:
                    self._much = False
                    self._backlog(False)
