"""Moves bytes between one gdb client and the machine's own thread, on a thread of its own.

The machine's thread never waits for a client, and the client's session runs on the machine's thread alone: bytes that arrive are
handed over with `post`, bytes to be sent are queued. A client that does not read for `PATIENCE` seconds is dropped.

Where nothing runs the machine's thread may wait here for what the client asks next (`wait`): a client that asks is lent to it until
it gives it back, for to wake one thread by another costs more than most answers.
"""

import collections
import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Protocol

from trapgate.gdb.address import Address, StdioAddress
from trapgate.gdb.door import Door
from trapgate.gdb.near import Near
from trapgate.gdb.stream import PipeStream, Stream, happened, watch
from trapgate.hostcall import Helper, asking, poll_selector

PATIENCE = 10.0
"""Seconds that a client may leave its replies unread."""

_CHUNK_OUT = 1 << 16
_CHUNK_IN = 1 << 11  # little, because a few bytes may ask for much: so much work is done without looking at what it made
_MOST_UNHANDLED = 2  # chunks given to the machine's thread and not yet taken: then the client has to wait
_ENOUGH_QUEUED = 1 << 20  # bytes of replies: before more is asked, these have to be read
MOST_QUEUED = 32 << 20  # with what came before they were read: a client that asks on is hung up on
_FAREWELL = 1.0
_GLANCE = 0.2  # seconds after which a client is taken back from a machine's thread that has not come to wait
_LOOK = 1.0  # seconds until the queue is looked at although nobody was woken: the host may refuse even that


class Connection(Protocol):
    """What the machine does with a client. Every method is called on the machine's own thread."""

    def connected(self) -> None:
        """A debugger is there; stop the guest for it."""
        ...

    def received(self, data: bytes) -> None:
        """Bytes from the client."""
        ...

    def disconnected(self) -> None:
        """The client is gone, or was dropped."""
        ...


