"""`trapgate exec` runs a program of this host in a guest on the software CPU, with its streams, signals and exit status."""

import contextlib
import errno
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Protocol

from trapgate.build import Hearing
from trapgate.cli import errors
from trapgate.cli.gathering import Gathered
from trapgate.cli.guest import Compiling, tell_once
from trapgate.cli.options import ShareChoice
from trapgate.cli.passing import Input, Output, Passage, give_back, where
from trapgate.cli.runner import LOOK, PATIENCE
from trapgate.cli.shares import opened
from trapgate.cli.telling import tell
from trapgate.cli.terminal import settings
from trapgate.debug.buslock import Mode
from trapgate.devices.parts import Maker
from trapgate.devices.virtio.fs import virtio_fs
from trapgate.exec import caller, messages, source
from trapgate.exec.errors import GuestFailed
from trapgate.exec.guest import Guest, Listeners, Setup
from trapgate.exec.messages import LIMITS, Port, Report, Request, Where
from trapgate.exec.network import network
from trapgate.hostcall import Helper, HostError, held_back
from trapgate.machine import Machine
from trapgate.passt import Passt
from trapgate.sandbox.confine import confine
from trapgate.sandbox.landlock import KEEP, READ, WRITABLE
from trapgate.sandbox.policy import Needs
from trapgate.stencil.cache import Cache, default_directory
from trapgate.values import dataclass

