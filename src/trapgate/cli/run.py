"""`trapgate run`: one guest, from its image to an exit status. The machine has its own thread; the main one hears signals."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from trapgate import screen
from trapgate.boot import BootPlan
from trapgate.build import Hearing, default_cpu, make_machine, plan_guest, put_guest, restart
from trapgate.cli import errors, streams
from trapgate.cli.gathering import Gathered
from trapgate.cli.guest import Compiling, tell_once
from trapgate.cli.options import BusLockChoice, WhereChoice
from trapgate.cli.serial import OutputFile, SerialPty
from trapgate.cli.terminal import Terminal, settings
from trapgate.debug.buslock import Mode
from trapgate.errors import TrapgateError
from trapgate.hostcall import Helper, held_back
from trapgate.machine import ClockKind, Machine, MachineConfig
from trapgate.sandbox.confine import confine
from trapgate.sandbox.landlock import DEVICE, KEEP, Right
from trapgate.sandbox.policy import Needs
from trapgate.stencil.cache import default_directory
from trapgate.stops import ExitKind, MachineExit

if TYPE_CHECKING:
    from trapgate.cli.profile import Profiler
    from trapgate.gdb.address import Address
    from trapgate.gdb.architecture import Architecture

LOOK = 0.2  # seconds until a signal is noticed at the latest
PATIENCE = 5.0  # seconds for the machine to stop when the user wants to quit


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for, option by option."""

    image: str
    initrd: str | None
    modules: tuple[str, ...]
    command_line: str
    memory: int
    cpus: int
    cpu: str | None
    engine: str
    gdb: "Address | None"
    wait: bool
    serial: WhereChoice
    debugcon: WhereChoice
    bus_locks: BusLockChoice
    clock: str
    profile: bool = False
    symbols: str | None = None
    load_at: int | None = None
    gdb_arch: "Architecture | None" = None
    sandbox: bool = False
    """For the whole process and for good: only a command that does nothing else asks for it."""


def tell(text: str) -> None:
    """One or more lines for the user, on standard error."""
    with contextlib.suppress(OSError, ValueError):
        print(_lines(text), end="", file=sys.stderr, flush=True)


def _lines(text: str) -> str:
    return "".join(f"trapgate: {line}\n" for line in text.splitlines())


class Runner:
    """Runs `body` on a thread of its own until it ends or the user quits; `stop` asks it to end, from any thread."""

    def __init__(self, body: Callable[[], MachineExit], stop: Callable[[], None]) -> None:
        self._body, self._stop = body, stop
        self._done = threading.Event()
        self._end: MachineExit | None = None
        self._error: BaseException | None = None
        self.asked: int | None = None
        """The status that somebody wants to quit with."""
        self.stuck = False
        """Whether the machine did not stop when it was asked to: its thread still runs."""

    def quitting(self) -> bool:
        """Whether somebody wants to quit."""
        return self.asked is not None

    def quit(self, status: int) -> None:
        """Ask the machine to stop; `run` gives this status. From any thread, and from signal handlers."""
        self.asked = status
        self._stop()
        self._done.set()

    def run(self) -> MachineExit | int:
        """How the machine ended, or the status that the user quit with."""
        thread = Helper("machine", self._work)
        thread.start()
        while not self._done.wait(LOOK):  # a signal that the kernel gave to another thread is seen only when this one wakes
            pass
        thread.join(PATIENCE)
        self.stuck = thread.is_alive()
        if self._error is not None:
            raise self._error
        if self.asked is not None:
            return self.asked
        assert self._end is not None
        return self._end

    def _work(self) -> None:
        try:
            self._end = self._body()
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()


def run(request: Request) -> int:
    """Run the guest; the exit status of the command."""
    if request.cpus != 1:
        raise errors.Failure(f"--cpus {request.cpus}: this version runs guests with one vCPU; leave the option out")
    with contextlib.ExitStack() as stack:
        return _run(request if request.gdb is None else _streams_for_gdb(request, request.gdb), stack)


def _streams_for_gdb(request: Request, address: "Address") -> Request:
    """With gdb on standard input and output, those are its alone, and as nobody else can come, the guest waits for it. Failure."""
    from trapgate.gdb.address import StdioAddress

    if not isinstance(address, StdioAddress):
        return request
    if os.isatty(0) or os.isatty(1):
        started = "target remote | trapgate run IMAGE --gdb stdio"
        raise errors.Failure(f"--gdb stdio: standard input and output are a terminal; let gdb start it: {started}")
    return replace(request, gdb=StdioAddress(*streams.give_away()), wait=True)


