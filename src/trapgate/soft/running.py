"""Holds a CPU amid a run: the access or the step under way, and who is asked about it. Files beside `cpu` work on it."""

from abc import abstractmethod
from collections.abc import Callable

from trapgate.arch.models import CpuModel
from trapgate.clock import Clock
from trapgate.exits import BusLock
from trapgate.memory import Ram
from trapgate.soft.blocks.core import TranslatingCore
from trapgate.soft.blocks.shared import Shared
from trapgate.soft.crash import Crashes
from trapgate.soft.loops.hot import HotLoops
from trapgate.soft.state.apic import LocalApic
from trapgate.soft.state.underway import Access, HeldFault, HeldTrap, Phase, Step
from trapgate.soft.telling import Teller
from trapgate.stencil.library import Library
from trapgate.vcpu import Devices


class RunningCpu(TranslatingCore):
    """Translated code, and what comes of the accesses that it leaves to Python."""

    def __init__(
        self, ram: Ram, model: CpuModel, translations: Library | Shared, clock: Clock, lapic: LocalApic | None, tsc_hz: int
    ) -> None:
        super().__init__(ram, model, translations, clock, lapic, tsc_hz)
        self.dispatch_code, self.resume_code = self.code.entries["dispatch"], self.code.entries["resume"]
        self.closed = False
        self.hot: HotLoops | None = None
        """Who watches for hot loops, of all CPUs that share blocks; None: nobody."""
        self.crashes: Crashes | None = None
        """Who is to know of a crash of translated code, whichever CPU's; None: it ends the process."""
        self.devices: Devices | None = None
        """Who answers plain device accesses amid `run`; without one each is an exit."""
        self.device_site = 0  # host code behind the access for which an instruction starts again as a step
        self.device_sites: dict[int, int] = {}  # host code behind a device access: the same place in the instruction's step
        self.bus_lock: BusLock | None = None
        self.tallies: dict[int, Callable[[int], None]] = {}
        """Who hears of bus locks that are counted instead of told, by place: `tallies`."""
        self.phase = Phase.RUNNING
        self.single: Step | None = None
        """The instruction that runs alone."""
        self.access: Access | None = None
        """The access that waits for a device."""
        self.held: HeldFault | HeldTrap | None = None
        """What `run` has told of, and is to come first when it goes on."""
        self.reports_locks = False
        """Whether `run` returns each bus lock, whatever the teller wants."""
        self.teller: Teller | None = None
        """Who wants to hear of what the guest does; None: nobody."""
        self.caught: frozenset[int] = frozenset()  # vectors of exceptions that `run` returns before they are delivered

    @property
    def amid(self) -> bool:
        """Whether an instruction that has been counted waits for a device, or for what comes of it."""
        return self.single is not None or self.phase in (Phase.ACCESSING, Phase.RESUMING)

    @property
    def in_step(self) -> bool:
        """Whether an instruction runs alone."""
        return self.single is not None

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
        """Fill the bounce buffer; Python sees to what is written there."""
        self.state.split_size = 0
        self.state.bounce[: len(data)] = data

    def take_turn(self) -> None:
        """Translated code is this CPU's from now on, if it was another's."""
        if self.shared.holder is not self:
            self.shared.turn(self)
            if self.hot is not None:
                self.hot.follow(self)
            if self.crashes is not None:
                self.crashes.follow(self)

    def flush_jumps(self) -> None:
        """Forget where jumps lead: code was dropped, so what is known of places in it goes, too."""
        super().flush_jumps()
        self.device_sites.clear()

    def close(self) -> None:
        """End the helper threads, handle no crash any more, and give the memory back: what is left can be kicked, no more."""
        if self.closed:
            return
        self.closed = True
        if self.hot is not None:
            self.hot.close()
        if self.crashes is not None:
            self.crashes.release()
        self.shared.close()
        self.ram.on_write = lambda address, length: None
        self.hot = self.crashes = self.devices = None  # who leads back here: memory would wait for the garbage collector
        del (
            self.code,
            self.shared,
            self.blocks,
            self.translator,
            self.watched_reads,
            self.watched_writes,
        )  # not the state, which is kicked
