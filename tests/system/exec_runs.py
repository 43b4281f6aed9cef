"""`trapgate exec` as a user meets it, beside the same program run natively."""

import fcntl
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from trapgate.exec import source
from trapgate.exec.errors import ExecError
from trapgate.stencil.cache import Cache

TRAPGATE = str(Path(sys.executable).with_name("trapgate"))
PATIENCE = 240.0  # s; the first use boots the guest


def needs_kernel() -> None:
    """Skip the test, and say why, where there is no kernel for the guest and none can be had."""
    try:
        source.find(None, Cache(), lambda what, done, whole: None)
    except ExecError as error:
        pytest.skip(str(error))


@dataclass(frozen=True)
class Ended:
    """What a program wrote, and how it ended: as `subprocess` has it, a signal is negative."""

    out: bytes
    err: bytes
    status: int


def ran(command: Sequence[str], given: bytes | None = b"", **more: object) -> Ended:
    done = subprocess.run(command, input=given, capture_output=True, timeout=PATIENCE, check=False, **more)  # type: ignore[call-overload]
    return Ended(done.stdout, done.stderr, done.returncode)


def guest(*command: str, given: bytes | None = b"", options: Sequence[str] = (), **more: object) -> Ended:
    """What becomes of a program in the guest."""
    return ran([TRAPGATE, "exec", *options, "--", *command], given, **more)


def same(*command: str, given: bytes | None = b"", **more: object) -> Ended:
    """What becomes of a program, which is the same in the guest and here."""
    native, found = ran(command, given, **more), ran([TRAPGATE, "exec", "--", *command], given, **more)
    assert found == native
    return found


class Typist:
    """A program on a terminal of its own, of 33 rows and 99 columns, and what is typed there."""

    def __init__(self, *command: str) -> None:
        self.said = b""
        self.terminal, its = pty.openpty()
        termios.tcsetwinsize(its, (33, 99))

        def control() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self._program = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, start_new_session=True, preexec_fn=control)
        os.close(its)

    def until(self, text: bytes) -> "Typist":
        """Wait until it says so."""
        self._read(lambda: text in self.said)
        assert text in self.said, self.said
        return self

    def type(self, text: bytes) -> "Typist":
        os.write(self.terminal, text)
        return self

    def end(self) -> int:
        """Wait for its end; as `subprocess` has it."""
        self._read(lambda: False)
        os.close(self.terminal)
        return self._program.wait(PATIENCE)

    def _read(self, enough: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not enough():
            assert time.monotonic() < end, self.said
            if not select.select([self.terminal], [], [], 1)[0]:
                continue
            try:
                data = os.read(self.terminal, 4096)
            except OSError:
                return
            self.said += data