def _run(request: Request, stack: contextlib.ExitStack) -> int:
    with held_back():  # no thread is to be older than the sandbox
        run = _set_up(request, stack)
        if request.sandbox:
            _confine(request)
    with run.terminal:
        if request.serial.kind == "stdio" and not os.isatty(0):
            run.machine.attach_input(0)
        end = run.runner.run()
        for gathered in run.outputs:
            if not gathered.close(run.runner.quitting) and run.runner.asked is not None:
                end = run.runner.asked
    for line in run.machine.bus_locks.summary():
        tell(line)
    status = end if isinstance(end, int) else _status(end)
    if run.profiler is not None:
        run.profiler.report()
    if run.runner.stuck:
        tell("the machine does not stop; it is ended by force")
        os._exit(status)
    if not any(gathered.used for gathered in run.from_guest) and screen.text(run.machine.ram.read):
        tell("the guest wrote to the text screen at B8000h, which is not shown; to see it: --gdb :1234, in gdb 'monitor screen'")
    run.machine.engine.keep()
    return status


@dataclass(frozen=True, slots=True)
class _Run:
    """All that takes part in a run."""

    machine: Machine
    runner: Runner
    terminal: Terminal
    outputs: tuple[Gathered, ...]
    from_guest: tuple[Gathered, ...]  # those among them that it writes to itself
    profiler: "Profiler | None"


def _set_up(request: Request, stack: contextlib.ExitStack) -> _Run:
    """Open, load and make everything that a run takes; `stack` undoes it."""
    output, console, reports = Gathered(), Gathered("debug console"), Gathered("reports")
    report: Callable[[str], None] = lambda text: reports.write(_lines(text).encode())  # noqa: E731
    config = MachineConfig(
        memory=request.memory,
        cpu=request.cpu or default_cpu(request.engine),
        clock=ClockKind(request.clock),
        serial=output.write,
        debugcon=console.write,
        bus_locks=request.bus_locks.mode,
        bus_lock_limit=request.bus_locks.limit,
        bus_lock_levels=request.bus_locks.levels,
        report=report,
    )
    with Compiling() as progress:
        machine = make_machine(config, request.engine, Hearing(progress, tell_once))
    plan = _plan(machine, request)
    put_guest(machine, plan)
    if request.bus_locks.mode is not Mode.OFF:
        machine.bus_locks.describe = _places(request)
    profiler = _profiler(machine, request, report, stack)
    runner = _runner(machine, request, plan.code, profiler, report, stack)
    terminal = Terminal(
        on_input=lambda data: machine.post(lambda: machine.board.uart.feed(data)),
        on_quit=runner.quit,
        show=output.write,
        failed=machine.fail,
        stdin=0 if request.serial.kind == "stdio" else None,
    )
    sinks = (
        (output, _sink(request.serial, machine, terminal, stack)),
        (console, _console(request.debugcon, stack)),
        (reports, partial(_to_stream, sys.stderr)),
    )
    for gathered, sink in sinks:
        gathered.lead_to(sink, partial(machine.hold, gathered.name), machine.fail)
        stack.callback(gathered.close)
    stack.callback(machine.close)  # before anything that its threads use
    machine.engine.catch_crashes(settings())
    return _Run(machine, runner, terminal, tuple(gathered for gathered, _ in sinks), (output, console), profiler)


def _confine(request: Request) -> None:
    """From now on this process opens nothing but its cache, and asks the host for what a run takes alone."""
    allowed = [(default_directory(), KEEP)] if request.engine == "soft" else []
    if request.gdb is not None:  # a debugger may have the guest started again, from its image as it is then
        from trapgate.gdb.address import UnixAddress

        files = (request.image, request.initrd, *(module.partition(" ")[0] for module in request.modules))
        allowed += [(_replaced(file), Right.READ_FILE) for file in files if file is not None]
        if isinstance(request.gdb, UnixAddress):  # the socket is removed at the end
            allowed.append((Path(request.gdb.path).absolute().parent, Right.REMOVE_FILE))
        if request.engine == "kvm":
            allowed.append((Path("/dev/kvm"), DEVICE))
    confine(Needs(debugger=request.gdb is not None, kvm=request.engine == "kvm"), allowed)


def _replaced(file: str) -> Path:
    """What has to be readable so that a file can be read again when another has its name: its directory, unless that is all."""
    path = Path(file).resolve()
    return path if path.parent == path.parent.parent else path.parent


