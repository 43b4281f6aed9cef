"""The machine: wires RAM, board, clock, router and a vCPU, and holds the one run loop.

All of it runs on the thread that calls `resume` (or `run`); other threads may only `post` and `pause`. A stop is a value.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from trapgate.answering import Accesses, culprit, failed
from trapgate.arch.debugregs import DR6_BS
from trapgate.arch.flags import IF
from trapgate.arch.models import DEFAULT_MODEL, CpuModel
from trapgate.clock import HostClock, InstructionClock
from trapgate.debug.buslock import EVERY_LEVEL, BusLockLog, Mode
from trapgate.debug.router import Share, route
from trapgate.devices.board import Board, Switches
from trapgate.devices.waker import DeadlineThread, InputThread, Mailbox
from trapgate.engine import Engine, Place
from trapgate.exits import (
    BusLock,
    DebugException,
    Halted,
    Interrupted,
    MmioRead,
    MmioWrite,
    PortRead,
    PortWrite,
    Shutdown,
    SoftwareBreakpoint,
)
from trapgate.memory import Ram
from trapgate.stops import STATUS, BreakpointHit, BusLocked, DeviceFault, ExitKind, MachineExit, Paused, SoftwareHit, StepDone, Stop
from trapgate.vcpu import Owner

FIXED_WALL_START = 1_735_689_600 * 1_000_000_000  # 2025-01-01: where repeatable runs begin
INPUT_LIMIT = 1 << 20  # bytes of input that wait for the guest before we stop reading more
NO_DEADLINE = 1 << 62  # an instruction budget without an end


def _discard(anything: object) -> None:
    pass


class ClockKind(Enum):
    """What guest time follows."""

    HOST = "host"
    INSTRUCTIONS = "instructions"  # runs repeat exactly


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """What a machine is made of. `memory` in bytes; `wall_start` in ns since 1970 (None: the host's time, or a fixed date)."""

    memory: int = 512 << 20
    cpu: str = DEFAULT_MODEL  # a name, with +feature and -feature
    clock: ClockKind = ClockKind.HOST
    wall_start: int | None = None
    serial: Callable[[bytes], None] = _discard  # what the guest sends through COM1
    debugcon: Callable[[bytes], None] = _discard  # what it writes to port E9h
    bus_locks: Mode = Mode.OFF
    bus_lock_levels: tuple[int, ...] = EVERY_LEVEL  # CPLs
    bus_lock_limit: int = 0  # how many a second, in mode LIMIT
    report: Callable[[str], None] = _discard  # a line for the user
    stop_when_dead: bool = True  # HLT with interrupts disabled ends the run: nothing can wake the guest


class Machine:
    """One guest with one vCPU. `resume` runs it until something stops it.

    `vcpu`, `ram`, `board`, `lapic` and `clock` are there for whoever loads images, debugs or looks. A configuration that cannot be
    raises ValueError (its CPU: ModelError) or MemoryError_.
    """

    def __init__(self, config: MachineConfig, engine: Engine) -> None:
        self.config, self.engine = config, engine
        self.ram = Ram(config.memory)
        self.model = CpuModel.parse(config.cpu)
        self._counting = config.clock is ClockKind.INSTRUCTIONS
        self.bus_locks = BusLockLog(
            config.bus_locks, lambda: self.clock.now(), config.bus_lock_limit, levels=config.bus_lock_levels
        )
        self._mailbox = Mailbox()
        self._inputs: list[InputThread] = []
        self._pausing = False
        self._unread = set[str]()  # outputs of which so much waits that the guest must
        self._broken: BaseException | None = None  # what a thread failed with that the guest cannot do without
        self.on_failure: Callable[[], None] = lambda: None
        """Called, from any thread, with `fail`: for whoever waits for other things than `resume`. Then `check` raises."""
        self._power_on()

    def _power_on(self) -> None:
        """Make all that does not outlast a power cycle: time, devices, CPU, and what is known of the guest."""
        config = self.config
        self._executed: Callable[[], int] = lambda: 0
        self.clock: HostClock | InstructionClock
        if self._counting:
            self.clock = InstructionClock(lambda: self._executed())
        else:
            self.clock = HostClock()
            self.clock.pause()
        self.board = Board(
            self.clock,
            self.model,
            Switches(self._leave, self._power_off, self._reset),
            wall_start=self._wall_start(),
            serial=config.serial,
            debugcon=config.debugcon,
        )
        self.lapic = self.board.interrupts.lapics[0]
        self.vcpu = self.engine.make(self._place())
        self._executed = self.vcpu.executed
        self._mailbox.kick = self.vcpu.kick
        self._deadlines = DeadlineThread(self.clock, self.vcpu.kick, self.fail)
        self._accesses = Accesses(self.board, self.lapic)
        self._ending: MachineExit | None = None
        self._stepping = False
        self._halted = False
        self._held: int | None = None  # bus locks came too fast: the moment until which the guest does not run
        self._attention = True  # an interrupt may be pending
        self._stopped_on: int | None = None  # RIP of the instruction whose execution breakpoint stopped us
        self._queued: Share | None = None  # the guest's part of the #DB on which the debugger stopped it
        self.lapic.notify = self._interrupts_changed
        self.lapic.nmi = self._nmi
        self.lapic.init = self._reset

    def power_cycle(self) -> None:
        """Switch the machine off and on: RAM is zero, guest time 0, CPU and devices are new, and nothing is loaded or armed.

        Between two runs, on the machine's thread. Inputs stay attached, and what was posted is still called. HostError.
        """
        self._deadlines.close()
        self.vcpu.close()
        self.ram.clear()
        self.bus_locks.restart()
        self._power_on()

    def _place(self) -> Place:
        return Place(
            ram=self.ram,
            model=self.model,
            clock=self.clock,
            lapic=self.lapic,
            interrupts=self.board.interrupts,
            devices=self,
            counting=self._counting,
            bus_locks=self.config.bus_locks is not Mode.OFF,
            report=self.config.report,
            failed=self.fail,
        )

    def _wall_start(self) -> int:
        if self.config.wall_start is not None:
            return self.config.wall_start
        return time.time_ns() if self.config.clock is ClockKind.HOST else FIXED_WALL_START

    # For any thread

    def post(self, call: Callable[[], None]) -> None:
        """Have a callable run soon on the machine's thread (the next time it runs)."""
        self._mailbox.post(call)

    def pause(self) -> None:
        """Make `resume` return Paused soon; when nothing runs, the next `resume` does."""
        self.post(self._pause)

    def _pause(self) -> None:
        self._pausing = True

    def hold(self, output: str, unread: bool) -> None:
        """While much of an output is unread, the guest does not run, and its time stands still; a step is made all the same."""
        (self._unread.add if unread else self._unread.discard)(output)
        self.post(lambda: None)

    def fail(self, error: BaseException) -> None:
        """Have `resume` raise what a thread failed with that the guest cannot do without."""
        self._broken = error
        self.post(lambda: None)
        self.on_failure()

    def check(self) -> None:
        """Raise what `fail` was given, if it was called."""
        if self._broken is not None:
            raise self._broken

    # For the owner

    def attach_input(self, descriptor: int) -> None:
        """Feed what a file descriptor brings to the serial port, as fast as the guest takes it."""
        self._inputs.append(InputThread(descriptor, self._mailbox, self._feed, self._has_room, self.fail))

    def _feed(self, data: bytes) -> None:
        self.board.uart.feed(data)

    def _has_room(self) -> bool:
        return self.board.uart.waiting() < INPUT_LIMIT

    def close(self) -> None:
        """End the helper threads, and give back what the vCPU holds of the host."""
        self._deadlines.close()
        self.vcpu.close()
        for one in self._inputs:
            one.close()
        self._inputs.clear()

    def run(self) -> MachineExit:
        """Run to the end, without a debugger."""
        stop = self.resume()
        match stop:
            case MachineExit():
                return stop
            case DeviceFault():
                return MachineExit(ExitKind.FAULT, 1, stop.story)
            case BusLocked():
                return MachineExit(ExitKind.STOPPED, 1, stop.line)
            case _:
                return MachineExit(ExitKind.STOPPED, 1, type(stop).__name__)

    def resume(self, step: bool = False) -> Stop:
        """Run the guest until something stops it; with `step`, for one instruction, no interrupt taken before it.

        An exception counts as one: a step ends on the first instruction of the guest's handler.
        An ended machine returns its end again. The execution breakpoint that stopped the guest last does not stop it at once again.
        """
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
        self.clock.resume()
        try:
            return self._loop()
        finally:
            self.clock.pause()
            self._deadlines.arm(None)

    # The loop

    def _loop(self) -> Stop:
        run, handlers = self.vcpu.run, self._handlers
        while True:
            stop = self._settle()
            if stop is None and self._unread and not self._stepping:
                self.clock.pause()
                self._mailbox.wait(None)
                self.clock.resume()
                continue
            if stop is None and self._held is not None:
                self._hold(self._held)
                continue
            if stop is None and self._halted:
                stop = self._sleep()
                if stop is None:
                    continue
            if stop is None:
                try:
                    event = run()
                except Exception as error:  # the local APIC works within a run: CR8, EOI, interprocessor interrupts
                    who = culprit(error)
                    if who is None:
                        raise
                    return failed(who, "amid a run of the vCPU", error)
                stop = handlers[type(event)](self, event)
            if self._accesses.fault is not None and stop is None:
                stop, self._accesses.fault = self._accesses.fault, None
            if stop is not None:
                return stop

    def _settle(self) -> Stop | None:
        """All that is to be done between two runs of the vCPU: calls, timers, interrupts, and whether to stop."""
        deadline: int | None = None
        try:
            while (call := self._mailbox.take()) is not None:
                call()
            deadline = self.clock.next_deadline()
            if deadline is not None and deadline <= self.clock.now():
                self.clock.run_due()
                deadline = self.clock.next_deadline()
        except Exception as error:
            return failed(culprit(error) or "(none: a posted call)", "between runs of the vCPU", error)
        self.clock.fresh = False
        self.check()
        if self._ending is not None:
            return self._ending
        if self._pausing:
            self._pausing = False
            return Paused()
        if self._attention and (self._halted or not self._stepping):
            self._inject()
        if self._counting:
            self.vcpu.budget(NO_DEADLINE if deadline is None else max(deadline - self.clock.now(), 1))
        elif not self._halted:
            self._deadlines.arm(deadline)
        return None

    def _inject(self) -> None:
        """Hand a pending interrupt to the vCPU, or have it say when it would take one."""
        pending = self.lapic.pending()
        if pending and self.vcpu.can_interrupt():
            self.vcpu.interrupt(self.lapic.acknowledge())
            self._halted = False
            pending = self.lapic.pending()
        self._attention = pending
        self.vcpu.want_interrupt(pending)

    def _interrupts_changed(self) -> None:
        """The local APIC may have an interrupt: called from devices, and by the vCPU itself amid a run (CR8, EOI)."""
        self._attention = True
        if not self._stepping:
            self.vcpu.want_interrupt(self.lapic.pending())

    def _nmi(self) -> None:
        self._halted = False
        self.vcpu.nmi()

    def _sleep(self) -> Stop | None:
        """HLT: wait for the next timer, a posted call, or for ever."""
        if self._mailbox:
            return None
        deadline = self.clock.next_deadline()
        if not self.vcpu.get("rflags") & IF and self.config.stop_when_dead:
            return self._end(ExitKind.DEAD, story="the guest halted with interrupts disabled: nothing can wake it")
        if deadline is None:
            self._mailbox.wait(None)
        else:
            self._pass_time(deadline)
        return None

    def _hold(self, until: int) -> None:
        """Let time pass while timers and posted calls are served, and no instruction is executed."""
        if self.clock.now() >= until:
            self._held = None
        elif not self._mailbox:
            deadline = self.clock.next_deadline()
            self._pass_time(until if deadline is None else min(deadline, until))

    def _pass_time(self, moment: int) -> None:
        """Wait for a moment of guest time, or until something is posted."""
        if isinstance(self.clock, InstructionClock):
            self.clock.skip_to(moment)
        elif (left := moment - self.clock.now()) > 0:
            self._mailbox.wait(left / 1e9)

    # Ends

    def _end(self, kind: ExitKind, status: int | None = None, story: str = "") -> MachineExit:
        self._ending = self._ending or MachineExit(kind, STATUS[kind] if status is None else status, story)
        return self._ending

    def _leave(self, status: int) -> None:
        self._end(ExitKind.EXIT_PORT, status)

    def _power_off(self) -> None:
        self._end(ExitKind.POWER_OFF)

    def _reset(self) -> None:
        self._end(ExitKind.RESET)

    # Exits of the vCPU

    def _port_read(self, event: PortRead) -> None:
        self.vcpu.complete(self._accesses.port_read(event.port, event.size))

    def _port_write(self, event: PortWrite) -> None:
        self._accesses.port_write(event.port, event.size, event.value)

    def _mmio_read(self, event: MmioRead) -> None:
        self.vcpu.complete(self._accesses.memory_read(event.address, event.size))

    def _mmio_write(self, event: MmioWrite) -> None:
        self._accesses.memory_write(event.address, event.size, event.value)

    # Accesses answered amid a run of the vCPU: `vcpu.Devices`

    def port_read(self, port: int, size: int) -> int:
        """IN."""
        value = self._accesses.port_read(port, size)
        if self.clock.fresh or self._accesses.fault or self._ending:
            self.vcpu.kick()
        return value

    def port_write(self, port: int, size: int, value: int) -> None:
        """OUT."""
        self._accesses.port_write(port, size, value)
        if self.clock.fresh or self._accesses.fault or self._ending:
            self.vcpu.kick()

    def memory_read(self, address: int, size: int) -> int:
        """A load from where no RAM is."""
        value = self._accesses.memory_read(address, size)
        if self.clock.fresh or self._accesses.fault or self._ending:
            self.vcpu.kick()
        return value

    def memory_write(self, address: int, size: int, value: int) -> None:
        """A store to where no RAM is."""
        self._accesses.memory_write(address, size, value)
        if self.clock.fresh or self._accesses.fault or self._ending:
            self.vcpu.kick()

    def _halt(self, event: Halted) -> Stop | None:
        self._halted = self._attention = True
        return StepDone() if self._stepping else None

    def _shutdown(self, event: Shutdown) -> Stop:
        return self._end(ExitKind.SHUTDOWN, story=event.story)

    def _interrupted(self, event: Interrupted) -> None:
        self._attention = True

    def _debug(self, event: DebugException) -> Stop | None:
        armed = self.vcpu.armed()
        verdict = route(event, armed, self.vcpu.guest_debug(), self._stepping)
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

    def _deliver(self, share: Share) -> None:
        self.vcpu.deliver_debug(share.causes, share.hits, share.icebp)

    def _software_breakpoint(self, event: SoftwareBreakpoint) -> Stop:
        self._stopped_on = self.vcpu.get("rip")
        return SoftwareHit(event.address)

    def _bus_lock(self, event: BusLock) -> Stop | None:
        outcome = self.bus_locks.record(event)
        if outcome.line is not None:
            self.config.report(outcome.line)
        self._held = outcome.hold
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
        BusLock: _bus_lock,
    }
