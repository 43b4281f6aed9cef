"""Runs a program of this host in a Linux guest, as `trapgate exec` does, for programs that want its output."""

import os
import resource
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from trapgate.build import Hearing
from trapgate.devices.virtio.fs import virtio_fs
from trapgate.exec import caller, messages, source
from trapgate.exec.errors import GuestFailed
from trapgate.exec.guest import Guest, Listeners, Setup
from trapgate.exec.messages import LIMITS, Network, Port, Report, Request
from trapgate.exec.network import network
from trapgate.fuse.share import Share
from trapgate.passt import Passt
from trapgate.stencil.cache import Cache
from trapgate.values import dataclass


@dataclass(frozen=True, slots=True)
class Executed:
    """How a program ended: its exit status, or less 0 than the number of the signal that killed it; what it wrote."""

    status: int
    stdout: bytes
    stderr: bytes


def execute(
    program: Sequence[str | bytes],
    *,
    input: bytes = b"",
    share: str | Path = "/",
    writes: Sequence[str | Path] = (),
    directory: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    memory: int = 1 << 30,
    cpus: int = 1,
    net: Literal["user"] | None = None,
    kernel: str | None = None,
    timeout: float | None = None,
    hearing: Hearing = Hearing(),  # noqa: B008  (it is frozen)
) -> Executed:
    """Run a program of this host, with its arguments, in a guest that sees the host's files below `share`; wait for its end.

    What it writes is gone with it, but below `writes`. `directory` and `environment` are those of this process where they are not
    given; `memory` is in bytes. With `net` it reaches this host's network, through passt. `kernel` as for `trapgate exec --kernel`.
    OSError: the program cannot be executed; TimeoutError: it has not ended after so many seconds. A TrapgateError: ShareError;
    NetworkError; ExecError, no kernel can be had; GuestFailed, the guest broke, not the program; what `Machine` raises.
    """
    out = {Port.STDOUT: bytearray(), Port.STDERR: bytearray()}
    with ExitStack() as stack:
        places = [(share, "root", False), *((path, f"write{number}", True) for number, path in enumerate(writes))]
        if not writes:  # the machine that is kept has one in any case
            places.append((share, "write0", False))
        shares = [Share(path, tag=tag, writable=writable, lasting=tag == "root") for path, tag, writable in places]
        for one in shares:
            stack.callback(one.close)
        listeners = Listeners({port: data.extend for port, data in out.items()})
        found = source.find(kernel, Cache(), _quiet)
        passt = None if net is None else Passt(hearing.note)
        if passt is not None:
            stack.callback(passt.close)
        setup = Setup(found, memory, cpus, shares=tuple(map(virtio_fs, shares)), network=None if passt is None else passt.port)
        guest = Guest(setup, listeners, hearing)
        stack.callback(guest.close)
        guest.prepare()
        guest.boot(_quiet)
        guest.ports[Port.STDIN].feed(input)
        guest.ports[Port.STDIN].end()
        end = _ended(guest, _request(program, directory, environment, writes, network() if net else None), timeout)
    match end:
        case messages.NotStarted(number):
            raise OSError(number, os.strerror(number), os.fsdecode(program[0]))
        case messages.Killed(number):
            status = -number
        case messages.Exited(number):
            status = number
        case _:
            raise AssertionError(end)
    return Executed(status, bytes(out[Port.STDOUT]), bytes(out[Port.STDERR]))


def _quiet(what: str, done: int, whole: int) -> None:
    pass


def _ended(guest: Guest, request: Request, timeout: float | None) -> Report:
    """Run it; how it ended. TimeoutError, GuestFailed."""
    late = threading.Event()

    def end() -> None:
        late.set()
        guest.machine.pause()

    timer = threading.Timer(timeout or 0, end)
    if timeout is not None:
        timer.start()
    try:
        return guest.run(request)
    except GuestFailed as error:
        if late.is_set():
            raise TimeoutError(f"{os.fsdecode(request.arguments[0])} has not ended after {timeout} s") from error
        raise
    finally:
        timer.cancel()


def _request(
    program: Sequence[str | bytes],
    directory: str | Path | None,
    environment: Mapping[str, str] | None,
    writes: Sequence[str | Path],
    reached: Network | None,
) -> Request:
    variables = (
        os.environb if environment is None else {os.fsencode(name): os.fsencode(value) for name, value in environment.items()}
    )
    return Request(
        arguments=[os.fsencode(word) for word in program],
        environment=[name + b"=" + value for name, value in variables.items()],
        directory=os.fsencode(directory or os.getcwd()),
        host=os.fsencode(socket.gethostname()),
        uid=os.geteuid(),
        gid=os.getegid(),
        groups=os.getgroups(),
        umask=caller.umask(),
        limits=[resource.getrlimit(number) for number in range(LIMITS)],
        ignored=caller.ignored(),
        writes=[os.fsencode(os.path.realpath(path)) for path in writes],
        network=reached,
    )