def _plan(machine: Machine, request: Request) -> BootPlan:
    """How the image that the user named starts, as it is now. ImageError."""
    return plan_guest(
        machine.ram, request.image, request.command_line, request.initrd, request.cpus, request.modules, request.load_at
    )


def _to_stream(stream: TextIO, data: bytes) -> None:
    with contextlib.suppress(OSError, ValueError):
        stream.write(data.decode(errors="replace"))
        stream.flush()


def _places(request: Request) -> Callable[[int], str]:
    """Names for addresses in reports. SymbolsError when there is no reading those that the user named."""
    from trapgate.symbols import symbols_of  # most runs report no bus locks

    symbols = symbols_of(request.image, request.symbols)

    def describe(address: int) -> str:
        found = symbols.find(address)
        return f"{found[0]}+{found[1]:#x}" if found is not None else ""

    return describe


def _profiler(machine: Machine, request: Request, report: Callable[[str], None], stack: contextlib.ExitStack) -> "Profiler | None":
    if not request.profile:
        return None
    from trapgate.cli.profile import Profiler  # most runs are not profiled

    profiler = Profiler(machine, request.image, request.symbols, report)
    stack.callback(profiler.close)
    return profiler


def _runner(
    machine: Machine,
    request: Request,
    code: int,
    profiler: "Profiler | None",
    report: Callable[[str], None],
    stack: contextlib.ExitStack,
) -> Runner:
    """What runs the machine: it alone, or with a stub for gdb."""
    if request.gdb is None:
        return Runner(machine.run, machine.pause)
    from trapgate.gdb.address import AddressError, StdioAddress, is_exposed
    from trapgate.gdb.host import DebugHost  # most runs have no debugger: they start without loading the stub
    from trapgate.gdb.target import TargetError

    def reset() -> int:
        try:
            plan = _plan(machine, request)
        except TrapgateError as error:
            raise TargetError(str(error)) from error
        restart(machine, plan)
        if profiler is not None:
            profiler.follow()
        return plan.code

    try:
        seen = None if profiler is None else profiler.stopped
        host = DebugHost(
            machine,
            request.gdb,
            wait=request.wait,
            reset=reset,
            seen=seen,
            architecture=request.gdb_arch,
            code=code,
            tell=report,
        )
    except AddressError as error:
        raise errors.Failure(str(error)) from error
    stack.callback(host.close)
    if isinstance(host.address, StdioAddress):
        tell("gdb has standard input and output; what the guest would write there goes to standard error")
    else:
        where = str(host.address).removeprefix("unix:")
        tell(f"listening for gdb; connect with: gdb -ex 'target remote {where}'" + (" (the guest waits)" if request.wait else ""))
    if is_exposed(host.address):
        tell("whoever can connect there, from other hosts too, owns the guest; --gdb unix:PATH is for you alone")
    return Runner(host.run, lambda: host.post(host.target.kill))


def _sink(choice: WhereChoice, machine: Machine, terminal: Terminal, stack: contextlib.ExitStack) -> Callable[[bytes], None]:
    """Where COM1 leads, as the user wants it."""
    if choice.kind == "stdio":
        return terminal.write
    if choice.kind == "file":
        return _file("--serial", choice.path, stack)
    pty = SerialPty()
    stack.callback(pty.close)
    machine.attach_input(pty.input)
    tell(f"COM1 is {pty.name}")
    return pty.write


def _console(choice: WhereChoice, stack: contextlib.ExitStack) -> Callable[[bytes], None]:
    """Where the debug console leads, as the user wants it."""
    if choice.kind == "file":
        return _file("--debugcon", choice.path, stack)
    if choice.kind == "none":
        return lambda data: None
    return partial(_to_stream, sys.stdout if choice.kind == "stdout" else sys.stderr)


def _file(option: str, path: str, stack: contextlib.ExitStack) -> Callable[[bytes], None]:
    file = OutputFile(option, path)
    stack.callback(lambda: tell(file.trouble))
    stack.callback(file.close)
    return file.write


def _status(end: MachineExit) -> int:
    """The exit status of a run that ended by itself, with its story told."""
    if end.kind is ExitKind.RESET:
        tell("the guest asked for a reset; the machine ends here")
    elif end.kind is ExitKind.SHUTDOWN:
        tell("triple fault: the guest has shut down; what led to it:")
    if end.story:
        tell(end.story)
    return end.status & 0xFF
