"""The machine: wires RAM, board, clock and processors, and holds the one run loop.

All of it runs on the thread that calls `resume` (or `run`); other threads may only `post` and `pause`. A stop is a value.
"""

import time
from collections.abc import Callable

from trapgate.answering import Accesses, Added, culprit, failed
from trapgate.arch.models import CpuModel
from trapgate.clock import HostClock, InstructionClock
from trapgate.config import ClockKind as ClockKind
from trapgate.config import MachineConfig as MachineConfig
from trapgate.debug.buslock import BusLockLog, Mode
from trapgate.devices.board import Board, Switches
from trapgate.devices.lapic import LocalApic
from trapgate.devices.waker import DeadlineThread, InputThread, Mailbox
from trapgate.engine import Engine, Surroundings
from trapgate.memory import Ram
from trapgate.processor import Processor
from trapgate.stops import STATUS, BusLocked, CountDone, DeviceFault, ExitKind, MachineExit, Paused, Stop
from trapgate.vcpu import Vcpu

FIXED_WALL_START = 1_735_689_600 * 1_000_000_000  # 2025-01-01: where repeatable runs begin
INPUT_LIMIT = 1 << 20  # bytes of input that wait for the guest before we stop reading more
LONGEST = 1 << 26  # instructions of one run of the vCPU: some tenths of a second, then signals are heard


