"""One processor of a machine: a vCPU with its local APIC, what it is about between two runs, and what becomes of its exits."""

from collections.abc import Callable
from typing import ClassVar

from trapgate.answering import Accesses, culprit, failed
from trapgate.arch import vectors
from trapgate.arch.debugregs import DR6_BS
from trapgate.arch.flags import IF
from trapgate.clock import Clock
from trapgate.debug.buslock import BusLockLog
from trapgate.debug.router import Share, route
from trapgate.devices.lapic import LocalApic
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
)
from trapgate.stops import BreakpointHit, BusLocked, DeviceFault, ExceptionRaised, ExitKind, SoftwareHit, StepDone, Stop
from trapgate.vcpu import Owner, Vcpu

Ends = Callable[[ExitKind, str], Stop]
"""Ends the machine, with a story, and gives the stop."""


class Processor:
    """Runs its vCPU a stretch at a time. It answers accesses amid a run as well: it is the vCPU's `vcpu.Devices`."""

    vcpu: Vcpu

    def __init__(
        self, accesses: Accesses, lapic: LocalApic, clock: Clock, bus_locks: BusLockLog, report: Callable[[str], None], end: Ends
    ) -> None:
        self.lapic, self._clock, self._bus_locks, self._report, self._end = lapic, clock, bus_locks, report, end
        self._accesses = accesses
        self._caught: frozenset[int] = frozenset()
        self.halted = False
        self.held: int | None = None
        """Bus locks came too fast: the moment until which the guest does not run."""
        self._stepping = False
        self._attention = True  # an interrupt may be pending
        self._stopped_on: int | None = None  # RIP of the instruction whose execution breakpoint stopped us
        self._queued: Share | None = None  # the guest's part of the #DB on which the debugger stopped it

    def connect(self, vcpu: Vcpu) -> None:
        """The vCPU, which its local APIC reaches from now on."""
        self.vcpu = vcpu
        self.lapic.notify, self.lapic.nmi = self._interrupts_changed, self._nmi

    def begin(self, step: bool) -> Stop | None:
        """The debugger lets the guest go on: what it stopped on does not stop it again. A Stop when that was the step."""
        self._stepping = step
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

    def catch(self, vectors: frozenset[int]) -> None:
        """Exceptions of these vectors stop the guest before they are delivered. EngineError where that cannot be."""
        self.vcpu.catch(vectors)
        self._caught = vectors

    @property
    def stepping(self) -> bool:
        """Whether the debugger has asked for one instruction."""
        return self._stepping

    @property
    def dead(self) -> bool:
        """Whether it is halted and takes no interrupt."""
        return self.halted and not self.vcpu.get("rflags") & IF

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

    def _nmi(self) -> None:
        self.halted = False
        self.vcpu.nmi()

    # Accesses answered amid a run of the vCPU: `vcpu.Devices`

    def port_read(self, port: int, size: int) -> int:
        """IN."""
        value = self._accesses.port_read(port, size)
        self._answered()
        return value

    def port_write(self, port: int, size: int, value: int) -> None:
        """OUT."""
        self._accesses.port_write(port, size, value)
        self._answered()

    def memory_read(self, address: int, size: int) -> int:
        """A load from where no RAM is."""
        value = self._accesses.memory_read(address, size)
        self._answered()
        return value

    def memory_write(self, address: int, size: int, value: int) -> None:
        """A store to where no RAM is."""
        self._accesses.memory_write(address, size, value)
        self._answered()

    def _answered(self) -> None:
        """Leave the run where an answer was more than a value: a timer was set, or a device failed."""
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

    def _debug(self, event: DebugException) -> Stop | None:
        armed = self.vcpu.armed()
        verdict = route(event, armed, self.vcpu.guest_debug(), self._stepping)
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
        outcome = self._bus_locks.record(event)
        if outcome.line is not None:
            self._report(outcome.line)
        self.held = outcome.hold
        return BusLocked(event, outcome.line or "") if outcome.stop else None

    _handlers: ClassVar[dict[type, Callable[..., Stop | None]]] = {
        PortRead: _port_read,
        PortWrite: _port_write,
        MmioRead: _mmio_read,
        MmioWrite: _mmio_write,
        Halted: _halt,
        Shutdown: _shutdown,
        Interrupted: _interrupted,
        DebugException: _debug,
        SoftwareBreakpoint: _software_breakpoint,
        GuestException: _exception,
        BusLock: _bus_lock,
    }
