"""`trapgate run` takes one guest from its image to an exit status. The machine has its own thread; the main one hears signals."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from trapgate import screen
from trapgate.boot import firmware
from trapgate.build import Hearing, default_cpu, make_machine
from trapgate.cli import errors, streams
from trapgate.cli.beginning import Guest
from trapgate.cli.gathering import Gathered
from trapgate.cli.guest import Compiling, tell_once
from trapgate.cli.options import WhereChoice
from trapgate.cli.request import Request
from trapgate.cli.runner import Runner
from trapgate.cli.serial import OutputFile, SerialPty
from trapgate.cli.telling import lines, tell
from trapgate.cli.terminal import Terminal, settings
from trapgate.debug.buslock import Mode
from trapgate.devices.parts import Maker
from trapgate.errors import TrapgateError
from trapgate.hostcall import held_back
from trapgate.machine import ClockKind, Machine, MachineConfig
from trapgate.sandbox.confine import confine
from trapgate.sandbox.landlock import DEVICE, KEEP, READ, WRITABLE, Right
from trapgate.sandbox.policy import Needs
from trapgate.stencil.cache import default_directory
from trapgate.stops import ExitKind, MachineExit
from trapgate.values import dataclass, replace

if TYPE_CHECKING:
    from trapgate.cli.profile import Profiler
    from trapgate.gdb.address import Address
    from trapgate.record.recording import Recording

SEED = b"trapgate"  # of the entropy device where runs repeat


def run(request: Request) -> int:
    """Run the guest; the exit status of the command."""
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
        if request.serial.kind == "stdio" and not os.isatty(0) and request.replayed is None:
            run.machine.attach_input(0)
        end = run.runner.run()
        for gathered in run.outputs:
            if not gathered.close(run.runner.quitting) and run.runner.asked is not None:
                end = run.runner.asked
        run.machine.check()  # what the guest wrote last may have failed after it had ended
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
    if request.save is not None and request.gdb is None:
        from trapgate import snapshot  # most runs are not kept

        snapshot.save(run.machine, request.save)
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
    report: Callable[[str], None] = lambda text: reports.write(lines(text).encode())  # noqa: E731
    kind = _kind(request)
    config = replace(
        kind,
        devices=_devices(request, kind.clock, stack),
        serial=output.write,
        debugcon=console.write,
        bus_locks=request.bus_locks.mode,
        bus_lock_limit=request.bus_locks.limit,
        bus_lock_levels=request.bus_locks.levels,
        report=report,
    )
    with Compiling() as progress:
        machine = make_machine(config, request.engine, Hearing(progress, tell_once))
    guest = Guest(machine, request, request.reboots, report)
    if request.bus_locks.mode is not Mode.OFF:
        from trapgate.cli.places import Places  # most runs report no bus locks

        machine.bus_locks.describe = Places(machine, request.image, request.symbols, stack).describe
    profiler = _profiler(machine, request, report, stack)
    if profiler is not None:
        guest.began = profiler.follow
    recording = _recording(machine, request, guest.code, report, stack)
    runner = _runner(machine, request, guest, profiler, recording, (output, console, reports), report, stack)
    terminal = Terminal(
        on_input=lambda data: machine.post(lambda: machine.feed(data)),
        on_quit=runner.quit,
        show=output.write,
        failed=machine.fail,
        on_power=partial(machine.post, partial(_press_power_button, machine, report)),
        stdin=0 if request.serial.kind == "stdio" and request.replayed is None else None,
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


def _devices(request: Request, clock: ClockKind, stack: contextlib.ExitStack) -> tuple[Maker, ...]:
    """What the user wants on the board, open until `stack` closes it. DiskError, ShareError, NetworkError."""
    if not (request.disks or request.cds or request.rng or request.shares or request.net):
        return ()
    from trapgate.devices.virtio.blk import virtio_blk  # most runs have none of them
    from trapgate.devices.virtio.rng import virtio_rng
    from trapgate.disk import Disk

    makers = []
    least = firmware.CYLINDER if request.firmware else 0
    for choice in request.disks:
        disk = Disk(choice.path, read_only=choice.read_only, snapshot=choice.snapshot, raw=choice.raw, least=least)
        stack.callback(disk.close)
        makers.append(virtio_blk(disk))
    if request.cds:
        from trapgate.devices.cd import starts
        from trapgate.devices.virtio.scsi import virtio_cd

        discs = [Disk(path, read_only=True) for path in request.cds]
        for disc in discs:
            stack.callback(disc.close)
            makers.append(virtio_cd(disc))
        if request.firmware and not request.disks and not any(map(starts, discs)):
            tell(f"{', '.join(request.cds)}: no El Torito boot record, so firmware will find nothing to start")
    if request.shares:
        from trapgate.cli.shares import opened  # as above
        from trapgate.devices.virtio.fs import virtio_fs

        makers += [virtio_fs(share) for share in opened(request.shares, stack)]
    if request.net:
        from trapgate.devices.virtio.net import virtio_net
        from trapgate.passt import Passt

        passt = Passt(tell)
        stack.callback(passt.close)
        makers.append(virtio_net(passt.port))
    if request.rng:
        makers.append(virtio_rng(SEED if clock is ClockKind.INSTRUCTIONS else None))
    return tuple(makers)


def _press_power_button(machine: Machine, report: Callable[[str], None]) -> None:
    if machine.history is not None:
        report("the guest is recorded, and its power button is no part of a recording")
    else:
        machine.press_power_button()


def _confine(request: Request) -> None:
    """From now on this process opens nothing but its cache, and asks the host for what a run takes alone."""
    allowed = [(default_directory(), KEEP)] if request.engine == "soft" else []
    if request.save is not None:
        allowed.append((Path(request.save).absolute().parent, KEEP))
    for share in request.shares:
        allowed.append((Path(share.path), WRITABLE if share.writable else READ))
    if request.gdb is not None:  # a debugger may have the guest started again, from its image as it is then
        from trapgate.gdb.address import UnixAddress

        files = (request.image, request.initrd, *(module.partition(" ")[0] for module in request.modules))
        allowed += [(_replaced(file), Right.READ_FILE) for file in files if file is not None]
        if isinstance(request.gdb, UnixAddress):  # the socket is removed at the end
            allowed.append((Path(request.gdb.path).absolute().parent, Right.REMOVE_FILE))
        if request.engine == "kvm":
            allowed.append((Path("/dev/kvm"), DEVICE))
    needs = Needs(
        debugger=request.gdb is not None,
        kvm=request.engine == "kvm",
        shares=bool(request.shares),
        writes=any(share.writable for share in request.shares),
    )
    confine(needs, allowed, settings())


def _replaced(file: str) -> Path:
    """What has to be readable so that a file can be read again when another has its name: its directory, unless that is all."""
    path = Path(file).resolve()
    return path if path.parent == path.parent.parent else path.parent


def _kind(request: Request) -> MachineConfig:
    """What kind of machine the user asked for. SnapshotError."""
    if request.restored:
        from trapgate.snapshot import config_of

        return config_of(request.image)
    cpu = request.cpu or default_cpu(request.engine)
    clock = ClockKind(request.clock) if request.record is None else ClockKind.INSTRUCTIONS
    return MachineConfig(memory=request.memory, cpus=request.cpus, cpu=cpu, clock=clock)


def _to_stream(stream: TextIO, data: bytes) -> None:
    with contextlib.suppress(OSError, ValueError):
        stream.write(data.decode(errors="replace"))
        stream.flush()


def _profiler(machine: Machine, request: Request, report: Callable[[str], None], stack: contextlib.ExitStack) -> "Profiler | None":
    if not request.profile:
        return None
    from trapgate.cli.profile import Profiler  # most runs are not profiled

    profiler = Profiler(machine, request.image, request.symbols, report)
    stack.callback(profiler.close)
    return profiler


def _recording(
    machine: Machine, request: Request, code: int, report: Callable[[str], None], stack: contextlib.ExitStack
) -> "Recording | None":
    """The recording that the user wants of a guest, or has. SnapshotError, RecordError."""
    if request.record is None and request.replayed is None:
        return None
    from trapgate.cli import recording  # most runs have none

    if request.replayed is not None:
        return recording.again(machine, request.replayed, request.record_limit, report)
    assert request.record is not None
    return recording.begin(machine, request.record, request.record_limit, code, request.rng, stack, report)


def _runner(
    machine: Machine,
    request: Request,
    guest: Guest,
    profiler: "Profiler | None",
    recording: "Recording | None",
    outputs: Iterable[Gathered],
    report: Callable[[str], None],
    stack: contextlib.ExitStack,
) -> Runner:
    """What runs the machine: it alone, or with a stub for gdb."""
    if request.gdb is None:
        if recording is None or request.replayed is None:
            return Runner(guest.run, machine.pause)
        from trapgate.cli.recording import run as replay

        return Runner(partial(replay, recording), machine.pause)
    from trapgate.gdb.address import AddressError, StdioAddress, is_exposed
    from trapgate.gdb.host import DebugHost  # most runs have no debugger: they start without loading the stub
    from trapgate.gdb.target import TargetError

    def reset() -> int:
        try:
            return guest.start_over()
        except TrapgateError as error:
            raise TargetError(str(error)) from error

    try:
        seen = None if profiler is None else profiler.stopped
        host = DebugHost(
            machine,
            request.gdb,
            wait=request.wait,
            reset=reset if recording is None else None,
            recording=recording,
            file=request.save or "",
            seen=seen,
            ending=partial(_drain, outputs),
            architecture=request.gdb_arch,
            code=guest.code,
            tell=report,
            begins_again=guest.begins_again,
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


def _drain(outputs: Iterable[Gathered]) -> None:
    for output in outputs:
        output.drain()


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
