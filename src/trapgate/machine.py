"""Wires RAM, board, clock and processors to a machine, and holds the one run loop.

All of it runs on the thread that calls `resume` (or `run`); other threads may only `post` and `pause`. A stop is a value.
"""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from trapgate.answering import Accesses, Added, culprit, failed
from trapgate.arch.models import CpuModel
from trapgate.clock import ClockState, HostClock, InstructionClock
from trapgate.config import ClockKind as ClockKind
from trapgate.config import MachineConfig as MachineConfig
from trapgate.cpustate import CpuState
from trapgate.debug.buslock import BusLockLog, LimitState, Mode
from trapgate.devices.board import Board, BoardState, standard
from trapgate.devices.dma import Dma
from trapgate.devices.lapic import LocalApic
from trapgate.devices.parts import Surface, Switches
from trapgate.devices.pit import Pit
from trapgate.devices.pmtimer import AcpiPm
from trapgate.devices.rtc import Rtc
from trapgate.devices.uart import Uart
from trapgate.devices.waker import DeadlineThread, InputThread, Mailbox
from trapgate.doings import Doing, Interest
from trapgate.engine import Engine, Surroundings
from trapgate.history import History as History
from trapgate.memory import Ram, RamState
from trapgate.processor import Processor, ProcessorState
from trapgate.state import State, load_all, require, within
from trapgate.stops import STATUS, BusLocked, CountDone, DeviceFault, ExitKind, MachineExit, Paused, StepDone, Stop
from trapgate.turns import MOST, Turns, TurnState
from trapgate.values import dataclass
from trapgate.vcpu import Breakpoint, EngineError, Vcpu

FIXED_WALL_START = 1_735_689_600 * 1_000_000_000  # 2025-01-01: where repeatable runs begin
INPUT_LIMIT = 1 << 20  # bytes of input that wait for the guest before we stop reading more
T = TypeVar("T")
LONGEST = 1 << 26  # instructions of one run of the vCPU: some tenths of a second, then signals are heard


@dataclass(frozen=True, slots=True)
class MachineState(State):
    """A machine between two runs, all but its RAM (`memory.RamState`)."""

    clock: ClockState
    bus_locks: LimitState
    board: BoardState
    cpus: tuple[CpuState, ...]
    processors: tuple[ProcessorState, ...]
    turn: TurnState

    def classes(self) -> set[type[State]]:
        """The classes of all states within it: its own class does not name those of devices, what is behind them, and engine."""
        return {type(one) for one in within(self)}


