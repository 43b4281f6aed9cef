"""Serves one session after another between a server's clients and a target. All of it is on the machine's own thread."""

from collections.abc import Callable

from trapgate.gdb.address import Address, StdioAddress
from trapgate.gdb.context import State
from trapgate.gdb.server import PATIENCE, Server
from trapgate.gdb.session import Session
from trapgate.gdb.target import Stop, Stopped, Target


class Stub:
    """Listens from the start; AddressError when it cannot. `post` hands a callable to the machine's thread, whatever that does.

    `failed` gets what goes wrong on the server's thread, `tell` lines for the user. On stdio the machine ends with its debugger.
    `lends`: `nudge`, `wait` and `take_back` are the server's.
    """

    def __init__(
        self,
        address: Address,
        target: Target,
        post: Callable[[Callable[[], None]], None],
        patience: float = PATIENCE,
        failed: Callable[[BaseException], None] | None = None,
        tell: Callable[[str], None] = lambda line: None,
        lends: bool = False,
    ) -> None:
        self._target = target
        self._session: Session | None = None
        self._tell = tell
        self._server = server = Server(address, self, post, patience, failed, tell, lends)
        self.nudge, self.wait, self.take_back = server.nudge, server.wait, server.take_back

    @property
    def address(self) -> Address:
        """Where it listens, with the port that the host chose if it was 0."""
        return self._server.address

    @property
    def attached(self) -> bool:
        """Whether a debugger is there."""
        return self._session is not None and self._session.state is not State.DISCONNECTED

    @property
    def outlived(self) -> bool:
        """Whether a debugger is still there although the guest has ended: it may start it again."""
        return self._session is not None and self._session.state is State.ENDED

    def connected(self) -> None:
        """A debugger is there."""
        self._session = Session(self._target, tell=self._tell)

    def received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._session is not None:
            self._send(self._session.receive(data))

    def disconnected(self) -> None:
        """The client is gone; if it did not detach, that is done for it."""
        if self._session is not None:
            self._session.disconnected()
        self._session = None
        if isinstance(self.address, StdioAddress):  # nobody else can come
            self._target.kill()

    def wanted(self, stop: Stopped) -> bool:
        """Whether the debugger wants to hear of a stop, by its conditions; nothing is told to it."""
        return self._session is None or self._session.wanted(stop)

    def stopped(self, stop: Stop) -> None:
        """The target stopped."""
        if self._session is not None:
            self._send(self._session.stopped(stop))

    def say(self, text: str) -> None:
        """Tell the user of the debugger something, if the guest runs under one."""
        if self._session is not None:
            self._send(self._session.say(text))

    def close(self) -> None:
        """The machine is at its end."""
        self._server.close()

    def _send(self, data: bytes) -> None:
        self._server.send(data)
        if self._session is not None and self._session.state is State.DISCONNECTED:
            self._server.hang_up()