GROUP = (signal.SIGINT, signal.SIGQUIT)
"""Signals that a terminal sends to all of a job: so does the guest."""
PASSED = (*GROUP, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
MB = 1e6


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user asked for, option by option."""

    program: tuple[str, ...]
    share: str
    writes: tuple[str, ...]
    memory: int
    cpus: int
    net: bool
    timeout: float | None
    kernel: str | None
    sandbox: bool


class Progress:
    """A line on a terminal about what takes long, once; nothing where standard error is none."""

    def __init__(self) -> None:
        self._shown = False
        self._terminal = os.isatty(2)

    def __call__(self, what: str, done: int, whole: int) -> None:
        """Show what is done, so many of so many bytes."""
        if self._terminal:
            amount = f": {done / MB:.1f} of {whole / MB:.1f} MB" if whole else ""
            self._write(f"\r\033[Ktrapgate: {what}{amount} ")
            self._shown = True

    def clear(self) -> None:
        """Leave the line to others."""
        if self._shown:
            self._write("\r\033[K")
            self._shown = False

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)
            sys.stderr.flush()


class Finder(Protocol):
    """Looks at a run from outside."""

    def attach(self, machine: Machine) -> None:
        """The guest is booted: from here on all is the program's. On the machine's thread."""
        ...

    def report(self, end: Report | int | None) -> int | None:
        """Tell what was found, once nothing runs any more. An exit status of its own; None: as the program's end has it.
        It counts but for a program that a signal to this process has ended.

        `end`: how the program ended, or the status that ended it; None: the guest failed.
        """
        ...


def run(choice: Choice, finder: Finder | None = None) -> int:
    """Run the program; its exit status. A program that a signal has killed has this process killed by the same one.

    A `finder` hears of bus locks, if it wants to.
    """
    progress, end, status = Progress(), None, None
    try:
        with contextlib.ExitStack() as stack:
            stack.callback(progress.clear)
            with held_back():  # no thread is to be older than the sandbox
                one = _Run(choice, progress, stack, finder)
                if choice.sandbox:
                    _confine(choice)
            try:
                end = one.run()
            finally:
                if finder is not None:
                    status = finder.report(end)
        return _settled(end, choice) if status is None or one.was_ended_here(end) else status
    except (GuestFailed, HostError) as error:
        raise errors.Failure(str(error), errors.GUEST_FAILED) from error


def _confine(choice: Choice) -> None:
    """From now on this process opens nothing but its cache and what the guest is given, and asks for what a run takes alone."""
    shared = [(Path(choice.share), READ), *((Path(path), WRITABLE) for path in choice.writes)]
    confine(Needs(shares=True, writes=bool(choice.writes)), [(default_directory(), KEEP), *shared], settings())


def _shares(choice: Choice, stack: contextlib.ExitStack) -> tuple[Maker, ...]:
    """The devices that the host's files come by; open until `stack` closes them. ShareError."""
    shares = [ShareChoice(choice.share, tag="root", lasting=True)]
    shares += [ShareChoice(path, tag=f"write{number}", writable=True) for number, path in enumerate(choice.writes)]
    if not choice.writes:  # the machine that is kept has one in any case, so that it serves with and without
        shares.append(ShareChoice(choice.share, tag="write0"))
    return tuple(map(virtio_fs, opened(shares, stack)))


def _passt(choice: Choice, stack: contextlib.ExitStack) -> Passt | None:
    """What leads to the host's network, if the program is to reach it; until `stack` closes it. NetworkError."""
    if not choice.net:
        return None
    passt = Passt(tell)
    stack.callback(passt.close)
    return passt


def _settled(end: Report | int, choice: Choice) -> int:
    """The exit status that says how it ended."""
    match end:
        case int():
            return end
        case messages.Exited(status):
            return status
        case messages.NotStarted(number):
            tell(f"error: {choice.program[0]}: {os.strerror(number)}")
            return errors.NOT_FOUND if number == errno.ENOENT else errors.NOT_EXECUTABLE
        case messages.Killed(number):
            return _die(number)
    raise AssertionError(end)


def _die(number: int) -> int:
    """Be killed by a signal; or the status that a shell tells it by, where the host does not let us: SIGSYS is the sandbox's."""
    with contextlib.suppress(OSError, ValueError):
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    return 128 + number


class _Run:
    """All that takes part in one. `stack` undoes it."""

    def __init__(self, choice: Choice, progress: Progress, stack: contextlib.ExitStack, finder: Finder | None) -> None:
        self._choice, self._progress, self._stack, self._finder = choice, progress, stack, finder
        self._streams = where()
        self._passage = Passage(self._streams)
        self._outputs = {port: Gathered(port.name.lower()) for port in (Port.STDOUT, Port.STDERR, Port.TERMINAL)}
        self._started = self._over = False
        self._passed = set[int]()  # signals of ours that the program has been sent
        self._used = 0
        self._status: int | None = None
        self._input: Input | None = None
        self._end: Report | None = None
        self._error: BaseException | None = None
        self._done = threading.Event()
        self._limits = [resource.getrlimit(number) for number in range(LIMITS)]  # before we change ours
        resource.setrlimit(resource.RLIMIT_CORE, (0, self._limits[resource.RLIMIT_CORE][1]))  # a core is the program's
        shares = _shares(choice, stack)
        found = source.find(choice.kernel, Cache(), progress)
        passt = _passt(choice, stack)
        listeners = Listeners({port: one.write for port, one in self._outputs.items()}, self._told)
        bus_locks = Mode.OFF if finder is None else Mode.REPORT
        setup = Setup(
            found, choice.memory, choice.cpus, shares=shares, bus_locks=bus_locks, network=None if passt is None else passt.port
        )
        with Compiling() as compiling:
            self._guest = Guest(setup, listeners, Hearing(compiling, tell_once))
        stack.callback(self._guest.close)
        self._guest.prepare()
        self._guest.machine.engine.catch_crashes(settings())
        self._request = self._asked()
        self._lead_outputs()

    def run(self) -> Report | int:
        """How the program ended, or the status that ends us before."""
        before = {number: signal.signal(number, handler) for number, handler in self._handlers().items()}
        thread = Helper("machine", self._work)
        try:
            thread.start()
            while not self._done.wait(LOOK):  # a signal that the kernel gave to another thread is seen when this one wakes
                pass
            thread.join(PATIENCE)
            if thread.is_alive():
                self._passage.leave()
                tell("the machine does not stop; it is ended by force")
                os._exit(errors.GUEST_FAILED if self._status is None else self._status)
            for one in self._outputs.values():
                one.close(lambda: self._status is not None)
        finally:
            self._over = True
            self._passage.leave()
            for number, handler in before.items():
                signal.signal(number, handler)
            if self._input is not None:
                self._input.close()
        if self._status is not None:
            return self._status
        if self._error is not None:
            raise self._error
        assert self._end is not None
        if self._input is not None and self._streams[0] is Where.PORT:
            give_back(0, self._input.read, self._used)
        return self._end

    def was_ended_here(self, end: Report | int) -> bool:
        """Whether a signal has killed the program that was sent to this process: Ctrl-C, somebody's `kill`."""
        return isinstance(end, messages.Killed) and end.signal in self._passed

    def _asked(self) -> Request:
        """The program, and all that it gets of this process. Failure."""
        try:
            directory = os.getcwdb()
        except OSError as error:
            raise errors.Failure(f"the working directory is gone: {error.strerror}") from error
        return Request(
            arguments=[os.fsencode(word) for word in self._choice.program],
            environment=[name + b"=" + value for name, value in os.environb.items()],
            directory=directory,
            host=os.fsencode(socket.gethostname()),
            uid=os.geteuid(),
            gid=os.getegid(),
            groups=os.getgroups(),
            umask=caller.umask(),
            limits=self._limits,
            ignored=caller.ignored(),
            blocked=frozenset(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
            streams=self._streams,
            writes=[os.fsencode(os.path.realpath(path)) for path in self._choice.writes],
            size=self._passage.size,
            modes=self._passage.modes,
            network=network() if self._choice.net else None,
        )

    def _lead_outputs(self) -> None:
        machine = self._guest.machine
        places = {Port.STDOUT: 1, Port.STDERR: 2, Port.TERMINAL: self._passage.descriptor}
        for port, one in self._outputs.items():
            sink = Output(places[port], partial(self._guest.send, messages.unread(port)))
            one.lead_to(sink.write, self._guest.ports[port].hold, machine.fail)
            self._stack.callback(one.close)

    # On the machine's thread

    def _work(self) -> None:
        try:
            self._guest.boot(self._progress)
            if self._finder is not None:
                self._finder.attach(self._guest.machine)
            self._progress.clear()
            self._passage.enter()
            self._end = self._guest.run(self._request)
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()

    def _told(self, report: Report) -> None:
        match report:
            case messages.Started():
                self._begin()
            case messages.Stopped():
                self._passage.stop()
                self._guest.send(messages.signal_group(signal.SIGCONT))
            case messages.Used(count):
                self._used = count

    def _begin(self) -> None:
        """The program runs: now its input is read, and its time counts."""
        self._started = True
        port = {Where.PORT: Port.STDIN, Where.TERMINAL: Port.TERMINAL}.get(self._streams[0])
        if port is not None and (port is Port.STDIN or self._passage.reads):
            self._input = Input(0, self._guest.ports[port], self._guest.machine.fail)
        if self._choice.timeout is not None:
            timer = threading.Timer(self._choice.timeout, partial(self._quit, errors.TIMED_OUT))
            timer.daemon = True
            timer.start()
            self._stack.callback(timer.cancel)

    # From any thread, and from signal handlers

    def _quit(self, status: int) -> None:
        """End the guest, whatever the program does."""
        self._status = status
        self._guest.machine.pause()
        self._done.set()

    def _handlers(self) -> dict[int, Callable[[int, FrameType | None], None]]:
        """What is done about signals that are not ignored."""
        found: dict[int, Callable[[int, FrameType | None], None]] = {number: self._signalled for number in PASSED}
        if self._passage.descriptor >= 0:
            found |= {signal.SIGWINCH: self._resized, signal.SIGCONT: self._resized}
        return {number: handler for number, handler in found.items() if signal.getsignal(number) is not signal.SIG_IGN}

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if not self._started or self._done.is_set():  # in front of the program, or behind it, while a slow reader reads
            self._passage.leave()
            self._quit(128 + number)
        elif not self._over:
            self._passed.add(number)
            self._guest.send(messages.signal_group(number) if number in GROUP else messages.signal(number))

    def _resized(self, number: int, frame: FrameType | None) -> None:
        if self._started and not self._over:
            if number == signal.SIGCONT:
                self._passage.enter()
            self._guest.send(messages.resize(self._passage.size))
