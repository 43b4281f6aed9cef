"""The only file that talks through sockets: one thread moves bytes between one gdb client and the machine's own thread.

The machine's thread never waits for a client, and the client's session runs on the machine's thread alone: bytes that arrive are
handed over with `post`, bytes to be sent are queued. A client that does not read for `PATIENCE` seconds is dropped.
"""

import collections
import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Protocol

from trapgate.gdb.address import Address, forget, listen
from trapgate.hostcall import SCARCE, Helper, asking, poll_selector

PATIENCE = 10.0
"""Seconds that a client may leave its replies unread."""

_CHUNK_OUT = 1 << 16
_CHUNK_IN = 1 << 11  # little, because a few bytes may ask for much: so much work is done without looking at what it made
_MOST_UNHANDLED = 2  # chunks given to the machine's thread and not yet taken: then the client has to wait
_ENOUGH_QUEUED = 1 << 20  # bytes of replies: before more is asked, these have to be read
_MOST_QUEUED = 64 << 20
_FAREWELL = 1.0
_LOOK = 1.0  # seconds until the queue is looked at although nobody was woken: the host may refuse even that
_SCARCE = 0.1  # seconds until a client is let in for whom there was no descriptor
_KEEPALIVE = 60  # seconds of silence before a peer is asked whether it is still there


class Connection(Protocol):
    """What the machine does with a client. Every method is called on the machine's own thread."""

    def connected(self) -> None:
        """A client is there; stop the guest for it."""
        ...

    def received(self, data: bytes) -> None:
        """Bytes from the client."""
        ...

    def disconnected(self) -> None:
        """The client is gone, or was dropped."""
        ...


class Server:
    """Listens at once (AddressError when it cannot) and serves one client after another until `close`.

    `post` hands a callable to the machine's thread, soon, also while the guest runs; it may be called from any thread.
    `failed` gets what goes wrong on the server's own thread; the client is gone then. HostError when the host has no sockets or
    threads for it.
    """

    def __init__(
        self,
        address: Address,
        connection: Connection,
        post: Callable[[Callable[[], None]], None],
        patience: float = PATIENCE,
        failed: Callable[[BaseException], None] | None = None,
    ) -> None:
        with asking("a pair of sockets for gdb (socketpair)"):
            self._wake_reader, self._wake_writer = socket.socketpair()
        try:
            self._listener, self.address = listen(address)
        except BaseException:
            self._close_wakers()
            raise
        self._listener.setblocking(False)
        self._connection = connection
        self._post = post
        self._patience = patience
        self._lock = threading.Lock()
        self._client: socket.socket | None = None
        self._accepted = 0  # how many clients there were: the number of the present one
        self._greeted = 0  # the number of the client that the machine's thread deals with
        self._queue: collections.deque[bytes] = collections.deque()
        self._queued = 0
        self._progress = 0.0
        self._unhandled = 0
        self._hang_up = False
        self._closing = False
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._thread = Helper("gdb", self._serve, failed)
        try:
            self._thread.start()
        except BaseException:
            self._close_all()
            raise

    def send(self, data: bytes) -> None:
        """Queue bytes for the client, if there is one. Never waits."""
        with self._lock:
            if not data or self._client is None or self._greeted != self._accepted:
                return
            if not self._queue:
                self._progress = time.monotonic()
            self._queue.append(data)
            self._queued += len(data)
        self._wake()

    def hang_up(self) -> None:
        """Close the client's connection once everything queued is sent."""
        with self._lock:
            self._hang_up = self._greeted == self._accepted
        self._wake()

    def close(self) -> None:
        """Send what is queued (for a second at the most), close everything, end the thread."""
        self._closing = True
        self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join(_FAREWELL + 5)

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
        self._listener.close()
        forget(self.address)
        self._close_wakers()

    def _close_wakers(self) -> None:
        self._wake_reader.close()
        self._wake_writer.close()

    def _wait(self) -> None:
        """Sleep until a socket can be served, and serve it."""
        with poll_selector() as selector:
            selector.register(self._wake_reader, selectors.EVENT_READ)
            selector.register(self._listener, selectors.EVENT_READ)
            client = self._client
            if client is not None:
                wanted = selectors.EVENT_READ if self._unhandled < _MOST_UNHANDLED and self._queued < _ENOUGH_QUEUED else 0
                wanted |= selectors.EVENT_WRITE if self._queue else 0
                if wanted:
                    selector.register(client, wanted)
            ready = {key.fileobj: events for key, events in selector.select(0.2 if self._queue or self._closing else _LOOK)}
        if self._wake_reader in ready:
            with contextlib.suppress(BlockingIOError):
                self._wake_reader.recv(_CHUNK_OUT)
        if client is not None:
            self._serve_client(client, ready.get(client, 0))
        if self._listener in ready:
            self._accept()

    def _serve_client(self, client: socket.socket, events: int) -> None:
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
        slow = self._queue and time.monotonic() - self._progress > self._patience
        if slow or self._queued > _MOST_QUEUED or (self._hang_up and not self._queue):
            self._drop()

    def _write(self, client: socket.socket) -> None:
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

    def _read(self, client: socket.socket) -> bool:
        data = client.recv(_CHUNK_IN)
        if data:
            with self._lock:
                self._unhandled += 1
            self._post(lambda: self._handle(data))
        return bool(data)

    def _handle(self, data: bytes) -> None:
        """On the machine's thread."""
        try:
            self._connection.received(data)
        finally:
            with self._lock:
                self._unhandled -= 1
            self._wake()

    def _greet(self, number: int) -> None:
        """On the machine's thread: what is sent from now on is for this client."""
        self._greeted = number
        self._connection.connected()

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError as error:
            if error.errno in SCARCE:  # who knocks does so until there is a descriptor for it
                time.sleep(_SCARCE)
            return
        if self._client is not None or self._closing:
            client.close()
            return
        client.setblocking(False)
        if client.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a host that vanished must not keep the guest stopped
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE)
        with self._lock:
            self._queue.clear()
            self._queued = 0
            self._hang_up = False
            self._client = client
            self._accepted += 1
            number = self._accepted
        self._post(lambda: self._greet(number))

    def _drop(self, tell: bool = True) -> None:
        with self._lock:
            client, self._client = self._client, None
            self._queue.clear()
            self._queued = 0
        if client is None:
            return
        client.close()
        if tell:
            self._post(self._connection.disconnected)
