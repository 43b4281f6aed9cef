"""Has the machine's thread wait for a client and for other threads at once, at the price of one call."""

import contextlib
import select
import socket
from collections.abc import Callable

from trapgate.gdb.stream import Stream

LOOK = 1000  # ms until it is looked at what is to be done although nobody was woken: the host may refuse even that


class Near:
    """Where that thread waits. `waiting` is true while it does."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self.waiting = False
        self._poll = select.poll()
        self._client: Stream | None = None
        self._poll.register(self._reader, select.POLLIN)

    def wait(self, idle: Callable[[], bool], client: Stream | None) -> bool:
        """Sleep while `idle`, until `wake`, or until the client, if there is one, has something to read: whether that ended it.

        For `LOOK` at most: a `wake` may be lost.
        """
        if client is not self._client:
            self._client, self._poll = client, select.poll()
            self._poll.register(self._reader, select.POLLIN)
            if client is not None:
                self._poll.register(client.reader, select.POLLIN)
        self.waiting = True  # `wake` comes before the look at `idle`, or finds this
        try:
            ready = self._poll.poll(LOOK) if idle() else []
        finally:
            self.waiting = False
        if len(ready) == 1 and ready[0][0] != self._reader.fileno():
            return True
        if ready:  # what others have posted comes first
            with contextlib.suppress(BlockingIOError):
                self._reader.recv(4096)
        return False

    def wake(self) -> None:
        """End the sleep, if there is one; from any thread."""
        if self.waiting:
            with contextlib.suppress(BlockingIOError, OSError):
                self._writer.send(b"\0")

    def close(self) -> None:
        """Nobody waits any more."""
        self._reader.close()
        self._writer.close()
