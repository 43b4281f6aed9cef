"""States how an instruction written in Python sees the CPU: handlers take this class, and lie below the one that fulfils it."""

from abc import ABC, abstractmethod

from trapgate.arch.models import CpuModel
from trapgate.clock import Clock
from trapgate.exits import Exit
from trapgate.memory import Ram
from trapgate.soft.state.apic import LocalApic
from trapgate.soft.state.armed import Armed, Watch, WatchList
from trapgate.soft.state.codebuffer import CodeBuffer
from trapgate.soft.state.timing import TimedCore
from trapgate.soft.state.underway import ToAccumulator, ToMemory
from trapgate.vcpu import Breakpoint, GuestDebug


class GuestCpu(TimedCore, ABC):
    """State, memory and time, what is armed, and what a handler may ask of whoever runs the guest."""

    def __init__(self, ram: Ram, model: CpuModel, code: CodeBuffer, clock: Clock, lapic: LocalApic | None, tsc_hz: int) -> None:
        super().__init__(ram, model, code, clock, lapic, tsc_hz)
        self.deterministic = False
        """Whether a run must repeat to the last bit: no random number of the host's, no time of its clock."""
        self.debugger = Armed()
        self.guest_armed: tuple[Breakpoint, ...] = ()
        self.watches: tuple[Watch, ...] = ()
        self.watched_reads, self.watched_writes = WatchList("what reads hit"), WatchList("what stores hit")
        self.last_debug = GuestDebug(False, False, False, False)
        self.pending_read: ToAccumulator | ToMemory | None = None
        """Where the answer of a port goes that the machine has been asked for."""

    @property
    @abstractmethod
    def breakpoints(self) -> frozenset[int]:
        """Linear addresses at which translated code stops."""

    @abstractmethod
    def get(self, register: str) -> int:
        """A register by its name in `arch.registers`; KeyError."""

    @abstractmethod
    def stop_at(self, addresses: frozenset[int]) -> None:
        """Make translated code stop at these linear addresses, and at no others."""

    @abstractmethod
    def resume_over(self) -> None:
        """The next instruction runs without the debugger's execution breakpoints on it."""

    @abstractmethod
    def raise_icebp(self) -> Exit:
        """INT1 was executed: what tells the machine of it; RIP is after the instruction."""

    @abstractmethod
    def kick(self) -> None:
        """Make the run return soon; from any thread."""

    @abstractmethod
    def read_virtual(self, address: int, length: int) -> bytes:
        """Guest memory as a debugger reads it; short where a page is unmapped or not RAM."""
