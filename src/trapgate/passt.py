"""Leads a guest's frames to the host's network through passt, which needs no privileges: connections and datagrams become its own.

Each frame on the socket between has its length before it, 32 bits, big-endian (passt(1), section "passt").
"""

import contextlib
import os
import select
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable

from trapgate.devices.virtio.net import MOST_FRAME, MOST_WAITING, NetworkPort
from trapgate.errors import TrapgateError
from trapgate.hostcall import Helper, asking

ADDRESS, GATEWAY, RESOLVER, NETMASK_BITS = "10.0.2.15", "10.0.2.2", "10.0.2.3", 24
"""Of the guest, by DHCP; of the host as the guest sees it: what it sends there arrives at the host's loopback; of a server of
names: questions go on to the first that the host asks."""
MTU = 65520  # bytes of a packet, as it tells by DHCP
STARTING = 200  # ms in which passt would have ended, if it cannot do its work
ENDING = 2.0  # seconds for it to end when nobody has its socket any more
MOST_PENDING = 4 << 20  # bytes that it has not taken yet: what the guest sends then is lost
AT_ONCE = 1 << 17  # bytes that are read
SHOWN = 4096  # bytes of what it said last
NOISE = ("Failed to send", "Don't run as root")  # how lines begin that tell of no trouble


class NetworkError(TrapgateError):
    """There is no passt, or it cannot do its work."""


class Passt:
    """A running passt, to whose `port` a guest's network device leads. It outlasts power cycles, and is closed by its owner.

    NetworkError, HostError. When it ends by itself the guest sees its link go down, and `ended` gets a line, on another thread.
    """

    def __init__(
        self, ended: Callable[[str], None] = lambda line: None, failed: Callable[[BaseException], None] | None = None
    ) -> None:
        self._ended, self._lock, self._pending, self._closing = ended, threading.Lock(), bytearray(), False
        self.port = NetworkPort(self._send)
        self.port.taken = self._taken
        self._full = False  # whether the thread waits for the guest to take something
        with asking("a pair of sockets and a file"):
            self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            self._said = tempfile.TemporaryFile()  # noqa: SIM115  # closed in `close`
            self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._process = self._started(theirs)
        except BaseException:
            self._let_go()
            raise
        finally:
            theirs.close()
        self._socket.setblocking(False)
        self._thread = Helper("trapgate network", self._run, failed)
        self._thread.start()

    def _started(self, theirs: socket.socket) -> "subprocess.Popen[bytes]":
        words = ("-a", ADDRESS, "-g", GATEWAY, "-n", str(NETMASK_BITS), "--dns-forward", RESOLVER, "-F", str(theirs.fileno()))
        try:
            process = subprocess.Popen(
                ["passt", "-f", "-q", "-e", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # a Ctrl-C is not for it: it ends when its socket does
            )
        except FileNotFoundError as error:
            raise NetworkError(
                "a network for the guest is passt's work, which this host does not have: install the package passt"
            ) from error
        except OSError as error:
            raise NetworkError(f"passt cannot be started: {os.strerror(error.errno or 0)}") from error
        theirs.close()
        poll = select.poll()
        poll.register(self._socket, 0)
        if poll.poll(STARTING):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(ENDING)
            raise NetworkError(f"passt has ended at its start: {self._last_words()}")
        return process

    def _last_words(self) -> str:
        """What it said last that tells anything."""
        with contextlib.suppress(OSError, ValueError):
            end = self._said.seek(0, os.SEEK_END)
            self._said.seek(max(end - SHOWN, 0))
            lines = [line.strip() for line in self._said.read(SHOWN).decode(errors="replace").splitlines()]
            told = [line for line in lines if line and not line.startswith(NOISE)]
            if told:
                return "".join(letter for letter in told[-1][:200] if letter.isprintable())
        return "it does not say why"

    def close(self) -> None:
        """End it; a second call does nothing."""
        if self._closing:
            return
        self._closing = True
        self._awake()
        if self._thread.ident is not None:
            self._thread.join()
        self._let_go()
        try:
            self._process.wait(ENDING)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):  # a sandboxed process may not
                self._process.kill()

    def _let_go(self) -> None:
        self._socket.close()
        self._said.close()
        for descriptor in self._wake:
            os.close(descriptor)

    # Frames

    def _send(self, frame: bytes) -> None:
        """A frame of the guest's; on the machine's thread."""
        with self._lock:
            if len(self._pending) > MOST_PENDING:
                return
            waits = bool(self._pending)
            self._pending += len(frame).to_bytes(4, "big") + frame
            if waits:
                return  # the thread sees to it
            self._flush()
            if not self._pending:
                return
        self._awake()

    def _flush(self) -> None:
        """Write what is pending, as far as passt takes it."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionError):  # that it has ended the thread finds out
            while self._pending:
                del self._pending[: os.write(self._socket.fileno(), self._pending)]

    def _taken(self) -> None:
        if self._full:
            self._awake()

    def _awake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake[1], b"x")

    def _run(self) -> None:
        received, ours, wake = bytearray(), self._socket.fileno(), self._wake[0]
        while not self._closing:
            self._full = True  # before the look: what is taken meanwhile wakes this thread
            self._full = self.port.waiting() > MOST_WAITING // 2
            poll = select.poll()
            poll.register(wake, select.POLLIN)
            poll.register(ours, (0 if self._full else select.POLLIN) | (select.POLLOUT if self._pending else 0))
            found = dict(poll.poll())
            if wake in found:
                os.read(wake, 4096)
            if found.get(ours, 0) & select.POLLOUT:
                with self._lock:
                    self._flush()
            if found.get(ours, 0) & (select.POLLIN | select.POLLHUP | select.POLLERR) and not self._receive(received):
                break
        else:
            return
        self.port.link(False)
        self._ended(f"passt has ended, and the guest's network with it: {self._last_words()}")

    def _receive(self, received: bytearray) -> bool:
        """Feed the port what passt has written. False: it has ended, or speaks another language."""
        try:
            data = os.read(self._socket.fileno(), AT_ONCE)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        received += data
        at = 0
        while len(received) - at >= 4:
            length = int.from_bytes(received[at : at + 4], "big")
            if length > MOST_FRAME:
                return False
            if len(received) - at - 4 < length:
                break
            self.port.feed(bytes(received[at + 4 : at + 4 + length]))
            at += 4 + length
        del received[:at]
        return bool(data)
