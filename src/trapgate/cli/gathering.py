"""What the guest sends byte by byte, in fewer pieces: each costs the host a system call, and whoever reads it a wake-up."""

import threading
import time
from collections.abc import Callable

DELAY = 0.005  # seconds that a byte waits at most for the end of its line
PATIENCE = 1.0  # seconds for a sink that takes nothing any more when all is to end


class Gathered:
    """Hands bytes on to a sink a line at a time, and what is no line yet after a short while.

    The sink is called by the thread that writes or by one of its own, never by two at once.
    """

    def __init__(self) -> None:
        self._sink: Callable[[bytes], None] = lambda data: None
        self._waiting = bytearray()
        self._lock = threading.Lock()
        self._some, self._closing = threading.Event(), False
        self._thread = threading.Thread(target=self._late, name="serial output", daemon=True)

    def lead_to(self, sink: Callable[[bytes], None]) -> None:
        """Where bytes go from now on. Until `close` there is a thread besides."""
        self._sink = sink
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Take bytes."""
        with self._lock:
            self._waiting += data
            if data.endswith(b"\n"):
                self._send()
            elif not self._some.is_set():
                self._some.set()

    def flush(self) -> None:
        """Hand on what waits, now; lost when the sink takes nothing for too long."""
        if self._lock.acquire(timeout=PATIENCE):
            try:
                self._send()
            finally:
                self._lock.release()

    def close(self) -> None:
        """Hand on what waits; nothing comes any more."""
        self._closing = True
        self._some.set()
        self._thread.join(PATIENCE)
        self.flush()

    def _send(self) -> None:
        if self._waiting:
            data = bytes(self._waiting)
            self._waiting.clear()
            self._sink(data)

    def _late(self) -> None:
        while not self._closing:
            self._some.wait()
            time.sleep(DELAY)
            self._some.clear()  # first: what comes from here on waits anew
            with self._lock:
                self._send()
