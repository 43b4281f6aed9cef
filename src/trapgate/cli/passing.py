"""Passes the streams of this process to a program in a guest and back: bytes as they are, ends, and a terminal."""

import contextlib
import errno
import fcntl
import os
import selectors
import signal
import stat
import struct
import termios
import threading
from collections.abc import Callable
from typing import Any

from trapgate.cli import streams
from trapgate.devices.virtio.console import ConsolePort
from trapgate.exec.messages import TERMIOS, Size, Where
from trapgate.hostcall import Helper, HostError, asking, poll_selector

AT_ONCE = 1 << 16  # bytes read at a time
MOST_WAITING = 1 << 20  # bytes that wait for the guest until no more are read
OPOST = 1  # of c_oflag: what is written is changed on its way, line ends above all
ATTEMPTS = 3  # at putting a terminal back


def leads_nowhere(descriptor: int) -> bool:
    """Whether it is /dev/null."""
    status = os.fstat(descriptor)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == os.stat(os.devnull).st_rdev


def _where(descriptor: int) -> Where:
    if descriptor in streams.closed:
        return Where.CLOSED
    if os.isatty(descriptor):
        return Where.TERMINAL
    return Where.NOWHERE if leads_nowhere(descriptor) else Where.PORT


def where() -> tuple[Where, Where, Where]:
    """Where each standard stream of this process leads, as the guest is to have it."""
    found = [_where(one) for one in range(3)]
    if found[1] is found[2] is Where.PORT and os.path.sameopenfile(1, 2):
        found[2] = Where.STDOUT  # what is written to both keeps its order
    return found[0], found[1], found[2]


class Input:
    """Reads a descriptor for a port, as fast as the guest takes it. `read` counts bytes."""

    def __init__(self, descriptor: int, port: ConsolePort, failed: Callable[[BaseException], None]) -> None:
        self._descriptor, self._port = descriptor, port
        self.read = 0
        self._room, self._closing = threading.Event(), threading.Event()
        port.taken = self._room.set
        with asking("a pipe"):
            self._wake = os.pipe()
        self._thread = Helper("standard input", self._run, failed)
        self._thread.start()

    def _run(self) -> None:
        with poll_selector() as selector:
            selector.register(self._wake[0], selectors.EVENT_READ)
            selector.register(self._descriptor, selectors.EVENT_READ)
            while not self._closing.is_set():
                self._room.clear()
                if self._port.waiting() > MOST_WAITING:
                    self._room.wait()
                    continue
                selector.select()
                if self._closing.is_set():
                    return
                try:
                    data = os.read(self._descriptor, AT_ONCE)
                except BlockingIOError:
                    continue
                except OSError as error:
                    if error.errno != errno.EIO:
                        raise
                    data = b""  # the terminal is gone
                if not data:
                    self._port.end()
                    return
                self.read += len(data)
                self._port.feed(data)

    def close(self) -> None:
        """Read no more."""
        self._closing.set()
        self._room.set()
        os.write(self._wake[1], b"x")
        self._thread.join()
        for one in self._wake:
            os.close(one)


def give_back(descriptor: int, read: int, used: int) -> None:
    """Of a file from which so much was read, leave what was not used to whoever reads on."""
    if read > used and stat.S_ISREG(os.fstat(descriptor).st_mode):
        with contextlib.suppress(OSError):
            os.lseek(descriptor, used - read, os.SEEK_CUR)


class Output:
    """Writes to a descriptor. When nobody reads there any more, `unread` is called, once, and all else is lost."""

    def __init__(self, descriptor: int, unread: Callable[[], None]) -> None:
        self._descriptor, self._unread = descriptor, unread
        self._broken = False

    def write(self, data: bytes) -> None:
        """Write all of it, which may take as long as the reader likes. HostError: a full disk, say."""
        rest = memoryview(data)
        while rest and not self._broken:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                with poll_selector() as selector:
                    selector.register(self._descriptor, selectors.EVENT_WRITE)
                    selector.select()
            except OSError as error:
                self._broken = True
                if error.errno not in (errno.EPIPE, errno.EIO):
                    raise HostError("to write what the program writes", error.errno or errno.EIO) from error
                self._unread()


class Passage:
    """The terminal of this process, raw while the program has it; `modes` and `size` are what the program finds.

    One that is not ours to read, a background job's or on no standard input, is left as it is. Where standard output is another
    one, somebody else may write there meanwhile: it then goes on to change what is written, line ends above all, and the program's
    does not.
    """

    def __init__(self, streams: tuple[Where, Where, Where]) -> None:
        self.descriptor = next((one for one in (1, 2, 0) if streams[one] is Where.TERMINAL), -1)
        self.reads = streams[0] is Where.TERMINAL and _ours(0)
        self._alone = self.reads and streams[1] is Where.TERMINAL
        self._saved: list[Any] | None = None
        self.modes = bytes(TERMIOS)
        if self.descriptor >= 0:
            with contextlib.suppress(OSError):
                self.modes = fcntl.ioctl(self.descriptor, termios.TCGETS, bytes(60))[:TERMIOS]
            if not self._alone:
                output = int.from_bytes(self.modes[4:8], "little") & ~OPOST
                self.modes = self.modes[:4] + output.to_bytes(4, "little") + self.modes[8:]

    @property
    def size(self) -> Size:
        """Rows and columns."""
        if self.descriptor < 0:
            return Size(24, 80)
        try:
            rows, columns, _, _ = struct.unpack("4H", fcntl.ioctl(self.descriptor, termios.TIOCGWINSZ, bytes(8)))
        except OSError:
            return Size(24, 80)
        return Size(rows, columns)

    def enter(self) -> None:
        """Make it raw. HostError."""
        if not self.reads or not _ours(0) or self._saved is not None:
            return
        try:
            self._saved, mode = termios.tcgetattr(0), termios.tcgetattr(0)
            mode[0] &= ~(termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP)
            mode[0] &= ~(termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON)
            mode[1] &= ~(termios.OPOST if self._alone else 0)
            mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
            mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN | termios.ISIG)
            termios.tcsetattr(0, termios.TCSANOW, mode)
        except termios.error as error:
            raise HostError("a raw terminal (tcsetattr)", error.args[0]) from error

    def leave(self) -> None:
        """Put it back as it was; again is harmless."""
        saved, self._saved = self._saved, None
        if saved is None:
            return
        for _ in range(ATTEMPTS):
            with contextlib.suppress(termios.error):  # it was hung up: nothing is left to put back
                termios.tcsetattr(0, termios.TCSANOW, saved)
                return

    def stop(self) -> None:
        """Stop this process, as the program was: whoever waits for it sees so. Returns when it goes on."""
        self.leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self.enter()


def _ours(descriptor: int) -> bool:
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:
        return False
