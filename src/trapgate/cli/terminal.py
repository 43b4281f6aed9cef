"""Makes the user's terminal the guest's serial line: raw while the guest runs, and put back as it was however that ends."""

import atexit
import contextlib
import errno
import fcntl
import os
import selectors
import signal
import termios
from collections.abc import Callable
from functools import partial
from types import FrameType, TracebackType
from typing import Any, Self

from trapgate.cli.errors import OUTPUT_CLOSED
from trapgate.cli.keys import HELP, Escape, Key
from trapgate.hostcall import Helper, HostError, asking, poll_selector

ATTEMPTS = 3  # at putting a terminal back: whoever is left with a raw one has no easy way out
KERNEL_TERMIOS = 60  # bytes of struct termios, at most
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def settings() -> bytes | None:
    """The settings of the terminal on standard input, as the kernel has them; None where it is none, or a background job's."""
    try:
        if os.tcgetpgrp(0) != os.getpgrp():
            return None  # who sets a terminal from there is stopped
        return fcntl.ioctl(0, termios.TCGETS, bytes(KERNEL_TERMIOS))
    except OSError:
        return None


class Terminal:
    """Standard input and output for COM1, used as a context manager in the main thread.

    A terminal is made raw: Ctrl-C and all else that is typed goes to `on_input`, from a thread of its own, but for Ctrl-A x, which
    quits. Any other standard input is left alone (`raw` is False), and SIGINT quits. `on_quit` gets an exit status, at most once,
    from that thread or from a signal handler: it must only ask the machine to stop. Without `stdin` only signals are dealt with.
    Ctrl-A p and SIGUSR2 call `on_power`, from there as well.
    `show` takes what is for the user and must not wait: the help. `failed` gets what goes wrong on the thread. HostError when the
    host has no pipe or thread for it.
    """

    def __init__(
        self,
        on_input: Callable[[bytes], None],
        on_quit: Callable[[int], None],
        stdin: int | None = 0,
        stdout: int = 1,
        show: Callable[[bytes], None] | None = None,
        failed: Callable[[BaseException], None] | None = None,
        on_power: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_power = on_power
        self._on_input, self._on_quit, self._show, self._failed = on_input, on_quit, show or self.write, failed
        self._stdin, self._stdout = stdin, stdout
        self._saved: list[Any] | None = None
        self._handlers: dict[int, Any] = {}
        self._wake: tuple[int, int] | None = None
        self._reader: Helper | None = None
        self._quitting = False
        self._broken = False

    @property
    def raw(self) -> bool:
        """Whether the terminal is raw now."""
        return self._saved is not None

    def __enter__(self) -> Self:
        atexit.register(self.restore)
        for number in ENDING:
            self._handlers[number] = signal.signal(number, self._ended)
        self._handlers[signal.SIGUSR2] = signal.signal(signal.SIGUSR2, lambda number, frame: self._on_power())
        self._handlers[signal.SIGCONT] = signal.signal(signal.SIGCONT, self._continued)
        try:
            self._make_raw()
        except BaseException:
            self.restore()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.restore()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._wake and self._reader:
            os.write(self._wake[1], b"x")
            self._reader.join()
            os.close(self._wake[0])
            os.close(self._wake[1])
            self._wake = self._reader = None
        atexit.unregister(self.restore)

    def write(self, data: bytes) -> None:
        """Send all of `data` to standard output. When nobody reads there any more, the guest is asked to stop; the rest is lost.

        HostError, once, when it cannot be written for another reason: a full disk.
        """
        while data and not self._broken:
            try:
                data = data[os.write(self._stdout, data) :]
            except BlockingIOError:
                with poll_selector() as selector:
                    selector.register(self._stdout, selectors.EVENT_WRITE)
                    selector.select()
            except OSError as error:
                self._broken = True
                if error.errno not in (errno.EPIPE, errno.EIO):
                    raise HostError("to write standard output", error.errno or errno.EIO) from error
                self._quit(OUTPUT_CLOSED)  # the pipe or the terminal is gone

    def restore(self) -> None:
        """The terminal as it was found; again is harmless."""
        saved, self._saved = self._saved, None
        if saved is None or self._stdin is None:
            return
        for _ in range(ATTEMPTS):
            with contextlib.suppress(termios.error):  # it was hung up: nothing is left to restore
                termios.tcsetattr(self._stdin, termios.TCSANOW, saved)  # what is written already may never be read
                return

    def _make_raw(self) -> None:
        """Take over the terminal and start reading it, if it is one and ours: the terminal of a background job stays untouched."""
        if self._stdin is None:
            return
        try:
            if not os.isatty(self._stdin) or os.tcgetpgrp(self._stdin) != os.getpgrp():
                return
        except OSError:
            return  # not the terminal of our session
        try:
            before, mode = termios.tcgetattr(self._stdin), termios.tcgetattr(self._stdin)
        except termios.error as error:
            raise HostError("to say how the terminal is set (tcgetattr)", error.args[0]) from error
        mode[0] &= ~(termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP)
        mode[0] &= ~(termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON)
        mode[1] |= termios.OPOST  # what the guest and we print keeps its line ends
        mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN | termios.ISIG)
        self._saved = before
        try:
            termios.tcsetattr(self._stdin, termios.TCSANOW, mode)
        except termios.error as error:
            raise HostError("a raw terminal (tcsetattr)", error.args[0]) from error
        if self._reader is None:
            with asking("a pipe"):
                self._wake = os.pipe()
            reader = Helper("terminal", partial(self._read, self._stdin, self._wake[0]), self._failed)
            reader.start()
            self._reader = reader

    def _ended(self, number: int, frame: FrameType | None) -> None:
        self.restore()
        self._quit(128 + number)

    def _continued(self, number: int, frame: FrameType | None) -> None:
        self.restore()
        self._make_raw()  # the shell put its own mode back while we were stopped

    def _quit(self, status: int) -> None:
        if not self._quitting:
            self._quitting = True
            self._on_quit(status)

    def _read(self, stdin: int, wake: int) -> None:
        escape = Escape()
        selector = poll_selector()
        selector.register(stdin, selectors.EVENT_READ)
        selector.register(wake, selectors.EVENT_READ)
        while True:
            if wake in [key.fileobj for key, _ in selector.select()]:
                return
            try:
                data = os.read(stdin, 4096)
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                data = b""
            if not data:
                return  # the terminal is gone; SIGHUP says so, if anybody is to know
            for part in escape.feed(data):
                if part is Key.QUIT:
                    self._quit(0)
                elif part is Key.POWER:
                    self._on_power()
                elif part is Key.HELP:
                    self._show(HELP.encode())
                else:
                    assert isinstance(part, bytes)
                    self._on_input(part)
