"""Clients come in here: the first that sends a valid packet is the debugger; while there is one, others are told so and sent away.

Until then a client costs the guest nothing and keeps nobody out, however long it says nothing: a port that was scanned, an IDE that
forgot its connection. There is no time limit on it, which could only be wrong for somebody who types.
"""

import contextlib
import selectors
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import field

from trapgate.gdb.address import TcpAddress, UnixAddress, forget, listen
from trapgate.gdb.newcomer import Newcomer, Verdict, refusal
from trapgate.gdb.stream import SocketStream, Stream, happened, watch
from trapgate.hostcall import SCARCE
from trapgate.values import dataclass

MOST_WAITING = 8
"""Clients that have said nothing valid yet; one more, and the oldest has to go."""

_CHUNK = 1 << 11
_LEAVE = 2.0  # seconds in which one that was sent away should read why
_QUIET = 1.0  # seconds between two messages about such
_SCARCE = 0.1  # seconds until a client is let in for whom there was no descriptor


@dataclass(slots=True)
class _Visitor:
    stream: Stream
    newcomer: Newcomer = field(default_factory=Newcomer)
    until: float | None = None  # it was sent away: when it is hung up on


class Door:
    """A listening socket and whoever waits at it. AddressError, HostError. `tell` takes a line for the user.

    All of it on the thread of the server.
    """

    def __init__(self, address: TcpAddress | UnixAddress, tell: Callable[[str], None]) -> None:
        self._listener, self.address = listen(address)
        self._listener.setblocking(False)
        self._tell, self._told = tell, 0.0
        self._visitors: list[_Visitor] = []

    def watch(self, selector: selectors.BaseSelector) -> None:
        """What to wait for."""
        selector.register(self._listener, selectors.EVENT_READ)
        for one in self._visitors:
            watch(selector, one.stream, selectors.EVENT_READ)

    def serve(self, ready: Mapping[int, int], taken: Callable[[], str | None]) -> tuple[Stream, bytes] | None:
        """Let clients in; a debugger, with what it has said, if there is one now. `taken` says who has the place already."""
        found: tuple[Stream, bytes] | None = None
        for one in list(self._visitors):
            if one.until is not None and time.monotonic() > one.until:
                self._dismiss(one)
            elif happened(ready, one.stream) and self._heard(one):
                who = "another debugger" if found is not None else taken()
                if who is None:
                    self._visitors.remove(one)
                    found = one.stream, bytes(one.newcomer.data)
                else:
                    self._send_away(one, who)
        if ready.get(self._listener.fileno()):
            self._accept()
        return found

    def close(self) -> None:
        """Nobody comes in any more."""
        for one in list(self._visitors):
            self._dismiss(one)
        self._listener.close()
        forget(self.address)

    def _accept(self) -> None:
        for _ in range(MOST_WAITING):
            try:
                connection, peer = self._listener.accept()
            except BlockingIOError:  # there are no more
                return
            except OSError as error:
                if error.errno in SCARCE:  # who knocks does so until there is a descriptor for it
                    time.sleep(_SCARCE)
                return
            self._let_in(connection, peer)

    def _let_in(self, connection: socket.socket, peer: tuple[str, int]) -> None:
        if len(self._visitors) >= MOST_WAITING:
            self._dismiss(self._visitors[0])
        who = "a debugger" if connection.family == socket.AF_UNIX else f"a debugger at {peer[0]}:{peer[1]}"
        self._visitors.append(_Visitor(SocketStream(connection, who)))

    def _heard(self, one: _Visitor) -> bool:
        """Take what a client sends; whether it is a debugger that has just said its first words."""
        try:
            data = one.stream.receive(_CHUNK)
            if data and one.until is not None:
                return False  # it has been told
            verdict = one.newcomer.receive(data) if data else Verdict.OTHER
            if one.newcomer.answer:
                one.stream.send(one.newcomer.answer)
                one.newcomer.answer = b""
        except BlockingIOError:
            return False
        except OSError:
            verdict = Verdict.OTHER
        if verdict is Verdict.OTHER:
            self._dismiss(one)
        return verdict is Verdict.DEBUGGER

    def _send_away(self, one: _Visitor, taken: str) -> None:
        if time.monotonic() - self._told > _QUIET:
            self._told = time.monotonic()
            self._tell(f"{one.stream.who} was sent away: {taken} is connected; one at a time")
        with contextlib.suppress(OSError):
            one.stream.send(refusal(f"{taken} is connected to this guest already; it serves one at a time"))
        one.stream.finish()  # and not closed yet: what it has still sent would make the host forget our words
        one.until = time.monotonic() + _LEAVE

    def _dismiss(self, one: _Visitor) -> None:
        self._visitors.remove(one)
        one.stream.close()
