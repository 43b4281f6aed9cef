"""A gdb stub that answers as a test says: for monitors whose stub lacks things, dies, or lies."""

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Self

from trapgate.gdb import framing
from trapgate.gdb.address import LOOPBACK, TcpAddress

SILENCE = b"\0"  # no reply: the guest runs
Answer = Callable[[bytes], bytes | None]  # None: hang up


class Liar:
    """Takes one connection after another. `answer` has the reply to each packet; an interrupt is the packet 03h."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._listener = socket.create_server((LOOPBACK, 0))
        self.address = TcpAddress(LOOPBACK, self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(ConnectionError):  # the other side hangs up whenever it likes
                self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        reader = framing.Reader()
        while data := connection.recv(4096):
            for event in reader.feed(data):
                payload = b"\x03" if isinstance(event, framing.Interrupt) else getattr(event, "payload", None)
                if payload is None:
                    continue
                reply = self._answer(payload)
                if reply is None:
                    return
                acknowledgment = b"+" * (payload != b"\x03")
                connection.sendall(acknowledgment + (framing.frame(reply) if reply != SILENCE else b""))
