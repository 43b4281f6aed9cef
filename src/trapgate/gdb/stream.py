"""Carries a connection's bytes in and out, whatever is below: a socket, or two descriptors. Nothing here waits."""

import contextlib
import os
import selectors
import socket
from collections.abc import Mapping
from typing import Protocol

_KEEPALIVE = 60  # seconds of silence before a peer is asked whether it is still there


class Stream(Protocol):
    """A client's end. `reader` and `writer` are the descriptors to wait for, which may be the same; `who` is for messages."""

    who: str

    @property
    def reader(self) -> int:
        """What is ready when there is something to receive."""
        ...

    @property
    def writer(self) -> int:
        """What is ready when something can be sent."""
        ...

    def receive(self, size: int) -> bytes:
        """Up to so many bytes; none at the end. OSError, BlockingIOError among them."""
        ...

    def ended(self) -> bool:
        """Whether the other side has hung up, and all that it sent has been received."""
        ...

    def send(self, data: bytes) -> int:
        """How many of these bytes are on their way. OSError, BlockingIOError among them."""
        ...

    def finish(self) -> None:
        """Nothing more is sent."""
        ...

    def close(self) -> None:
        """Hang up."""
        ...


class SocketStream:
    """A socket that a listening one gave."""

    def __init__(self, connection: socket.socket, who: str) -> None:
        self._socket, self.who = connection, who
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a host that vanished must not stop the guest
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE)

    @property
    def reader(self) -> int:
        """The socket."""
        return self._socket.fileno()

    writer = reader

    def receive(self, size: int) -> bytes:
        """Read."""
        return self._socket.recv(size)

    def ended(self) -> bool:
        """Look at the next byte, and leave it there."""
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def send(self, data: bytes) -> int:
        """Write."""
        return self._socket.send(data)

    def finish(self) -> None:
        """The other side reads the end."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close it."""
        self._socket.close()


class PipeStream:
    """Two descriptors of which another program holds the other ends."""

    def __init__(self, reader: int, writer: int, who: str) -> None:
        self.reader, self.writer, self.who = reader, writer, who
        self._before = [(one, os.get_blocking(one)) for one in {reader, writer}]
        for one, _ in self._before:
            os.set_blocking(one, False)

    def receive(self, size: int) -> bytes:
        """Read."""
        return os.read(self.reader, size)

    def ended(self) -> bool:
        """Nobody can look without reading: False."""
        return False

    def send(self, data: bytes) -> int:
        """Write."""
        return os.write(self.writer, data)

    def finish(self) -> None:
        """Whoever reads the other end sees that when it is closed."""

    def close(self) -> None:
        """Close both. Whoever else has them finds them waiting for data, or not, as they were."""
        before, self._before = self._before, []
        for one, blocking in before:
            os.set_blocking(one, blocking)
            os.close(one)


def watch(selector: selectors.BaseSelector, stream: Stream, events: int) -> None:
    """Wait for a stream's events (EVENT_READ, EVENT_WRITE) as well; for none of them it is left out."""
    if stream.reader == stream.writer:
        if events:
            selector.register(stream.reader, events)
        return
    if events & selectors.EVENT_READ:
        selector.register(stream.reader, selectors.EVENT_READ)
    if events & selectors.EVENT_WRITE:
        selector.register(stream.writer, selectors.EVENT_WRITE)


def happened(ready: Mapping[int, int], stream: Stream) -> int:
    """Which events of a stream are among those that are ready, by descriptor."""
    return ready.get(stream.reader, 0) & selectors.EVENT_READ | ready.get(stream.writer, 0) & selectors.EVENT_WRITE