class Machine:
    """One guest. `resume` runs it until something stops it.

    `processors`, `ram`, `board` and `clock` are there for whoever loads images, debugs or looks. A configuration that cannot be
    raises ValueError (its CPU: ModelError) or RamError.
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
        self._asked: Stop | None = None
        self._limit: int | None = None  # how many instructions are executed when `resume` returns
        self._caught: frozenset[int] = frozenset()
        self.added = Added()
        """Devices of the owner, and who is told of ports: all that outlasts a power cycle."""
        self._unread = set[str]()  # outputs of which so much waits that the guest must
        self._broken: BaseException | None = None  # what a thread failed with that the guest cannot do without
        self.on_failure: Callable[[], None] = lambda: None
        """Called, from any thread, with `fail`: for whoever waits for other things than `resume`. Then `check` raises."""
        self.on_resume: Callable[[], None] = lambda: None
        self.on_stop: Callable[[], None] = lambda: None
        """Called on the machine's thread where `resume` begins, and before it returns."""
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
        self.added.connect(self.board)
        self._ending: MachineExit | None = None
        self.processors = [self._processor(lapic) for lapic in self.board.interrupts.lapics]
        self._running = self.processors[0]
        self._executed = lambda: sum(one.vcpu.executed() for one in self.processors)
        self._mailbox.kick = self._kick
        self._deadlines = DeadlineThread(self.clock, self._kick, self.fail)

    def _processor(self, lapic: LocalApic) -> Processor:
        made = Processor(
            Accesses(self.board, lapic, self.added),
            lapic,
            self.clock,
            self.bus_locks,
            self.config.report,
            lambda *end: self._end(*end),
        )
        lapic.init = self._reset
        made.connect(self.engine.make(self._surroundings(made)))
        made.catch(self._caught)
        return made

    @property
    def vcpu(self) -> Vcpu:
        """The vCPU of the processor whose turn it is."""
        return self._running.vcpu

    @property
    def lapic(self) -> LocalApic:
        """Its local APIC."""
        return self._running.lapic

    def _kick(self) -> None:
        """Make the run of the vCPU return soon; from any thread."""
        for one in self.processors:
            one.vcpu.kick()

    def power_cycle(self) -> None:
        """Switch the machine off and on: RAM is zero, guest time 0, CPU and devices are new, and nothing is loaded or armed.

        Between two runs, on the machine's thread. Inputs stay attached, and what was posted is still called. HostError.
        """
        self._close_processors()
        self.ram.clear()
        self.bus_locks.restart()
        self._asked = None
        self._power_on()

    def _close_processors(self) -> None:
        """Let go of the vCPUs, which other threads may still want to kick, and whose count is still asked for."""
        self._deadlines.close()
        self._mailbox.kick = lambda: None
        executed = self._executed() if self._counting else 0
        self._executed = lambda: executed
        for one in self.processors:
            one.vcpu.close()

    def _surroundings(self, processor: Processor) -> Surroundings:
        return Surroundings(
            ram=self.ram,
            model=self.model,
            clock=self.clock,
            lapic=processor.lapic,
            interrupts=self.board.interrupts,
            devices=processor,
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
        self.post(lambda: self.stop(Paused()))

    def stop(self, stop: Stop) -> None:
        """Make `resume` return this as soon as the instruction under way is done. On the machine's thread, amid a run too."""
        self._asked = stop
        self._kick()

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
        """End the helper threads, and give back what vCPUs and RAM hold of the host: neither can be used any more."""
        self._close_processors()
        self.ram.close()
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

    def catch(self, vectors: frozenset[int]) -> None:
        """Stop at exceptions of these vectors before they are delivered: ExceptionRaised. EngineError where that cannot be."""
        for one in self.processors:
            one.catch(vectors)
        self._caught = vectors

    def resume(self, step: bool = False, instructions: int | None = None) -> Stop:
        """Run the guest until something stops it; with `step`, for one instruction, no interrupt taken before it.

        With `instructions`, for so many at most (ClockKind.INSTRUCTIONS). An exception counts as one: a step ends on the first
        instruction of the guest's handler.
        An ended machine returns its end again. The execution breakpoint that stopped the guest last does not stop it at once again.
        """
        self._limit = None if instructions is None else self._executed() + instructions
        stop = self._running.begin(step)
        if stop is not None:
            return stop
        self.on_resume()
        self.clock.resume()
        try:
            return self._loop()
        finally:
            self.clock.pause()
            self._deadlines.arm(None)
            self.on_stop()

    # The loop

    def _loop(self) -> Stop:
        while True:
            processor = self._running
            stop = self._settle()
            if stop is None and self._unread and not processor.stepping:
                self.clock.pause()
                self._mailbox.wait(None)
                self.clock.resume()
                continue
            if stop is None and processor.held is not None:
                self._hold(processor, processor.held)
                continue
            if stop is None and processor.halted:
                stop = self._sleep(processor)
                if stop is None:
                    continue
            if stop is None:
                stop = processor.run()
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
        if (stop := self._asked) is not None:
            self._asked = None
            return stop
        if self._limit is not None and self._executed() >= self._limit:
            return CountDone()
        self._running.inject()
        if self._counting:
            due = LONGEST if deadline is None else max(deadline - self.clock.now(), 1)
            left = LONGEST if self._limit is None else self._limit - self._executed()
            self.vcpu.budget(min(due, left, LONGEST))
        elif not self._running.halted:
            self._deadlines.arm(deadline)
        return None

    def _sleep(self, processor: Processor) -> Stop | None:
        """HLT: wait for the next timer, a posted call, or for ever."""
        if self._mailbox:
            return None
        deadline = self.clock.next_deadline()
        if processor.dead and self.config.stop_when_dead:
            return self._end(ExitKind.DEAD, "the guest halted with interrupts disabled: nothing can wake it")
        if deadline is None:
            self._mailbox.wait(None)
        else:
            self._pass_time(deadline)
        return None

    def _hold(self, processor: Processor, until: int) -> None:
        """Let time pass while timers and posted calls are served, and no instruction is executed."""
        if self.clock.now() >= until:
            processor.held = None
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

    def _end(self, kind: ExitKind, story: str = "", status: int | None = None) -> MachineExit:
        self._ending = self._ending or MachineExit(kind, STATUS[kind] if status is None else status, story)
        self._kick()
        return self._ending

    def _leave(self, status: int) -> None:
        self._end(ExitKind.EXIT_PORT, status=status)

    def _power_off(self) -> None:
        self._end(ExitKind.POWER_OFF)

    def _reset(self) -> None:
        self._end(ExitKind.RESET)
