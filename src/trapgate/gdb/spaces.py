"""Binds breakpoints to address spaces, and finds where a new process of a Linux guest begins."""

from collections.abc import Callable

from trapgate.arch.paging import ADDRESS_4K
from trapgate.gdb.names import RunningNames
from trapgate.gdb.target import TargetError
from trapgate.machine import Machine
from trapgate.stops import BreakpointHit, SoftwareHit, Stop
from trapgate.values import dataclass

MOST_BOUND = 1024
_START = "start_thread"
"""Called by exec with the first RIP of the new program behind the registers that it will have (arch/x86/kernel/process_64.c)."""
_NAME = 15  # bytes of a task's name


@dataclass(frozen=True, slots=True)
class ProcessBegins:
    """A process whose name was asked for is on its first instruction."""

    name: str


class Spaces:
    """Which address space the breakpoints of an address are for. A space is CR3 without its low 12 bits."""

    def __init__(self, machine: Machine, names: RunningNames) -> None:
        self._machine, self._names = machine, names
        self.bound: dict[int, int] = {}
        """The space, by address."""
        self._awaited = ""  # the name of a process
        self._start: int | None = None  # where the kernel begins one
        self._entry: tuple[int, int, str] | None = None  # of the process that has come: address, space, its name

    def bind(self, address: int, space: int) -> None:
        """Breakpoints and watchpoints there stop in that space alone. TargetError: that is none, or too many are bound."""
        if space & ~ADDRESS_4K:
            raise TargetError(f"{space:#x} is no address of a page table: monitor ps shows those of Linux processes")
        if address not in self.bound and len(self.bound) >= MOST_BOUND:
            raise TargetError(f"at most {MOST_BOUND} addresses are bound at once; monitor unbind ADDRESS")
        self.bound[address] = space

    def unbind(self, address: int) -> None:
        """They stop in every space again."""
        if self.bound.pop(address, None) is None:
            raise TargetError(f"nothing is bound at {address:#x}")

    def await_process(self, name: str) -> None:
        """Stop where the next process of this name begins; "" for none. TargetError: no kernel is known that tells."""
        start = self._names.address(_START) if name else None
        if name and start is None:
            raise TargetError(f"this kernel has no {_START}, by which the beginning of a process is known")
        self._awaited, self._start, self._entry = name[:_NAME], start, None

    def clear(self) -> None:
        """The debugger is gone."""
        self.bound.clear()
        self._awaited, self._start, self._entry = "", None, None

    @property
    def places(self) -> frozenset[int]:
        """Where the guest has to stop for it."""
        return frozenset(one for one in (self._start, self._entry and self._entry[0]) if one is not None)

    def seen(self, stop: Stop, own: Callable[[int], bool], number: int) -> Stop | ProcessBegins | None:
        """What a stop of a vCPU means for the debugger; None: nothing. `own`: whether he has a breakpoint at an address."""
        match stop:
            case SoftwareHit(address=address):
                if (begun := self._begins(address, number)) is not None:
                    return begun
                return stop if own(address) and self._here(address, number) else None
            case BreakpointHit(hits=hits):
                return stop if any(self._here(one.address, number) for one in hits) else None
        return stop

    def _space(self, number: int) -> int:
        return self._machine.processors[number].vcpu.get("cr3") & ADDRESS_4K

    def _here(self, address: int, number: int) -> bool:
        return self.bound.get(address, space := self._space(number)) == space

    def _begins(self, address: int, number: int) -> ProcessBegins | None:
        """Whether this is where an awaited process begins; notes where it will."""
        if self._entry is not None and self._entry[:2] == (address, self._space(number)):
            begun = ProcessBegins(self._names.running(number) or self._entry[2])
            self._entry = None
            return begun
        if address == self._start and self._names.named(number) == self._awaited:
            entry = self._machine.processors[number].vcpu.get("rsi")
            self._entry, self._start = (entry, self._space(number), self._awaited), None
        return None
