"""Reaches the monitor that is checked: one that runs already, or one that is started as often as it takes."""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Protocol

from trapgate.check import image
from trapgate.check.guest import DemoGuest
from trapgate.check.stub import Stub, StubError
from trapgate.gdb.address import LOOPBACK, Address, TcpAddress

CONNECTS = 60.0  # s until a started monitor's stub must take a connection
PAUSE = 0.05  # s between two attempts
PLACES = ("image", "multiboot", "port")


class VmmError(Exception):
    """The monitor cannot be had; one line."""


class Vmm(Protocol):
    """A monitor with our guest in it."""

    def begin(self) -> Stub:
        """A stub whose guest is at its start or takes orders. VmmError when there is none, or none any more."""
        ...

    def end(self) -> None:
        """Give up what `begin` gave."""
        ...


class Running:
    """A monitor that somebody else has started."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._stub: Stub | None = None
        self._used = False

    def begin(self) -> Stub:
        """Connect; a second time only reaches a guest that still takes orders."""
        try:
            self._stub = Stub(self._address)
        except StubError as error:
            raise VmmError(f"{'it is gone: ' if self._used else ''}{error}") from error
        self._used = True
        return self._stub

    def end(self) -> None:
        """Hang up."""
        if self._stub is not None:
            self._stub.close()


class Spawned:
    """A monitor by its command: words with {image}, {multiboot} and {port} in them."""

    def __init__(self, command: str, guest: DemoGuest, folder: Path) -> None:
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise VmmError(f"--spawn {command!r}: {error}") from error
        if not any("{port}" in word for word in self._words):
            raise VmmError("--spawn: the command needs {port}, where its gdb stub is to listen, and {image} or {multiboot}")
        self._folder = folder
        self._paths = {"image": folder / "check.elf", "multiboot": folder / "check-multiboot.elf"}
        self._paths["image"].write_bytes(image.pvh(guest))
        self._paths["multiboot"].write_bytes(image.multiboot(guest))
        self._process: subprocess.Popen[bytes] | None = None
        self._stub: Stub | None = None

    def begin(self) -> Stub:
        """Start it and connect."""
        port = _free_port()
        places = {name: str(path) for name, path in self._paths.items()} | {"port": str(port)}
        words = []
        for word in self._words:
            for name in PLACES:
                word = word.replace(f"{{{name}}}", places[name])
            words.append(word)
        said = self._folder / "output"
        try:
            with said.open("wb") as output:
                self._process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
                )
        except OSError as error:
            raise VmmError(f"cannot start {words[0]}: {error.strerror}") from error
        deadline = time.monotonic() + CONNECTS
        while True:
            try:
                self._stub = Stub(TcpAddress(LOOPBACK, port))
                return self._stub
            except StubError as error:
                if self._process.poll() is not None:
                    last = said.read_text(errors="replace").strip().splitlines()[-1:]
                    raise VmmError(f"{words[0]} ended with status {self._process.returncode}: {' '.join(last)}") from error
                if time.monotonic() > deadline:
                    raise VmmError(f"{words[0]}: no stub on port {port} within {CONNECTS:.0f} s: {error}") from error
            time.sleep(PAUSE)

    def end(self) -> None:
        """Stop it, with all that it has started."""
        if self._stub is not None:
            self._stub.close()
            self._stub = None
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def _free_port() -> int:
    with socket.socket() as one:
        one.bind((LOOPBACK, 0))
        return int(one.getsockname()[1])
