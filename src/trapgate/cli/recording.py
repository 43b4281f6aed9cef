"""Makes the recording of a run that is to have one: a new one on its way into a file, or one of a file."""

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from trapgate.cli.options import BusLockChoice, WhereChoice
from trapgate.cli.request import Request
from trapgate.debug.buslock import Mode
from trapgate.machine import Machine
from trapgate.record import tape
from trapgate.record.recording import Recording
from trapgate.snapshot import config_of
from trapgate.stops import DeviceFault, ExitKind, MachineExit, RecordingEnds

if TYPE_CHECKING:
    from trapgate.gdb.address import Address

Tell = Callable[[str], None]


def begin(machine: Machine, path: str, limit: int, code: int, rng: bool, stack: contextlib.ExitStack, tell: Tell) -> Recording:
    """Record a machine to a file from now on. SnapshotError, RecordError."""
    writer = tape.Tape(machine, path, tape.Head.of(machine, code, rng))
    stack.callback(writer.close)
    recording = Recording(machine, limit, tape=writer, tell=tell)
    stack.callback(recording.close)
    return recording


def request(path: str, gdb: "Address | None", limit: int, sandbox: bool) -> Request:
    """What to run so that a recording is replayed. RecordError, SnapshotError."""
    found = tape.read(path)
    head, kind = found.head, config_of(path)
    locks = BusLockChoice(Mode(head.bus_locks), head.bus_lock_limit, tuple(head.bus_lock_levels))
    stdout, stderr = WhereChoice("stdio"), WhereChoice("stderr")
    return Request(
        path, None, (), "", kind.memory, kind.cpus, kind.cpu, "soft", gdb, gdb is not None, stdout, stderr, locks,
        kind.clock.value, sandbox=sandbox, restored=True, rng=head.rng, record_limit=limit, replayed=found,
    )  # fmt: skip


def again(machine: Machine, recorded: tape.Recorded, limit: int, tell: Tell) -> Recording:
    """Replay a recording on a machine that is where it began. A line is told where the host's CPU is of another kind."""
    if recorded.head.host != tape.host():
        tell("recorded on a host whose CPU has other features; where the guest can tell, the replay ends with an error")
    return Recording(machine, limit, events=recorded.events, end=recorded.end, live=False, tell=tell)


def run(recording: Recording) -> MachineExit:
    """Replay to the end, of the guest or of its recording."""
    stop = recording.run()
    match stop:
        case MachineExit():
            return stop
        case RecordingEnds():
            return MachineExit(ExitKind.STOPPED, 1, f"the recording ends here, after {recording.here[0]} instructions")
        case DeviceFault():
            return MachineExit(ExitKind.FAULT, 1, stop.story)
    return MachineExit(ExitKind.STOPPED, 1, type(stop).__name__)
