"""Sends output of the guest elsewhere than to the terminal: to a file, or a pseudo-terminal that another program opens."""

import contextlib
import os
import tty

from trapgate.cli.errors import Failure


class OutputFile:
    """Everything the guest sends, in a file (made anew). When the disk is full the rest is lost; `trouble` says so."""

    def __init__(self, option: str, path: str) -> None:
        try:
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise Failure(f"{option}: {path!r} cannot be written: {reason}") from error
        self._path = path
        self.trouble = ""

    def write(self, data: bytes) -> None:
        """Append bytes."""
        try:
            while data and not self.trouble:
                data = data[os.write(self._handle, data) :]
        except OSError as error:
            self.trouble = f"output of the guest is lost: {self._path} cannot be written: {error.strerror}"

    def close(self) -> None:
        """No more output."""
        with contextlib.suppress(OSError):
            os.close(self._handle)


class SerialPty:
    """A pseudo-terminal in raw mode; `name` is what to open. What nobody reads is dropped once its buffer is full, as on a wire."""

    def __init__(self) -> None:
        try:
            self.input, self._slave = os.openpty()  # the slave stays open: else reading fails until somebody opens it
        except OSError as error:
            raise Failure(f"--serial pty: the host has no pseudo-terminal left: {error.strerror}") from error
        self.name = os.ttyname(self._slave)
        tty.setraw(self._slave)
        os.set_blocking(self.input, False)

    def write(self, data: bytes) -> None:
        """Send bytes, or drop them."""
        with contextlib.suppress(BlockingIOError):
            while data:
                data = data[os.write(self.input, data) :]

    def close(self) -> None:
        """Hang up."""
        os.close(self.input)
        os.close(self._slave)
