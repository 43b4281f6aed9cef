"""Hooks tell a program what it wants to see of a guest. One without a callback stops the run.

Execution and data are breakpoints of the debugger's kind, which the guest cannot see and which cost nothing elsewhere. A hook that
is not there costs nothing at all.
"""

from collections.abc import Callable
from dataclasses import field
from types import TracebackType
from typing import Any

from trapgate.answering import Watch
from trapgate.debug.breakpoints import BreakpointError, BreakpointTable
from trapgate.machine import Machine
from trapgate.stops import BreakpointHit, BusLocked, ExceptionRaised, PortAccessed, SoftwareHit, Stop
from trapgate.values import dataclass
from trapgate.vcpu import EngineError, Kind

MOST_ADDRESSES = 1 << 16  # of one hook on code
Call = Callable[[Any], object]


@dataclass(eq=False, slots=True)
class Hook:
    """One hook, as `Machine.on_code` and its kin make it. `remove` ends it; so does leaving a `with` block."""

    call: Call | None
    code: range = range(0)
    data: tuple[Kind, int, int] | None = None
    vectors: frozenset[int] = frozenset()
    watch: Watch | None = None
    bus_locks: bool = False
    removing: Callable[["Hook"], None] = field(default=lambda hook: None, repr=False)

    def remove(self) -> None:
        """Nothing is seen any more; a second call does nothing."""
        removing, self.removing = self.removing, lambda hook: None
        removing(self)

    def __enter__(self) -> "Hook":
        """The hook."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None) -> None:
        """`remove`."""
        self.remove()

    def wants(self, stop: Stop) -> bool:
        """Whether a stop is of this hook's making."""
        match stop:
            case SoftwareHit(address):
                return address in self.code
            case BreakpointHit(hits):
                return any((one.kind, one.address, one.length) == self.data for one in hits)
            case ExceptionRaised(vector):
                return vector in self.vectors
            case BusLocked():
                return self.bus_locks
        return False


class Hooks:
    """All hooks of a machine."""

    def __init__(self, machine: Callable[[], Machine]) -> None:
        self._open = machine
        self._hooks: list[Hook] = []
        self._raised: Exception | None = None  # by a callback amid a run of the vCPU

    @property
    def _machine(self) -> Machine:
        return self._open()

    def close(self) -> None:
        """Forget them all: the machine is gone."""
        for hook in self._hooks:
            hook.removing = lambda hook: None
        self._hooks.clear()

    def add(self, hook: Hook) -> Hook:
        """Set a hook. BreakpointError, EngineError when it cannot be."""
        if len(hook.code) > MOST_ADDRESSES:
            raise BreakpointError(f"a hook covers {MOST_ADDRESSES} bytes of code at most, not {len(hook.code)}")
        if len(hook.code) > 1 and not self._machine.engine.breaks_anywhere:
            raise EngineError(
                "this engine hooks code at single addresses, where instructions begin; the engine 'soft' hooks ranges"
            )
        self._hooks.append(hook)
        try:
            self.arm()
        except BaseException:
            self._hooks.remove(hook)
            self.arm()
            raise
        if hook.watch is not None:
            self._machine.added.watch(hook.watch)
        hook.removing = self._remove
        return hook

    def _remove(self, hook: Hook) -> None:
        self._hooks.remove(hook)
        self.arm()
        if hook.watch is not None:
            self._machine.added.unwatch(hook.watch)

    def arm(self) -> None:
        """Have the vCPU stop where hooks are: they have changed, or it is a new one."""
        machine, table = self._machine, BreakpointTable()
        for hook in self._hooks:
            if hook.data is not None:
                table.insert(*hook.data)
        machine.catch(frozenset[int]().union(*(hook.vectors for hook in self._hooks)))
        try:
            machine.arm(table.hardware(), sorted({address for hook in self._hooks for address in hook.code}))
        except BreakpointError:
            raise
        except ValueError as error:  # an engine that has no room
            raise BreakpointError(str(error)) from error

    def check(self) -> None:
        """Raise what a callback has raised amid a run, once."""
        error, self._raised = self._raised, None
        if error is not None:
            raise error

    def answered(self, stop: Stop) -> bool:
        """Call whom a stop concerns; whether the run goes on."""
        match stop:
            case SoftwareHit() | BreakpointHit() | ExceptionRaised() | BusLocked():
                concerned = [hook for hook in self._hooks if hook.wants(stop)]
                if not concerned:  # a hook that another one has just removed; bus locks stop by the configuration alone
                    return not isinstance(stop, BusLocked)
                return not any([_stops(hook.call, stop) for hook in concerned])  # all of them are called
        return False

    def watching(self, ports: range, call: Call | None) -> Watch:
        """Who is told of ports, amid the run."""

        def told(access: PortAccessed) -> None:
            try:
                stops = _stops(call, access)
            except Exception as error:  # the device is not to blame; `check` raises it
                self._raised, stops = error, True
            if stops:
                self._machine.stop(access)

        return Watch(ports, told)


def _stops(call: Call | None, stop: Stop) -> bool:
    return call is None or call(stop) is True
