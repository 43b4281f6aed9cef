"""Holds one processor of a machine: vCPU with its local APIC, what it is about between two runs, and what becomes of its exits."""

from collections.abc import Callable
from dataclasses import astuple
from typing import Annotated, ClassVar

from trapgate.answering import Accesses, culprit, failed
from trapgate.arch import vectors
from trapgate.arch.debugregs import DR6_BD, DR6_BLD, DR6_BS, DR6_BT
from trapgate.arch.flags import IF
from trapgate.clock import Clock, Moment
from trapgate.debug.buslock import BusLockLog
from trapgate.debug.router import Share, Verdict, route
from trapgate.devices.lapic import LocalApic
from trapgate.doings import Doing, Interest
from trapgate.exits import (
    BusLock,
    DebugException,
    GuestException,
    Halted,
    Interrupted,
    MmioRead,
    MmioWrite,
    PortRead,
    PortWrite,
    Shutdown,
    SoftwareBreakpoint,
    Spinning,
)
from trapgate.state import U8, U16, U64, Bits, Mask, State
from trapgate.stops import BreakpointHit, BusLocked, DeviceFault, ExceptionRaised, ExitKind, SoftwareHit, StepDone, Stop
from trapgate.values import dataclass
from trapgate.vcpu import CpuStart, Owner, SegmentStart, Vcpu


@dataclass(frozen=True, slots=True)
class ShareState(State):
    """The guest's part of a #DB that waits for the debugger to let the guest go on."""

    causes: Annotated[int, Mask(DR6_BLD | DR6_BD | DR6_BS | DR6_BT)]
    hits: Annotated[int, Bits(4)]
    icebp: bool


@dataclass(frozen=True, slots=True)
class ProcessorState(State):
    """What a processor is about between two runs of its vCPU.

    `waiting`: for a start-up interrupt; `initialized` and `started`: an INIT that has come, and the vector of a start-up interrupt
    behind it. `held`: until when bus locks that came too fast hold it. `stopped_on`: RIP of the instruction whose execution
    breakpoint has stopped it. `spins`: how many of its turns PAUSE has ended, one after the other.
    """

    waiting: bool
    initialized: bool
    started: U8 | None
    spins: U16
    halted: bool
    held: Moment | None
    attention: bool
    stopped_on: U64 | None
    queued: ShareState | None


Ends = Callable[[ExitKind, str], Stop]
"""Ends the machine, with a story, and gives the stop."""


def _at_page(vcpu: Vcpu, number: int) -> CpuStart:
    """Where a start-up interrupt starts a vCPU after INIT."""
    data = SegmentStart(0, 0, 0xFFFF, 0x93)
    segments = dict.fromkeys(("ds", "es", "fs", "gs", "ss"), data) | {
        "cs": SegmentStart(number << 8, number << 12, 0xFFFF, 0x9B),
        "tr": SegmentStart(0, 0, 0xFFFF, 0x8B),
    }
    return CpuStart(
        mode="real16",
        rip=0,
        cr0=vcpu.get("cr0"),
        segments=segments,
        general={"rdx": vcpu.get("rdx")},
        gdt_limit=0xFFFF,
        idt_limit=0xFFFF,
    )


