"""Runs the demo's guest in a process of its own, under the sandbox; what it leaves in its memory comes back, and nothing else.

The process is this command with a hidden subcommand: it says when it is ready, runs the guest, and writes how that ended and the
memory of its one segment to standard output. What goes wrong there it tells by itself, on standard error.
"""

import contextlib
import selectors
import struct
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import click

from trapgate import guests
from trapgate.build import Hearing, default_cpu, load_guest, make_machine
from trapgate.check.guest import DemoGuest, Results
from trapgate.cli.errors import HOST_FAILURE, INTERNAL, Failure
from trapgate.cli.guest import Compiling, tell_once
from trapgate.gdb.address import AddressError, UnixAddress
from trapgate.gdb.client import Client, ClientError
from trapgate.gdb.host import DebugHost
from trapgate.hostcall import asking, held_back, poll_selector
from trapgate.machine import MachineConfig
from trapgate.sandbox.confine import confine
from trapgate.sandbox.landlock import KEEP, Right
from trapgate.sandbox.policy import Needs
from trapgate.stencil.cache import default_directory
from trapgate.stops import ExitKind, MachineExit

COMMAND = "demo-guest"
MEMORY = 16 << 20
PATIENCE = 10.0  # seconds for the guest to end once the debugger has let it go
_READY = b"ready\n"
_END = struct.Struct("<II")  # how it ended, by its place in ExitKind, and the status
_KINDS = tuple(ExitKind)


def serve(socket: str | None, engine: str) -> int:
    """Run the guest, with a stub at a UNIX socket that it waits for or alone, and write what came of it; the exit status."""
    guest, output = DemoGuest(), sys.stdout.buffer
    with contextlib.ExitStack() as stack:
        with held_back():  # no thread is to be older than the sandbox
            with Compiling() as progress:
                machine = make_machine(MachineConfig(memory=MEMORY, cpu=default_cpu(engine)), engine, Hearing(progress, tell_once))
            stack.callback(machine.close)
            load_guest(machine, str(guests.DEMO))
            body, allowed = machine.run, [(default_directory(), KEEP)] if engine == "soft" else []
            if socket is not None:
                try:
                    host = DebugHost(machine, UnixAddress(socket), wait=True)
                except AddressError as error:
                    raise Failure(str(error), HOST_FAILURE) from error
                stack.callback(host.close)
                body = host.run
                allowed.append((Path(socket).parent, Right.REMOVE_FILE))
            machine.engine.catch_crashes(None)
            confine(Needs(debugger=socket is not None, kvm=engine == "kvm"), allowed)
        output.write(_READY)
        output.flush()
        end = body()
        output.write(_END.pack(_KINDS.index(end.kind), end.status) + machine.ram.read(guest.base, guest.memory))
    return 0


class GuestProcess:
    """The guest in its process, used as a context manager; `socket` is where a debugger finds it, None: it runs alone.

    What that process cannot do has been told when this one finds its output wanting: click's Exit then, with its status.
    """

    def __init__(self, guest: DemoGuest, socket: str | None = None, engine: str = "soft") -> None:
        self._guest, self._socket = guest, socket
        begin = "from trapgate.cli.entry import main; main()"
        command = [sys.executable, "-P", "-c", begin, COMMAND, "--engine", engine, *([socket] if socket is not None else [])]
        with asking("a process for the guest"):
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0)

    def __enter__(self) -> Self:
        if self._read(len(_READY)) != _READY:
            self._failed()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def results(self) -> tuple[Results, MachineExit]:
        """What the guest has left in its memory, and how it ended. A guest whose debugger has left it amid a run is ended."""
        if self._socket is not None:
            self._end_left()
        head = self._read(_END.size)
        memory = self._read(self._guest.memory)
        if len(head) + len(memory) < _END.size + self._guest.memory:
            self._failed()
        kind, status = _END.unpack(head)
        if kind >= len(_KINDS):
            self._failed()
        base = self._guest.base
        return self._guest.results(lambda address, length: memory[address - base :][:length]), MachineExit(_KINDS[kind], status)

    def _end_left(self) -> None:
        """End a guest that still runs after some patience, by its stub."""
        with poll_selector() as selector:
            assert self._process.stdout is not None
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if selector.select(PATIENCE):
                return
        assert self._socket is not None
        with contextlib.suppress(ClientError), Client(UnixAddress(self._socket), PATIENCE) as client:
            client.kill()

    def _read(self, size: int) -> bytes:
        """So many bytes of what the process writes; fewer at its end."""
        data = b""
        assert self._process.stdout is not None
        while len(data) < size and (piece := self._process.stdout.read(size - len(data))):
            data += piece
        return data

    def _failed(self) -> NoReturn:
        with contextlib.suppress(subprocess.TimeoutExpired):  # its output has ended: so does it
            self._process.wait(PATIENCE)
        self.__exit__(None, None, None)
        raise click.exceptions.Exit(self._process.returncode if self._process.returncode > 0 else INTERNAL)
