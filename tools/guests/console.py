"""A `trapgate run` process and its serial console: send what a user would type, wait for what the guest prints."""

import os
import re
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

PROMPT = "/ # "
CURSOR_QUERY = "\x1b[6n"  # BusyBox asks the terminal where its cursor is before it prints a prompt; we need not answer
PATIENCE = 120.0


def trapgate() -> str:
    """The command beside this Python."""
    return str(Path(sys.executable).with_name("trapgate"))


class ConsoleError(Exception):
    """The guest did not say or do what was waited for; the text holds its last lines."""


class Console:
    """A context manager: `arguments` are those of `trapgate run`. Standard error is kept apart, in `errors` after the end."""

    def __init__(self, arguments: Sequence[str], command: Sequence[str] = ()) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed in __exit__
        self._process = subprocess.Popen(
            [*(command or (trapgate(), "run", "--no-reboot")), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._selector = selectors.DefaultSelector()
        assert self._process.stdout is not None
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        self._seen = 0
        self.output = ""
        self.raw = b""
        self.started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._selector.close()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            stream.close()

    @property
    def pid(self) -> int:
        """The process that runs the guest."""
        return self._process.pid

    @property
    def errors(self) -> str:
        """What came over standard error so far."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def _read(self, seconds: float) -> bool:
        """Take what has been printed; False at its end. ConsoleError when nothing comes."""
        assert self._process.stdout is not None
        if not self._selector.select(max(seconds, 0)):
            raise ConsoleError(f"the guest printed nothing more; its last lines:\n{self.tail()}")
        data = os.read(self._process.stdout.fileno(), 65536)
        self.raw += data
        self.output = self.raw.decode(errors="replace").replace("\r", "").replace(CURSOR_QUERY, "")
        return bool(data)

    def wait_for(self, text: str, seconds: float = PATIENCE) -> str:
        """What the guest printed since the last call, up to and with a text. ConsoleError when it does not come in time."""
        until = time.monotonic() + seconds
        while (at := self.output.find(text, self._seen)) < 0:
            try:
                if not self._read(until - time.monotonic()):
                    raise ConsoleError(f"the guest ended before {text!r} came; its last lines:\n{self.tail()}{self.errors}")
            except ConsoleError as error:
                raise ConsoleError(f"waited for {text!r}: {error}") from None
        begin, self._seen = self._seen, at + len(text)
        return self.output[begin : self._seen]

    def listen(self, seconds: float) -> bool:
        """Take what the guest prints for so long; False when it has ended."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._selector.select(left) and not self._read(0):
                return False
        return True

    def send(self, text: str) -> None:
        """Type."""
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def command(self, line: str, seconds: float = PATIENCE) -> str:
        """What a shell command prints, without the echo of its line and without kernel messages."""
        self.send(line + "\n")
        text = self.wait_for(PROMPT, seconds).removesuffix(PROMPT)
        _, _, said = text.partition("\n")
        return re.sub(r"^\[ *\d+\.\d+\] .*\n", "", said, flags=re.MULTILINE)

    def finish(self, seconds: float = PATIENCE) -> int:
        """Read to the end of the output; the exit status."""
        until = time.monotonic() + seconds
        while self._read(until - time.monotonic()):
            pass
        return self._process.wait(max(until - time.monotonic(), 1))

    def tail(self, lines: int = 8) -> str:
        """The last lines printed."""
        return "".join(f"  {line}\n" for line in self.output.splitlines()[-lines:])