class Processor:
    """Runs its vCPU a stretch at a time. It answers accesses amid a run as well: it is the vCPU's `vcpu.Devices`."""

    vcpu: Vcpu

    def __init__(
        self, accesses: Accesses, lapic: LocalApic, clock: Clock, bus_locks: BusLockLog, report: Callable[[str], None], end: Ends
    ) -> None:
        self.lapic, self._clock, self._bus_locks, self._report, self._end = lapic, clock, bus_locks, report, end
        self._accesses = accesses
        self.number = lapic.identifier
        self.woken: Callable[[], None] = lambda: None
        """Called when it may have something to do again."""
        self.waiting = not lapic.boots
        """Whether it waits for a start-up interrupt (SIPI)."""
        self._initialized = False  # INIT has come
        self._started: int | None = None  # the vector of the start-up interrupt behind it
        self.spins = 0
        """How many of its turns PAUSE has ended, one after the other."""
        self._caught: frozenset[int] = frozenset()
        self._locks_stop = False  # whatever the log says of bus locks
        self.halted = False
        self.held: int | None = None
        """Bus locks came too fast: the moment until which the guest does not run."""
        self.verdict: Verdict | None = None
        """Whose the #DB was that has come last since the debugger let the guest go."""
        self._stepping = False
        self.held_back = False
        """Whether the last step of the debugger's has kept an interrupt from the guest."""
        self._attention = True  # an interrupt may be pending
        self._stopped_on: int | None = None  # RIP of the instruction whose execution breakpoint stopped us
        self._queued: Share | None = None  # the guest's part of the #DB on which the debugger stopped it

    def connect(self, vcpu: Vcpu) -> None:
        """The vCPU, which its local APIC reaches from now on."""
        self.vcpu = vcpu
        self.lapic.notify, self.lapic.nmi, self.lapic.startup = self._interrupts_changed, self._nmi, self._start_up
        if not self.lapic.boots:
            self.lapic.init = self._init

    def begin(self, step: bool) -> Stop | None:
        """The debugger lets the guest go on: what it stopped on does not stop it again. A Stop when that was the step."""
        self._stepping, self.held_back, self.verdict = step, False, None
        self.vcpu.step(step)
        if self._stopped_on is not None:
            if self._stopped_on == self.vcpu.get("rip"):
                self.vcpu.resume_over()
            self._stopped_on = None
        if self._queued is not None:
            self._deliver(self._queued)
            self._queued = None
            if step:
                return StepDone()
        self._attention = True
        return None

    def forget_stop(self) -> None:
        """The debugger has not seen it stop where it is."""
        self._stopped_on = None

    def save(self) -> ProcessorState:
        """What it is about. Between two runs."""
        queued = ShareState(*astuple(self._queued)) if self._queued else None
        return ProcessorState(
            waiting=self.waiting,
            initialized=self._initialized,
            started=self._started,
            spins=self.spins,
            halted=self.halted or self.vcpu.waits,
            held=self.held,
            attention=self._attention,
            stopped_on=self._stopped_on,
            queued=queued,
        )

    def load(self, state: ProcessorState) -> None:
        """What it is about."""
        self.waiting, self._initialized, self._started = state.waiting, state.initialized, state.started
        self.halted = state.halted and not self.vcpu.wait()
        self.held, self._attention, self.spins = state.held, state.attention, state.spins
        self._stopped_on = state.stopped_on
        self._queued = Share(*astuple(state.queued)) if state.queued else None

    def catch(self, vectors: frozenset[int]) -> None:
        """Exceptions of these vectors stop the guest before they are delivered. EngineError where that cannot be."""
        self.vcpu.catch(vectors)
        self._caught = vectors

    def tell_of(self, interest: Interest, heard: Callable[[Doing], None]) -> None:
        """Tell of what the guest does; bus locks stop it. EngineError where that cannot be."""
        self.vcpu.tell_of(interest, heard)
        self.vcpu.tell_tallies()
        self._locks_stop = interest.bus_locks

    @property
    def stepping(self) -> bool:
        """Whether the debugger has asked for one instruction."""
        return self._stepping

    @property
    def dead(self) -> bool:
        """Whether it waits to be started, or is halted and takes no interrupt, and nothing has come that changes it."""
        return not self._initialized and (self.waiting or (self.halted and not self.vcpu.get("rflags") & IF))

    def ready(self) -> bool:
        """Whether it has something to do, now that it has taken what has come for it: INIT, SIPI, an interrupt that ends HLT."""
        if self._initialized:
            self._take_init()
        if self.waiting:
            return False
        if self.halted:
            self.inject()
        if self.held is not None and self._clock.now() >= self.held:
            self.held = None
        return not self.halted and self.held is None

    def run(self) -> Stop | None:
        """Run until an exit, and deal with it."""
        try:
            event = self.vcpu.run()
        except Exception as error:  # the local APIC works within a run: CR8, EOI, interprocessor interrupts
            who = culprit(error)
            if who is None:
                raise
            return failed(who, "amid a run of the vCPU", error)
        stop = self._handlers[type(event)](self, event)
        return stop if stop is not None else self.take_fault()

    def take_fault(self) -> DeviceFault | None:
        """The failure of a device, once."""
        fault, self._accesses.fault = self._accesses.fault, None
        return fault

    # Interrupts

    def inject(self) -> None:
        """Hand a pending interrupt to the vCPU, or have it say when it would take one."""
        if not self._attention or (self._stepping and not self.halted):
            self.held_back |= self._stepping and self.lapic.pending()
            return
        pending = self.lapic.pending()
        if pending and self.vcpu.can_interrupt():
            self.vcpu.interrupt(self.lapic.acknowledge())
            self.halted = False
            pending = self.lapic.pending()
        self._attention = pending
        self.vcpu.want_interrupt(pending)

    def _interrupts_changed(self) -> None:
        """The local APIC may have an interrupt: called from devices, and by the vCPU itself amid a run (CR8, EOI)."""
        self._attention = True
        if not self._stepping:
            self.vcpu.want_interrupt(self.lapic.pending())
        if self.halted:
            self.woken()

    def _nmi(self) -> None:
        if self.waiting:
            return  # nobody is there yet
        self.halted = False
        self.held_back |= self._stepping
        self.vcpu.nmi()
        self.woken()

    def _init(self) -> None:
        """INIT is taken between two instructions."""
        self._initialized, self._started = True, None
        self.vcpu.kick()

    def _start_up(self, vector: int) -> None:
        """SIPI: the first one behind INIT counts (SDM vol. 3, 11.4.3)."""
        if (self.waiting or self._initialized) and self._started is None:
            self._started, self._initialized = vector, True
            self.woken()

    def _take_init(self) -> None:
        """INIT and, if it has come, SIPI behind it: real mode at offset 0 of the page that the vector names."""
        self._initialized = False
        self.vcpu.init()
        self.halted, self._attention, self._stopped_on, self._queued = False, True, None, None
        self.held, self.waiting = None, self._started is None
        if self._started is not None:
            self.vcpu.start(_at_page(self.vcpu, self._started))
            self._started = None

    # Accesses answered amid a run of the vCPU: `vcpu.Devices`. The run is left where an answer was more than a value: a timer was
    # set, or a device failed. A function of its own for that would cost each access a tenth.

    def port_read(self, port: int, size: int) -> int:
        """IN."""
        value = self._accesses.port_read(port, size)
        if self._clock.fresh or self._accesses.fault:
            self.vcpu.kick()
        return value

    def port_write(self, port: int, size: int, value: int) -> None:
        """OUT."""
        self._accesses.port_write(port, size, value)
        if self._clock.fresh or self._accesses.fault:
            self.vcpu.kick()

    def memory_read(self, address: int, size: int) -> int:
        """A load from where no RAM is."""
        value = self._accesses.memory_read(address, size)
        if self._clock.fresh or self._accesses.fault:
            self.vcpu.kick()
        return value

    def memory_write(self, address: int, size: int, value: int) -> None:
        """A store to where no RAM is."""
        self._accesses.memory_write(address, size, value)
        if self._clock.fresh or self._accesses.fault:
            self.vcpu.kick()

    # Exits of the vCPU

    def _port_read(self, event: PortRead) -> None:
        self.vcpu.complete(self._accesses.port_read(event.port, event.size))

    def _port_write(self, event: PortWrite) -> None:
        self._accesses.port_write(event.port, event.size, event.value)

    def _mmio_read(self, event: MmioRead) -> None:
        self.vcpu.complete(self._accesses.memory_read(event.address, event.size))

    def _mmio_write(self, event: MmioWrite) -> None:
        self._accesses.memory_write(event.address, event.size, event.value)

    def _halt(self, event: Halted) -> Stop | None:
        self.halted = self._attention = True
        return StepDone() if self._stepping else None

    def _shutdown(self, event: Shutdown) -> Stop:
        return self._end(ExitKind.SHUTDOWN, event.story)

    def _interrupted(self, event: Interrupted) -> None:
        self._attention = True

    def _spinning(self, event: Spinning) -> None:
        self.spins = self.spins + 1 & 0xFFFF or 1

    def _debug(self, event: DebugException) -> Stop | None:
        armed = self.vcpu.armed()
        verdict = self.verdict = route(event, armed, self.vcpu.guest_debug(), self._stepping)
        if verdict.guest and not verdict.debugger and vectors.DB in self._caught:
            self._queued = verdict.guest
            return ExceptionRaised(vectors.DB)
        if verdict.guest and (event.fault or event.icebp) and not verdict.debugger.hits:
            self._deliver(verdict.guest)  # the instruction ends with it
        elif verdict.guest and verdict.debugger:
            self._queued = verdict.guest  # the debugger sees the guest where the instruction left it
        elif verdict.guest:
            self._deliver(verdict.guest)
        if verdict.debugger.hits:
            if event.fault:
                self._stopped_on = self.vcpu.get("rip")
            mine = (one for n, one in enumerate(armed) if event.hits >> n & 1 and one.owner is Owner.DEBUGGER)
            return BreakpointHit(tuple(mine), event.fault)
        if verdict.debugger:
            assert verdict.debugger.causes == DR6_BS, f"a debugger arms nothing else: {verdict}"
            return StepDone()
        if event.fault and not verdict.guest:
            self.vcpu.resume_over()  # nobody's: it must not come again for ever
        return None

    def _exception(self, event: GuestException) -> Stop:
        return ExceptionRaised(event.vector, event.error, event.address)

    def _deliver(self, share: Share) -> None:
        self.vcpu.deliver_debug(share.causes, share.hits, share.icebp)

    def _software_breakpoint(self, event: SoftwareBreakpoint) -> Stop:
        self._stopped_on = self.vcpu.get("rip")
        return SoftwareHit(event.address)

    def _bus_lock(self, event: BusLock) -> Stop | None:
        cpu = self.number if self.lapic.cpus > 1 else None
        outcome = self._bus_locks.record(event, cpu)
        if outcome.line is not None:
            self._report(outcome.line)
        self.held = outcome.hold
        if self._locks_stop:
            return BusLocked(event, outcome.line or self._bus_locks.line(event, cpu))
        if outcome.tally is not None:
            self.vcpu.tally(event.rip, outcome.tally)
        return BusLocked(event, outcome.line or "") if outcome.stop else None

    _handlers: ClassVar[dict[type, Callable[..., Stop | None]]] = {
        PortRead: _port_read,
        PortWrite: _port_write,
        MmioRead: _mmio_read,
        MmioWrite: _mmio_write,
        Halted: _halt,
        Shutdown: _shutdown,
        Interrupted: _interrupted,
        Spinning: _spinning,
        DebugException: _debug,
        SoftwareBreakpoint: _software_breakpoint,
        GuestException: _exception,
        BusLock: _bus_lock,
    }
