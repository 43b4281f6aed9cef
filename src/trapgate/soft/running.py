"""This class is a CPU amid a run: the access or the step under way, and who is asked about it. Files beside `cpu` work on it."""

from abc import abstractmethod

from trapgate.arch.models import CpuModel
from trapgate.clock import Clock
from trapgate.exits import BusLock
from trapgate.memory import Ram
from trapgate.soft.blocks.core import TranslatingCore
from trapgate.soft.crash import Crashes
from trapgate.soft.loops.hot import HotLoops
from trapgate.soft.state.apic import LocalApic
from trapgate.stencil.library import Library
from trapgate.vcpu import Devices


class RunningCpu(TranslatingCore):
    """Translated code, and what comes of the accesses that it leaves to Python."""

    def __init__(self, ram: Ram, model: CpuModel, library: Library, clock: Clock, lapic: LocalApic | None, tsc_hz: int) -> None:
        super().__init__(ram, model, library, clock, lapic, tsc_hz)
        self.dispatch_code, self.resume_code = self.code.entries["dispatch"], self.code.entries["resume"]
        self.hot: HotLoops | None = None
        """Who watches for hot loops; None: nobody."""
        self.crashes: Crashes | None = None
        """Who is to know of a crash of translated code; None: it ends the process."""
        self.devices: Devices | None = None
        """Who answers plain device accesses amid `run`; without one each is an exit."""
        self.device_site = 0  # host code behind the access for which an instruction starts again as a step
        self.device_sites: dict[int, int] = {}  # host code behind a device access: the same place in the instruction's step
        self.bus_lock: BusLock | None = None
        self.in_step = False
        self.caught: frozenset[int] = frozenset()  # vectors of exceptions that `run` returns before they are delivered

    @abstractmethod
    def become_step(self, place: int) -> None:
        """The instruction under way goes on at `place` in its step: something waits for its end. See `soft.answers`."""

    @abstractmethod
    def abandon(self) -> None:
        """Somebody moved RIP: an access that waits for a device is not resumed."""

    @abstractmethod
    def watched(self, address: int, size: int, write: bool) -> int:
        """The breakpoints (bits by `armed`) that a data access hits."""

    @abstractmethod
    def translate(self, address: int) -> int | None:
        """The guest-physical address behind a guest-virtual one, without side effects."""

    def put_bounce(self, data: bytes) -> None:
        """Fill the bounce buffer."""
        self.state.bounce[: len(data)] = data

    def flush_jumps(self) -> None:
        """Forget where jumps lead: code was dropped, so what is known of places in it goes, too."""
        super().flush_jumps()
        self.device_sites.clear()

    def close(self) -> None:
        """End the helper threads, handle no crash any more, and let go of everything: what is left can be kicked, no more."""
        if "translator" not in vars(self):  # again
            return
        if self.hot is not None:
            self.hot.close()
            self.hot = None
        if self.crashes is not None:
            self.crashes.release()
        self.translator.patterns.close()
        state = self.state
        vars(self).clear()  # it refers to itself in many ways: its memory would wait for the garbage collector
        self.state = state  # a thread may be about to kick