class Machine:
    """One guest. `resume` runs it until something stops it.

    `processors`, `ram`, `board` and `clock` are there for whoever loads images, debugs or looks. A configuration that cannot be
    raises ValueError (its CPU: ModelError) or RamError.
    """

    def __init__(self, config: MachineConfig, engine: Engine) -> None:
        if not 1 <= config.cpus <= MOST:
            raise ValueError(f"a machine has 1 to {MOST} CPUs, not {config.cpus}")
        if config.cpus > engine.most_cpus:
            raise EngineError(f"this engine runs {engine.most_cpus} vCPU; use the engine 'soft' for {config.cpus}")
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
        self._told: tuple[Interest, Callable[[Doing], None]] = Interest(), lambda doing: None
        self.added = Added()
        """Devices of the owner, and who is told of ports: all that outlasts a power cycle."""
        self._unread = set[str]()  # outputs of which so much waits that the guest must
        self._broken: BaseException | None = None  # what a thread failed with that the guest cannot do without
        self.on_failure: Callable[[], None] = lambda: None
        """Called, from any thread, with `fail`: for whoever waits for other things than `resume`. Then `check` raises."""
        self.on_resume: Callable[[], None] = lambda: None
        self.on_stop: Callable[[], None] = lambda: None
        """Called on the machine's thread where `resume` begins, and before it returns."""
        self.history: History | None = None
        """Who records the guest, or replays it; with the instruction clock. For whoever made it to set, between two runs."""
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
        serial, console = self._heard(config.serial), self._heard(config.debugcon)
        self.board = Board(self._surface(), self.model, (*standard(serial, console), *config.devices), config.cpus)
        self.added.connect(self.board)
        self._ending: MachineExit | None = None
        self._begun = False  # whether the guest has run, and so has the time of day
        self.processors = [self._processor(lapic) for lapic in self.board.interrupts.lapics]
        self.turns = Turns(self.processors, self.clock)
        self._executed = lambda: sum(one.vcpu.executed() for one in self.processors)
        self._mailbox.kick = self._kick
        self._deadlines = DeadlineThread(self.clock, self._kick, self.fail)

    def _heard(self, say: Callable[[T], None]) -> Callable[[T], None]:
        """Say only what the guest says for the first time."""

        def saying(what: T) -> None:
            if self.history is None or self.history.says():
                say(what)

        return saying

    def _processor(self, lapic: LocalApic) -> Processor:
        made = Processor(
            Accesses(self.board, lapic, self.added),
            lapic,
            self.clock,
            self.bus_locks,
            self._heard(self.config.report),
            lambda *end: self._end(*end),
        )
        if lapic.boots:
            lapic.init = self._reset
        made.connect(self.engine.make(self._surroundings(made)))
        made.catch(self._caught)
        made.tell_of(*self._told)
        return made

    @property
    def vcpu(self) -> Vcpu:
        """The vCPU of the processor whose turn it is, or was last."""
        return self.turns.running.vcpu

    @property
    def lapic(self) -> LocalApic:
        """Its local APIC."""
        return self.turns.running.lapic

    def _kick(self) -> None:
        """Make the run of the vCPU return soon; from any thread."""
        for one in self.processors:
            one.vcpu.kick()

    def power_cycle(self) -> None:
        """Switch the machine off and on: RAM is zero, guest time 0, CPU and devices are new, and nothing is loaded or armed.

        Between two runs, on the machine's thread. Inputs stay attached, and what was posted is still called. HostError.
        """
        self._close_processors()
        self.board.close()
        self.ram.clear()
        self.bus_locks.restart()
        self._asked = None
        self._power_on()

    def save(self) -> MachineState:
        """Its state; that of `ram` is for whoever keeps it to get. Between two runs. StateError, EngineError: a part has none.

        An end of the machine is no part of it: what is loaded goes on behind the instruction that ended this one.
        """
        cpus = tuple(one.vcpu.save() for one in self.processors)
        processors = tuple(one.save() for one in self.processors)
        return MachineState(self.clock.save(), self.bus_locks.save(), self.board.save(), cpus, processors, self.turns.save())

    def load(self, state: MachineState, ram: RamState | None = None) -> None:
        """Be as the machine saved was; `ram`, unless its RAM has come another way. StateError, and nothing is changed."""
        require(len(state.processors) == len(state.cpus) == len(self.processors), "it has another number of processors")
        vcpus = (one.vcpu for one in self.processors)
        load_all(
            [
                *([] if ram is None else [(self.ram, ram)]),
                *zip(vcpus, state.cpus, strict=True),
                (self.clock, state.clock),
                (self.bus_locks, state.bus_locks),
                (self.board, state.board),
                *zip(self.processors, state.processors, strict=True),
                (self.turns, state.turn),
            ]
        )
        self._ending = self._asked = None
        self._begun = True

    def _close_processors(self) -> None:
        """Let go of the vCPUs, which other threads may still want to kick, and whose count is still asked for."""
        self._deadlines.close()
        self._mailbox.kick = lambda: None
        executed = self._executed() if self._counting else 0
        self._executed = lambda: executed
        for one in self.processors:
            one.vcpu.close()

    def _surface(self) -> Surface:
        return Surface(
            clock=self.clock,
            ram=Dma(self.ram, self._kick),
            post=self.post,
            switches=Switches(self._leave, self._power_off, self._reset),
            wall_start=self._wall_start(),
        )

    def _surroundings(self, processor: Processor) -> Surroundings:
        return Surroundings(
            ram=self.ram,
            model=self.model,
            clock=self.clock,
            lapic=processor.lapic,
            interrupts=self.board.interrupts,
            pit=self.board.part(Pit),
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
        self._inputs.append(InputThread(descriptor, self._mailbox, self.feed, self._has_room, self.fail))

    def feed(self, data: bytes) -> None:
        """Bytes arrive at the serial port, or would if the guest were not replayed."""
        if self.history is None:
            self.board.part(Uart).feed(data)
        else:
            self.history.feed(data)

    def press_power_button(self) -> None:
        """Ask the guest to switch itself off, by ACPI; on the machine's thread. One that does not listen goes on."""
        self.board.part(AcpiPm).press_power_button()

    def _has_room(self) -> bool:
        held = 0 if self.history is None else self.history.waiting()
        return self.board.part(Uart).waiting() + held < INPUT_LIMIT

    def close(self) -> None:
        """End the helper threads, and give back what vCPUs and RAM hold of the host: neither can be used any more."""
        self._close_processors()
        self.board.close()
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

    def arm(self, breakpoints: Sequence[Breakpoint], software: Sequence[int]) -> None:
        """The debugger's breakpoints, on all processors from now on: see `Vcpu.arm`."""
        for one in self.processors:
            one.vcpu.arm(breakpoints, software)

    def executed(self) -> int:
        """Instructions that all processors have executed so far (ClockKind.INSTRUCTIONS)."""
        return self._executed()

    def forget_pages(self) -> None:
        """Have every vCPU forget its pages: what is written from now on is dirty in `ram` (ClockKind.INSTRUCTIONS)."""
        for one in self.processors:
            one.vcpu.forget_pages()

    def catch(self, vectors: frozenset[int]) -> None:
        """Stop at exceptions of these vectors before they are delivered: ExceptionRaised. EngineError where that cannot be."""
        for one in self.processors:
            one.catch(vectors)
        self._caught = vectors

    def tell_of(self, interest: Interest, heard: Callable[[Doing], None]) -> None:
        """Tell of what the guest does, amid the run: `heard` may `stop` it. EngineError where that cannot be told."""
        for one in self.processors:
            one.tell_of(interest, heard)
        self._told = interest, heard

    def resume(self, step: bool = False, instructions: int | None = None, only: Sequence[int] = ()) -> Stop:
        """Run the guest until something stops it; with `step`, for one instruction, no interrupt taken before it.

        With `only`, numbers of processors, all others stand still. The first of them steps, without `only` the one that ran
        last; more of them run while that one is halted. One that is halted or not started for good makes no step.
        With `instructions`, for so many at most (ClockKind.INSTRUCTIONS). An exception counts as one: a step ends on the first
        instruction of the guest's handler.
        An ended machine returns its end again. The execution breakpoint that stopped the guest last does not stop it at once again.
        """
        self._limit = None if instructions is None else self._executed() + instructions
        going = [self.processors[number] for number in only] or ([self.turns.running] if step else self.processors)
        if (stop := going[0].begin(step)) is not None:
            return stop
        if step and (going[0].ready() or len(going) == 1):
            if going[0].dead and len(self.processors) > 1:
                return StepDone()
            going = going[:1]
        for one in going[1:]:
            if (stop := one.begin(False)) is not None:
                return stop
        self.turns.only(going, going[0] if step else None)
        self.on_resume()
        self.begin()
        self.clock.resume()
        try:
            return self._loop()
        finally:
            self.clock.pause()
            self._deadlines.arm(None)
            self.on_stop()

    def begin(self) -> None:
        """The guest is about to run: it has the time of day from now on. Again is harmless."""
        if not self._begun:
            self.board.part(Rtc).begin(self._wall_start())
            self._begun = True

    @property
    def ended(self) -> bool:
        """Whether it has come to an end, which `resume` returns again."""
        return self._ending is not None

    # The loop

    def _loop(self) -> Stop:
        while True:
            stop = self._settle()
            if stop is None and self._unread and not self.turns.running.stepping:
                self.clock.pause()
                self._mailbox.wait(None)
                self.clock.resume()
                continue
            if stop is None:
                running = self.turns.running
                processor = running if self._counting and running.vcpu.amid else self.turns.take()
                if processor is None:
                    stop = self._sleep()
                    if stop is None:
                        continue
                else:
                    self._grant(processor)
                    stop = processor.run()
            if stop is not None:
                return self._said(stop)

    def _settle(self) -> Stop | None:
        """All that is to be done between two runs of a vCPU: calls, timers, and whether to stop.

        Whether an instruction is left amid its accesses, for devices to answer, may not change when anything happens.
        """
        if self._counting and self.turns.running.vcpu.amid:
            return self._stop()
        try:
            deadline = self.clock.next_deadline()
            if deadline is not None and deadline <= self.clock.now():
                self.clock.run_due()
        except Exception as error:
            return failed(culprit(error) or "(none: a timer)", "between runs of the vCPU", error)
        if self.history is not None:
            self.history.settle()
        try:
            while (call := self._mailbox.take()) is not None:
                call()
        except Exception as error:
            return failed(culprit(error) or "(none: a posted call)", "between runs of the vCPU", error)
        self.clock.look()
        self.check()
        if (stop := self._stop()) is not None:
            return stop
        if self._limit is not None and self._executed() >= self._limit:
            return CountDone()
        return None

    def _stop(self) -> Stop | None:
        """The end, or what somebody asked for."""
        if self._ending is not None:
            return self._ending
        stop, self._asked = self._asked, None
        return stop

    def _said(self, stop: Stop) -> Stop:
        """What is told of a stop: the step of an instruction that somebody asked to stop at ends with that."""
        asked = self._asked
        if not isinstance(stop, StepDone) or asked is None or isinstance(asked, Paused):
            return stop
        self._asked = None
        return asked

    def _grant(self, processor: Processor) -> None:
        """Interrupts for the processor that is to run, and how long it may: to the next timer, or the end of its turn."""
        processor.inject()
        deadline, until = self.clock.next_deadline(), self.turns.until if self._counting else self.turns.alarm
        if until is not None:
            deadline = until if deadline is None else min(deadline, until)
        if self._counting:
            due = LONGEST if deadline is None else max(deadline - self.clock.now(), 1)
            left = LONGEST if self._limit is None else self._limit - self._executed()
            room = LONGEST if self.history is None else self.history.room()
            processor.vcpu.budget(min(due, left, room))
        else:
            self._deadlines.arm(deadline)

    def _sleep(self) -> Stop | None:
        """Nobody has anything to do: wait for the next timer, a posted call, the end of a bus lock's penalty, or for ever."""
        if self._mailbox:
            return None
        if self.config.stop_when_dead and all(one.dead for one in self.processors):
            return self._end(ExitKind.DEAD, "the guest halted with interrupts disabled: nothing can wake it")
        moments = [one.held for one in self.processors if one.held is not None]
        if (deadline := self.clock.next_deadline()) is not None:
            moments.append(deadline)
        if moments:
            self._pass_time(min(moments))
        else:
            self._mailbox.wait(None)
        return None

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