class Server:
    """Listens at once (AddressError when it cannot) and serves one client after another until `close`; on stdio just one.

    `post` hands a callable to the machine's thread, soon, also while the guest runs; it may be called from any thread. With `lends`
    it calls `nudge` besides, and the machine's thread `wait` and `take_back`.
    `failed` gets what goes wrong on the server's own thread; the client is gone then. `tell` takes lines for the user, on that
    thread. HostError when the host has no sockets or threads for it.
    """

    def __init__(
        self,
        address: Address,
        connection: Connection,
        post: Callable[[Callable[[], None]], None],
        patience: float = PATIENCE,
        failed: Callable[[BaseException], None] | None = None,
        tell: Callable[[str], None] = lambda line: None,
        lends: bool = False,
    ) -> None:
        with asking("a pair of sockets for gdb (socketpair)"):
            self._wake_reader, self._wake_writer = socket.socketpair()
            self._near = Near() if lends else None
        try:
            self._door = None if isinstance(address, StdioAddress) else Door(address, tell)
        except BaseException:
            self._close_wakers()
            if self._near is not None:
                self._near.close()
            raise
        self.address = address if self._door is None else self._door.address
        self._connection = connection
        self._post, self._tell = post, tell
        self._patience = patience
        self._lock = threading.Lock()
        self._client: Stream | None = None
        self._accepted = 0  # how many clients there were: the number of the present one
        self._greeted = 0  # the number of the client that the machine's thread deals with
        self._queue: collections.deque[bytes] = collections.deque()
        self._queued = 0
        self._overfull = False  # there was no room for an answer
        self._progress = 0.0
        self._unhandled = 0
        self._lent = False  # the client's bytes are read by the machine's thread
        self._waits = 0  # how often that has begun to wait
        self._hang_up = False
        self._closing = False
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._thread = Helper("gdb", self._serve, failed)
        try:
            if isinstance(address, StdioAddress):
                self._admit(PipeStream(address.reader, address.writer, "gdb"))
            self._thread.start()
        except BaseException:
            self._close_all()
            raise

    def send(self, data: bytes) -> None:
        """Bytes for the client, if there is one: sent at once as far as it takes them, the rest queued. Never waits."""
        with self._lock:
            if not data or self._client is None or self._greeted != self._accepted:
                return
            if not self._queue:
                data = _left(self._client, data)
                if not data:
                    return
                self._progress = time.monotonic()
            if self._queued + len(data) > MOST_QUEUED:
                self._overfull = True
            else:
                self._queue.append(data)
                self._queued += len(data)
        self._wake()

    def hang_up(self) -> None:
        """Close the client's connection once everything queued is sent."""
        with self._lock:
            self._hang_up = self._client is not None and self._greeted == self._accepted  # it may have left already
        self._wake()

    def close(self) -> None:
        """Send what is queued (for a second at the most), close everything, end the thread."""
        self._closing = True
        self._wake()
        if self._thread.ident is None:  # it was never started
            self._close_all()
        elif threading.current_thread() is not self._thread:
            self._thread.join(_FAREWELL + 5)
        if self._near is not None:  # not before: the machine's thread may wait there when this one fails
            self._near.close()

    def nudge(self) -> None:
        """Something was posted: end `wait`."""
        if self._near is not None:
            self._near.wake()

    def wait(self, idle: Callable[[], bool]) -> None:
        """On the machine's thread: sleep while it is `idle`, until something is posted, or the client asks, which is dealt with."""
        assert self._near is not None
        self._waits += 1
        if self._queued >= _ENOUGH_QUEUED:
            self.take_back()
        client = self._client if self._lent else None
        if self._near.wait(idle, client):
            assert client is not None
            with self._lock:
                data = self._lent_bytes(client)
            if data:
                self._connection.received(data)

    def _lent_bytes(self, client: Stream) -> bytes:
        """What a lent client has sent. Its end, and what fails, is for the server's thread."""
        if not self._lent or self._client is not client or self._unhandled:
            return b""
        try:
            data = client.receive(_CHUNK_IN)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        if not data:
            self._lent = False
            self._wake()
        return data

    def take_back(self) -> None:
        """The machine's thread will not wait for a while: the client is the server's thread's again."""
        if self._lent:
            self._lent = False
            self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            self._wake_writer.send(b"\0")

    # Below: the server's own thread.

    def _serve(self) -> None:
        deadline = None
        try:
            while True:
                if self._closing:
                    deadline = deadline or time.monotonic() + _FAREWELL
                    if self._client is None or not self._queue or time.monotonic() > deadline:
                        break
                self._wait()
        finally:  # also when it fails: no client must wait for answers that nobody will give
            self._drop(tell=False)
            self._close_all()

    def _close_all(self) -> None:
        if self._door is not None:
            self._door.close()
        self._close_wakers()

    def _close_wakers(self) -> None:
        self._wake_reader.close()
        self._wake_writer.close()

    def _wait(self) -> None:
        """Sleep until a socket can be served, and serve it."""
        with poll_selector() as selector:
            selector.register(self._wake_reader, selectors.EVENT_READ)
            if self._door is not None and self._open():
                self._door.watch(selector)
            client = self._client
            if client is not None:
                takes = not self._lent and self._unhandled < _MOST_UNHANDLED and self._queued < _ENOUGH_QUEUED
                wanted = selectors.EVENT_READ if takes else 0
                wanted |= selectors.EVENT_WRITE if self._queue else 0
                watch(selector, client, wanted)
            waits, soon = self._waits, self._queue or self._closing or self._lent
            ready = {key.fd: events for key, events in selector.select(_GLANCE if soon else _LOOK)}
        if self._lent and not ready and waits == self._waits and not (self._near is not None and self._near.waiting):
            self._lent = False
        if self._wake_reader.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                self._wake_reader.recv(_CHUNK_OUT)
        if client is not None:
            self._serve_client(client, happened(ready, client))
        if self._door is not None and self._open():
            newest = self._door.serve(ready, self._taken)
            if newest is not None:
                self._admit(newest[0])
                self._hand_over(newest[1])

    def _taken(self) -> str | None:
        """Who is served; not one that has left, which the machine's thread, if it is lent, may not have seen yet."""
        if self._client is not None and self._client.ended():
            self._drop()
        return None if self._client is None else self._client.who

    def _open(self) -> bool:
        """Whether newcomers are heard: one who comes while the last one is being let go of has to wait for that."""
        return not self._closing and not self._hang_up

    def _serve_client(self, client: Stream, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                self._write(client)
            if events & selectors.EVENT_READ and not self._read(client):
                self._drop()
                return
        except BlockingIOError:
            pass
        except OSError:
            self._drop()
            return
        if self._overfull or (self._queue and time.monotonic() - self._progress > self._patience):
            self._tell(f"{client.who} does not read what it is sent; its connection is closed")
            self._drop()
        elif self._hang_up and not self._queue:
            self._drop()

    def _write(self, client: Stream) -> None:
        with self._lock:
            data = self._queue[0]
        sent = client.send(data[:_CHUNK_OUT])
        with self._lock:
            self._progress = time.monotonic()
            self._queued -= sent
            if sent < len(data):
                self._queue[0] = data[sent:]
            else:
                self._queue.popleft()

    def _read(self, client: Stream) -> bool:
        with self._lock:
            if self._lent:
                return True
            data = client.receive(_CHUNK_IN)
            self._unhandled += bool(data)
            self._lent = self._near is not None and bool(data)
        if data:
            self._post(lambda: self._handle(data))
        return bool(data)

    def _handle(self, data: bytes) -> None:
        """On the machine's thread."""
        try:
            self._connection.received(data)
        finally:
            with self._lock:
                self._unhandled -= 1
                reads_on = self._unhandled == _MOST_UNHANDLED - 1
            if reads_on:
                self._wake()

    def _greet(self, number: int) -> None:
        """On the machine's thread: what is sent from now on is for this client."""
        self._greeted = number
        self._connection.connected()

    def _admit(self, client: Stream) -> None:
        """Have the machine's thread deal with a client from now on."""
        with self._lock:
            self._queue.clear()
            self._queued = 0
            self._hang_up = self._overfull = self._lent = False
            self._client = client
            self._accepted += 1
            number = self._accepted
        self._post(lambda: self._greet(number))

    def _hand_over(self, data: bytes) -> None:
        with self._lock:
            self._unhandled += 1
        self._post(lambda: self._handle(data))

    def _drop(self, tell: bool = True) -> None:
        with self._lock:
            client, self._client, self._hang_up, self._lent = self._client, None, False, False
            self._queue.clear()
            self._queued = 0
        if client is None:
            return
        client.close()
        if tell:
            self._post(self._connection.disconnected)


def _left(client: Stream, data: bytes) -> bytes:
    """What of these bytes the client does not take now; a connection that has failed is the server's thread's to find out."""
    try:
        return data[client.send(data) :]
    except OSError:
        return data
