"""Makes the software CPU a vCPU: the loop between translated code and Python, single steps, breakpoints, interrupts.

Translated code runs until it needs Python; `exit_reason` says why. Whatever Python must see instruction by instruction (single
steps of the guest or the debugger, watched accesses, stores into code, shadows) runs as a *step*: one instruction, translated
into a block of its own, with everything that happened to it noted and turned into at most one DebugException behind it.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

from iced_x86 import Instruction

from trapgate.arch import vectors
from trapgate.arch.debugregs import DR6_BS
from trapgate.arch.flags import IF, RF, TF
from trapgate.arch.models import CpuModel
from trapgate.clock import Clock
from trapgate.doings import Happened
from trapgate.exits import (
    DebugException,
    Exit,
    GuestException,
    Halted,
    Interrupted,
    PortRead,
    PortWrite,
    Shutdown,
    Spinning,
)
from trapgate.isa import modes
from trapgate.isa import state as s
from trapgate.memory import Ram
from trapgate.soft import accesses, answers, borrowed, crash, inspection, observing, tallies
from trapgate.soft.accesses import REPORT, NeedsStep
from trapgate.soft.blocks.placed import Block
from trapgate.soft.blocks.shared import Shared
from trapgate.soft.exact import debugging, handlers, limits, portio  # noqa: F401  (it fills HANDLERS)
from trapgate.soft.exact.interrupts import TripleFault
from trapgate.soft.exact.interrupts import deliver as deliver_event
from trapgate.soft.exact.operands import linear_address
from trapgate.soft.exact.traps import TRAPPING, trap_of
from trapgate.soft.loops.hot import HOT
from trapgate.soft.observing import SAMPLE
from trapgate.soft.reset import init, reset
from trapgate.soft.resting import RestingCpu
from trapgate.soft.running import RunningCpu
from trapgate.soft.state.apic import LocalApic
from trapgate.soft.state.fault import GuestFault
from trapgate.soft.state.instructions import handler_of
from trapgate.soft.state.story import story
from trapgate.soft.state.underway import Access, HeldFault, HeldTrap, Phase, ToAccumulator
from trapgate.stencil.library import Library
from trapgate.vcpu import GuestDebug, Observer, Place

_AMID = frozenset((s.EXIT_ACCESS, s.EXIT_SEGMENT))  # translated code may go on where it left
Answer = Callable[[RunningCpu], int]
"""Answers an exit of translated code at once: where that goes on, or 0 when it cannot."""


class SoftVcpu(RestingCpu):
    """A vCPU of the software engine; see `trapgate.vcpu.Vcpu` for the protocol. `translations`: another's `shared`, or new ones."""

    def __init__(
        self,
        ram: Ram,
        model: CpuModel,
        translations: Library | Shared,
        clock: Clock,
        lapic: LocalApic | None = None,
        tsc_hz: int = 0,
        counting: bool = False,
    ) -> None:
        super().__init__(ram, borrowed.possible(model), translations, clock, lapic, tsc_hz, counting)
        self.translator.configure(counting=counting)
        self._observer: Observer | None = None
        reset(self)
        self._reasons = dict(self._REASONS)
        self._answers: dict[int, Answer] = {
            s.EXIT_PORT: answers.port, s.EXIT_ACCESS: answers.access, s.EXIT_INSTRUCTION: answers.instruction,
        }  # fmt: skip

    # --- the loop

    def run(self) -> Exit:
        """Execute until something happens that the CPU cannot settle alone."""
        if self._dead is not None:
            return self._dead
        self.take_turn()
        if self.crashes is not None:
            self.crashes.here()
        self.state.paused = 0
        self.follow_clock()
        try:
            while True:
                try:
                    exit_ = self._turn()
                except GuestFault as fault:
                    exit_ = self.deliver(fault)
                except NeedsStep:
                    self.leave_block()
                    self.count(-1)
                    self._forget_access()
                    self.phase, exit_ = Phase.STEPPING, None
                if exit_ is not None:
                    return exit_
        except TripleFault as fault:
            return Shutdown(story(self, str(fault)))

    def init(self) -> None:
        """INIT: at the reset vector, nothing under way."""
        before = debugging.armed(self)
        self.abandon()
        self._restarts.clear()
        self.phase, self._nmi, self._dead, self.pending_read, self.pending_hits = Phase.RUNNING, False, None, None, 0
        self.history.clear()
        init(self)
        debugging.refresh(self, before)
        self.state.request = 1

    def share(self, on: bool) -> None:
        """Whether PAUSE ends the run."""
        self.state.sharing = int(on)

    def _turn(self) -> Exit | None:
        """One stay in translated code, or what comes before the next one."""
        st = self.state
        if self.held is not None:
            return self._let_go(self.held)
        if self.phase is Phase.ACCESSING:
            return self._advance()
        if self.phase is Phase.RESUMING:
            self.phase = Phase.RUNNING
            return self._go(self.resume_code)
        if self.single is not None:
            return self._end_step(self.single)
        if self._again is not None:
            return self._begin_step()
        if st.pending_debug or self.pending_hits:
            return self._pending()
        return self._boundary()

    def _go(self, code: int) -> Exit | None:
        st, answers_ = self.state, self._answers
        while True:
            self._enter(self.address, code)
            reason = st.exit_reason
            if reason not in _AMID and st.ahead:
                self.leave_block()
            answer = answers_.get(reason)
            if answer is None or not (code := answer(self)):
                return self._reasons[reason](self)

    def _boundary(self) -> Exit | None:
        """Between two instructions: what must be seen to before translated code may run on."""
        st = self.state
        site, self.device_site = self.device_site, 0
        if self._step_over:
            self._step_over = False
            self.last_debug = GuestDebug(False, False, False, False)
            return DebugException(DR6_BS, 0, False, fault=False)
        if self._kicked:
            self._kicked = False
            return Interrupted()
        if st.paused:
            return Spinning()
        if self.phase is Phase.HALTING:
            self.phase = Phase.RUNNING
            return Halted()
        if self.spent():
            return Interrupted()
        shadowed = st.shadow and st.shadow_rip == st.rip
        if self._nmi and not st.nmi_blocked and shadowed:
            self.phase = Phase.STEPPING
        elif self._nmi and not st.nmi_blocked and not self._stepping:  # a step takes neither NMIs nor interrupts
            self._nmi, st.nmi_blocked, site = False, 1, 0
            self.count(1)
            deliver_event(self, 2, external=True)
            if self.pending_hits:  # by its frame: a trap comes before interrupts (SDM vol. 3, table 6-2)
                return None
        if st.irq_waiting and st.rflags & IF:
            if not shadowed and not self._stepping:
                return Interrupted()
            if not self._stepping:
                self.phase = Phase.STEPPING
        if self.spent():  # by an NMI
            return Interrupted()
        suppresses = st.rflags & RF and self.linear(st.rip) in self.breakpoints
        if self.phase is Phase.STEPPING or self._stepping or st.rflags & TF or suppresses or self._skip_breakpoint == st.rip:
            return self._begin_step(site)
        st.request = 0  # before we look whether anything waits: a kick from another thread is never lost
        if self._kicked or (self._nmi and not st.nmi_blocked):
            st.request = 1  # nothing runs before we are back: RF stays as it is
        else:
            st.rflags &= ~RF
        return self._go(self.dispatch_code)

    def _interrupted(self) -> Exit | None:
        st = self.state
        if self.hot is not None and st.request & HOT:
            self.hot.sampled()
            if st.sharing and self.single is None:
                return Interrupted()
        if self.single is not None:  # a kick came before the instruction began: the step has not happened
            self._give_back(self.single)
            return None
        if self.translator.counting and not st.request:
            if self.spent():
                return Interrupted()
            self.phase = Phase.STEPPING  # fewer instructions are left than the next block has: one by one
        elif not st.request and not st.mode & modes.UNLIMITED:
            self.phase = Phase.STEPPING  # the block reaches beyond the limit of CS
        return None

    def _repeating(self) -> Exit | None:
        """A repeated string instruction was left between two iterations: an interrupt that comes now pushes RF = 1."""
        debugging.within_repeat(self)
        return self._interrupted()

    def _advance(self) -> Exit | None:
        """Go on with an access that waits for a device, if that has answered."""
        access, step = self.access, self.single
        assert access is not None and step is not None, "devices are asked in steps"
        if self._answer is None and not access.stores:
            return access.exit
        answer, self._answer = self._answer or 0, None
        step.answers.append(answer)
        return self._go_on(access.answered(answer))

    def _go_on(self, access: Access) -> Exit | None:
        """Ask the next device, unless it has answered already, or end the access."""
        step = self.single
        while access.devices:
            if step is None or len(step.answers) >= len(step.known or ()):
                self.access, self.phase = access, Phase.ACCESSING
                return access.exit
            step.answers.append(answer := (step.known or ())[len(step.answers)])
            access = access.answered(answer)
        self.access, self.phase = None, Phase.RESUMING
        accesses.finish(self, access)
        return None

    def _block(self, physical: int, mode: int) -> Block | None:
        if self._observer is None:
            return self.block_at(physical, mode)
        self._observer.translating()
        try:
            return self.block_at(physical, mode)
        finally:
            self._observer.translated()

    def observe(self, observer: Observer) -> None:
        """Tell an observer of all that happens from now on."""
        self._observer, native, st = observer, self._enter, self.state

        def enter(address: int, code: int) -> None:
            late = st.request == SAMPLE  # it came while Python ran: that is no guest code
            observer.entering()
            native(address, code)
            observer.left()
            sampled = st.request == SAMPLE and not late
            observer.because(observing.why(self), Place(self.linear(st.rip), st.cpl) if sampled else None)

        def answering(reason: int, answer: Answer) -> Answer:
            def answered(cpu: RunningCpu) -> int:
                if (code := answer(cpu)) and (why := observing.answered_by(cpu, reason)):
                    observer.answered(why)
                return code

            return answered

        self._enter = enter
        self._answers = {reason: answering(reason, answer) for reason, answer in self._answers.items()}

    def sample(self) -> bool:
        """Have translated code leave at its next block, for the observer; not where that would change what is counted."""
        if not self.translator.counting and not self.state.request:
            self.state.request = SAMPLE  # a kick that comes in between is not lost: `_kicked` says so as well
        return not self.translator.counting

    # --- reasons

    def _translate(self) -> Exit | None:
        if self.spent():
            return Interrupted()
        st = self.state
        with self.counting_faults():
            self._block(st.walk_physical, st.mode)
        return None

    def _instruction(self) -> Exit | None:
        """An instruction that Python executes."""
        st = self.state
        instruction = self.translator.instructions[st.exit_detail]
        if self.caught and (vector := trap_of(self, instruction)) in self.caught:
            self.held = HeldTrap(vector, st.next_rip - st.rip & 15)
            return GuestException(vector, None, None)
        return self._execute(instruction)

    def _let_go(self, held: HeldFault | HeldTrap) -> Exit | None:
        """What `run` has told of comes now."""
        self.held, self._step_over = None, self._stepping and self.single is None
        if isinstance(held, HeldFault):
            deliver_event(self, held.vector, held.error, cr2=held.cr2)
            return None
        self.state.next_rip = self._behind(held.length)
        return self._execute(TRAPPING[held.vector])

    def _execute(self, instruction: Instruction) -> Exit | None:
        st = self.state
        teller = self.teller
        tell = teller and teller.look(self, instruction)
        taken = teller is not None and teller.takes(self, instruction)
        exit_ = None if taken else handler_of(instruction.mnemonic)(self, instruction)
        if st.rip == st.next_rip and (instruction.has_rep_prefix or instruction.has_repne_prefix):
            debugging.within_repeat(self)
        st.rip = st.next_rip
        if tell:
            tell()
        if isinstance(exit_, PortRead | PortWrite):
            debugging.note_io(self, exit_.port, exit_.size)
        elif instruction.mnemonic in debugging.TF_AFTER:
            if self.single is not None:
                self.single.tf = bool(st.rflags & TF)
            elif st.rflags & TF:
                st.pending_debug |= DR6_BS
        elif isinstance(exit_, Halted) and self.single is not None:  # a #DB comes first, and wakes it
            self.phase = Phase.HALTING
            return None
        return exit_

    def _port(self) -> Exit | None:
        """IN or OUT, complete but for the value."""
        st = self.state
        port, size = st.exit_detail & 0xFFFF, st.exit_detail >> 16 & 0xFF
        debugging.note_io(self, port, size)
        if st.exit_detail & s.PORT_OUT:
            return PortWrite(port, size, st.rax & (1 << 8 * size) - 1)
        self.pending_read = ToAccumulator(size)
        return PortRead(port, size)

    def _access(self) -> Exit | None:
        if self.single is not None and self.device_site:
            answers.learn(self, self.state.access_kind, self.single.code)
        return self._go_on(accesses.perform(self))

    def _deliver_prepared(self) -> Exit | None:
        return self.deliver(self.prepared_fault())

    def _segment(self) -> Exit | None:
        """A legacy-mode access that the plain check did not settle: `isa.families.memory.segment_check` says what X holds."""
        st = self.state
        request = st.saved_X
        name = s.SEGMENTS[request & 0xFF]
        st.saved_EA = linear_address(self, name, st.saved_EA, (request >> 8 & 0xFFF) + 1, bool(request >> 20 & 1))
        self.phase = Phase.RESUMING
        return None

    def _fetch_nowhere(self) -> Exit | None:
        if self.spent():
            return Interrupted()
        with self.counting_faults():
            raise GuestFault(vectors.UD)

    def _debug_trap(self) -> Exit | None:
        self.state.rip = self.state.next_rip
        return None

    def _pending(self) -> Exit | None:
        """Debug causes noted by the instruction that has just completed, outside of a step."""
        st = self.state
        if st.pending_debug & REPORT:
            st.pending_debug &= ~REPORT
            return self.bus_lock
        if st.shadow == 2 and st.shadow_rip == st.rip:  # MOV SS holds traps back until after the next instruction
            return Interrupted() if self.spent() else self._begin_step()
        return debugging.take_pending(self, 0)

    def _breakpoint(self) -> Exit | None:
        self.phase = Phase.STEPPING
        return None

    _REASONS: ClassVar[dict[int, Callable[["SoftVcpu"], Exit | None]]] = {
        s.EXIT_TRANSLATE: _translate, s.EXIT_INTERRUPTED: _interrupted, s.EXIT_INSTRUCTION: _instruction, s.EXIT_ACCESS: _access,
        s.EXIT_DELIVER: _deliver_prepared, s.EXIT_STEPPED: lambda cpu: None, s.EXIT_DEBUG: _debug_trap, s.EXIT_SEGMENT: _segment,
        s.EXIT_FETCH: _fetch_nowhere, s.EXIT_BREAKPOINT: _breakpoint, s.EXIT_PORT: _port, s.EXIT_REPEATING: _repeating,
        s.EXIT_CRASHED: crash.tell,
    }  # fmt: skip

    def complete(self, value: int) -> None:
        """Answer the read that `run` returned."""
        if self.phase is Phase.ACCESSING:
            self._answer = value
        else:
            assert self.pending_read is not None, "nothing waits for an answer"
            portio.answered(self, self.pending_read, value)
            self.pending_read = None

    # --- the rest of the protocol lives in its own files

    watched = debugging.watched
    note_access = debugging.note_access
    note_lock = accesses.note_lock
    raise_icebp = debugging.raise_icebp
    arm = debugging.arm
    armed = debugging.armed
    get = inspection.get
    set = inspection.set_
    read_msr = inspection.read_msr
    write_msr = inspection.write_msr
    read_virtual = inspection.read_virtual
    write_virtual = inspection.write_virtual
    translate = inspection.translate
    start = inspection.start
    report_bus_locks = inspection.report_bus_locks
    tally = tallies.tally
    tell_tallies = tallies.tell_tallies
    catch = inspection.catch
    tell_of = inspection.tell_of

    def recent(self) -> Sequence[Happened]:
        """The last events that were delivered."""
        return [*self.history]
