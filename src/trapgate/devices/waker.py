"""The waker wakes the machine's thread: it has a mailbox, a thread that waits for the next deadline, and one that waits for input.

Neither thread touches a device: they leave a callable in the mailbox, or kick, and the machine's own thread does the work.
"""

import errno
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable

from trapgate.clock import Clock
from trapgate.hostcall import Helper, asking, poll_selector

CHUNK = 4096  # bytes of input taken at a time
LONGEST_WAIT = 86_400.0  # s that a thread sleeps at a time: who waits longer looks again
FULL_WAIT = 0.05  # s between looks while the guest has no room for more input


class Mailbox:
    """Callables from any thread, to be run on the machine's own. `kick` gets that thread out of the vCPU."""

    def __init__(self) -> None:
        self.kick: Callable[[], None] = lambda: None
        self._calls: deque[Callable[[], None]] = deque()
        self._event = threading.Event()

    def __bool__(self) -> bool:
        return bool(self._calls)

    def post(self, call: Callable[[], None]) -> None:
        """Leave a callable; from any thread."""
        self._calls.append(call)
        self._event.set()
        self.kick()

    def take(self) -> Callable[[], None] | None:
        """The oldest callable, or None."""
        return self._calls.popleft() if self._calls else None

    def wait(self, seconds: float | None) -> None:
        """Sleep until something is posted or the time has passed, or sooner."""
        if not self._calls:
            self._event.wait(None if seconds is None else min(seconds, LONGEST_WAIT))
        self._event.clear()


class DeadlineThread:
    """Calls `fire` (on its own thread) when an armed moment of the clock passes. Re-arming for later costs no wake-up.

    `failed` gets what goes wrong on that thread.
    """

    def __init__(self, clock: Clock, fire: Callable[[], None], failed: Callable[[BaseException], None] | None = None) -> None:
        self._clock, self._fire, self._failed = clock, fire, failed
        self._condition = threading.Condition()
        self._armed: int | None = None  # moment of guest time
        self._until = 0  # the same on the host's monotonic clock, ns
        self._sleeping_until: int | None = None  # None: until notified
        self._closed = False
        self._thread: Helper | None = None

    def arm(self, deadline: int | None) -> None:
        """The next moment to fire at, or None. HostError when the thread that it takes cannot be had."""
        if deadline == self._armed:
            return
        with self._condition:
            self._armed = deadline
            if deadline is None:
                return
            self._until = time.monotonic_ns() + deadline - self._clock.now()
            if self._thread is None:
                thread = Helper("trapgate deadlines", self._run, self._failed)
                thread.start()
                self._thread = thread
            elif self._sleeping_until is None or self._until < self._sleeping_until:
                self._condition.notify()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._closed:
                    if self._armed is None:
                        self._sleeping_until = None
                        self._condition.wait()
                    elif (left := self._until - time.monotonic_ns()) > 0:
                        self._sleeping_until = self._until
                        self._condition.wait(min(left / 1e9, LONGEST_WAIT))
                    else:
                        break
                if self._closed:
                    return
                self._armed = None
            self._fire()

    def close(self) -> None:
        """End the thread."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        if self._thread is not None:
            self._thread.join()


class InputThread:
    """Reads a file descriptor and posts `take(data)`; `take(b"")` tells the end. It reads only while `room()` is true.

    `failed` gets what goes wrong on its thread. HostError when the host has no pipe or thread for it.
    """

    def __init__(
        self,
        descriptor: int,
        mailbox: Mailbox,
        take: Callable[[bytes], None],
        room: Callable[[], bool],
        failed: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._descriptor, self._mailbox, self._take, self._room = descriptor, mailbox, take, room
        self._closing = threading.Event()
        with asking("a pipe"):
            self._wake_read, self._wake_write = os.pipe()
        self._thread = Helper("trapgate input", self._run, failed)
        self._thread.start()

    def _run(self) -> None:
        with poll_selector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ)
            selector.register(self._descriptor, selectors.EVENT_READ)
            while not self._closing.is_set():
                if not self._room():
                    self._closing.wait(FULL_WAIT)
                    continue
                selector.select()
                if self._closing.is_set():
                    return
                try:
                    data = os.read(self._descriptor, CHUNK)
                except BlockingIOError:
                    continue
                except OSError as error:
                    if error.errno != errno.EIO:
                        raise
                    data = b""  # the terminal is gone: the end of input, no error of the guest's
                self._mailbox.post(lambda data=data: self._take(data))  # type: ignore[misc]
                if not data:
                    return

    def close(self) -> None:
        """End the thread; the descriptor stays open."""
        self._closing.set()
        os.write(self._wake_write, b"x")
        self._thread.join()
        os.close(self._wake_read)
        os.close(self._wake_write)
