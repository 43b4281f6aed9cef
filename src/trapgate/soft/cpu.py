"""The software CPU as a vCPU: the loop between translated code and Python, single steps, breakpoints, interrupts.

Translated code runs until it needs Python; `exit_reason` says why. Whatever Python must see instruction by instruction (single
steps of the guest or the debugger, watched accesses, stores into code, shadows) runs as a *step*: one instruction, translated
into a block of its own, with everything that happened to it noted and turned into at most one DebugException behind it.
"""

from collections.abc import Callable
from functools import partial

from iced_x86 import Instruction

from trapgate.arch import vectors
from trapgate.arch.debugregs import DEBUGCTL_BTF, DR6_BS
from trapgate.arch.flags import IF, RF, TF
from trapgate.arch.models import CpuModel
from trapgate.clock import Clock
from trapgate.exits import (
    DebugException,
    Exit,
    GuestException,
    Halted,
    Interrupted,
    PortRead,
    PortWrite,
    Shutdown,
    SoftwareBreakpoint,
)
from trapgate.isa import modes
from trapgate.isa import state as s
from trapgate.memory import PAGE_SIZE, Ram
from trapgate.soft import accesses, answers, borrowed, crash, inspection, observing
from trapgate.soft.accesses import REPORT, Activity, NeedsStep
from trapgate.soft.blocks.placed import Block
from trapgate.soft.delivering import DeliveringCpu
from trapgate.soft.exact import debugging, handlers, limits  # noqa: F401  (it fills HANDLERS)
from trapgate.soft.exact.interrupts import TripleFault
from trapgate.soft.exact.interrupts import deliver as deliver_event
from trapgate.soft.exact.operands import linear_address
from trapgate.soft.exact.traps import trap_of
from trapgate.soft.loops.hot import HOT
from trapgate.soft.observing import SAMPLE
from trapgate.soft.reset import reset
from trapgate.soft.state.apic import LocalApic
from trapgate.soft.state.core import NOWHERE
from trapgate.soft.state.fault import GuestFault
from trapgate.soft.state.instructions import handler_of
from trapgate.soft.state.story import story
from trapgate.stencil.library import Library
from trapgate.vcpu import GuestDebug, Observer, Place


class SoftVcpu(DeliveringCpu):
    """A vCPU of the software engine; see `trapgate.vcpu.Vcpu` for the protocol."""

    def __init__(
        self,
        ram: Ram,
        model: CpuModel,
        library: Library,
        clock: Clock,
        lapic: LocalApic | None = None,
        tsc_hz: int = 0,
        counting: bool = False,
    ) -> None:
        super().__init__(ram, borrowed.possible(model), library, clock, lapic, tsc_hz, counting)
        self.translator.configure(counting=counting)
        self._want_step = False
        self._skip_breakpoint: int | None = None
        self._step_next = 0
        self._step_goes: int | None = None  # where a step goes on, in 32 bits, as far as that is known before it
        self._step_code = b""
        self._step_tf = self._step_asked = False
        self._observer: Observer | None = None
        reset(self)
        self._reasons: dict[int, Callable[[], Exit | None]] = {
            s.EXIT_TRANSLATE: self._translate, s.EXIT_INTERRUPTED: self._interrupted, s.EXIT_INSTRUCTION: self._instruction,
            s.EXIT_ACCESS: self._access, s.EXIT_DELIVER: self._deliver_prepared, s.EXIT_STEPPED: self._stepped,
            s.EXIT_DEBUG: self._debug_trap,
            s.EXIT_SEGMENT: self._segment, s.EXIT_FETCH: self._fetch_nowhere, s.EXIT_BREAKPOINT: self._breakpoint,
            s.EXIT_PORT: self._port, s.EXIT_REPEATING: self._repeating, s.EXIT_CRASHED: partial(crash.tell, self),
        }  # fmt: skip
        self._answers: dict[int, Callable[[], int]] = {
            s.EXIT_PORT: partial(answers.port, self), s.EXIT_ACCESS: partial(answers.access, self),
            s.EXIT_INSTRUCTION: partial(answers.instruction, self),
        }  # fmt: skip

    # --- the loop

    def run(self) -> Exit:
        """Execute until something happens that the CPU cannot settle alone."""
        if self._dead is not None:
            return self._dead
        if self.crashes is not None:
            self.crashes.here()
        self.follow_clock()
        try:
            while True:
                try:
                    exit_ = self._turn()
                except GuestFault as fault:
                    exit_ = self.deliver(fault)
                except NeedsStep:
                    self._forget_access()
                    self._want_step, exit_ = True, None
                if exit_ is not None:
                    return exit_
        except TripleFault:
            return Shutdown(story(self, self.history))

    def _turn(self) -> Exit | None:
        """One stay in translated code, or what comes before the next one."""
        st = self.state
        if (deliver := self._untold) is not None:
            self._untold, self._step_over = None, self._stepping and not self.in_step
            return deliver()
        if self._activity is not None:
            return self._advance(self._activity)
        if self._resuming:
            self._resuming = False
            return self._go(self.resume_code)
        if self.in_step:
            return self._end_step()
        if st.pending_debug or self.pending_hits:
            return self._pending()
        return self._boundary()

    def _go(self, code: int) -> Exit | None:
        st, answers_ = self.state, self._answers
        while True:
            self._enter(self.address, code)
            reason = st.exit_reason
            answer = answers_.get(reason)
            if answer is None or not (code := answer()):
                return self._reasons[reason]()

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
        if self._halting:
            self._halting = False
            return Halted()
        shadowed = st.shadow and st.shadow_rip == st.rip
        if self._nmi and not st.nmi_blocked and shadowed:
            self._want_step = True
        elif self._nmi and not st.nmi_blocked and not self._stepping:  # a step takes neither NMIs nor interrupts
            self._nmi, st.nmi_blocked, site = False, 1, 0
            deliver_event(self, 2, external=True, history=self.history)
            if self.pending_hits:  # by its frame: a trap comes before interrupts (SDM vol. 3, table 6-2)
                return None
        if st.irq_waiting and st.rflags & IF:
            if not shadowed and not self._stepping:
                return Interrupted()
            if not self._stepping:
                self._want_step = True
        if self.translator.counting and self.left() <= 0:
            return Interrupted()
        suppresses = st.rflags & RF and self.linear(st.rip) in self.breakpoints
        if self._want_step or self._stepping or st.rflags & TF or suppresses or self._skip_breakpoint == st.rip:
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
        if self.in_step:  # a kick came before the instruction began: the step has not happened
            self.in_step, self._want_step, st.stepping = False, True, 0
            resume_flag, st.shadow, self._skip_breakpoint = self._before_step
            st.rflags |= resume_flag
            return None
        if self.translator.counting and not st.request:
            if self.left() <= 0:
                return Interrupted()
            self._want_step = True  # fewer instructions are left than the next block has: one by one
        elif not st.request and not st.mode & modes.UNLIMITED:
            self._want_step = True  # the block reaches beyond the limit of CS
        return None

    def _repeating(self) -> Exit | None:
        """A repeated string instruction was left between two iterations: an interrupt that comes now pushes RF = 1."""
        debugging.within_repeat(self)
        return self._interrupted()

    def _advance(self, activity: Activity) -> Exit | None:
        """Go on with an access that waits for a device."""
        self._activity = None
        answer, self._answer = self._answer, None
        try:
            exit_ = activity.send(answer)  # type: ignore[arg-type]  # None starts a generator, and answers a write
        except StopIteration:
            self._resuming = True
            return None
        self._activity = activity
        return exit_

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

        def answering(reason: int, answer: Callable[[], int]) -> Callable[[], int]:
            def answered() -> int:
                if (code := answer()) and (why := observing.answered_by(self, reason)):
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
        st = self.state
        block = self._block(st.walk_physical, st.mode)
        if block is not None:
            self.remember_jump(block)
        return None

    def _instruction(self) -> Exit | None:
        """An instruction that Python executes."""
        st = self.state
        number = st.exit_detail
        if number >= s.NATIVE_FALLBACK:
            instruction = debugging.NATIVE_FALLBACKS[number - s.NATIVE_FALLBACK]
        else:
            instruction = self.translator.instructions[number]
        if self.caught and (vector := trap_of(self, instruction)) in self.caught:
            return self._hold_back(GuestException(vector, None, None), partial(self._execute, instruction))
        return self._execute(instruction)

    def _execute(self, instruction: Instruction) -> Exit | None:
        st = self.state
        exit_ = handler_of(instruction.mnemonic)(self, instruction)
        if st.rip == st.next_rip and (instruction.has_rep_prefix or instruction.has_repne_prefix):
            debugging.within_repeat(self)
        st.rip = st.next_rip
        if isinstance(exit_, PortRead | PortWrite):
            debugging.note_io(self, exit_.port, exit_.size)
        elif instruction.mnemonic in debugging.TF_AFTER:
            if self.in_step:
                self._step_tf = bool(st.rflags & TF)
            elif st.rflags & TF:
                st.pending_debug |= DR6_BS
        elif isinstance(exit_, Halted) and self.in_step:  # a #DB comes first, and wakes it
            self._halting = True
            return None
        return exit_

    def _port(self) -> Exit | None:
        """IN or OUT, complete but for the value."""
        st = self.state
        port, size = st.exit_detail & 0xFFFF, st.exit_detail >> 16 & 0xFF
        debugging.note_io(self, port, size)
        if st.exit_detail & s.PORT_OUT:
            return PortWrite(port, size, st.rax & (1 << 8 * size) - 1)
        self.pending_read = partial(answers.accumulate, self, size)
        return PortRead(port, size)

    def _access(self) -> Exit | None:
        if self.in_step and self.device_site:
            answers.learn(self, self.state.access_kind, self._step_code)
        return self._advance(accesses.perform(self))

    def _deliver_prepared(self) -> Exit | None:
        if self.state.fault_vector == vectors.BP:  # INT3: what fails in its delivery is a fault of the instruction, EXT 0
            self.state.exit_detail = debugging.INT3_FALLBACK
            return self._instruction()
        return self.deliver(self.prepared_fault())

    def _segment(self) -> Exit | None:
        """A legacy-mode access that the plain check did not settle: `isa.families.memory.segment_check` says what X holds."""
        st = self.state
        request = st.saved_X
        name = s.SEGMENTS[request & 0xFF]
        st.saved_EA = linear_address(self, name, st.saved_EA, (request >> 8 & 0xFFF) + 1, bool(request >> 20 & 1))
        self._resuming = True
        return None

    def _fetch_nowhere(self) -> Exit | None:
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
            return self._begin_step()
        return debugging.take_pending(self, 0)

    # --- steps

    def _begin_step(self, site: int = 0) -> Exit | None:
        """Run the instruction at RIP alone; `site`: the device access for which it started again, if that is why."""
        st = self.state
        self._want_step = False
        if st.rip in self._restarts:
            self._restarts.remove(st.rip)
            if st.rflags & RF:  # IRET has come back to it; without RF it is met anew
                self._skip_breakpoint = st.rip
        hit = self._exec_hits()
        if hit is not None:
            return hit
        self._before_step = st.rflags & RF, st.shadow, self._skip_breakpoint
        if self._skip_breakpoint == st.rip:
            self._skip_breakpoint = None
        mode = st.mode | modes.STEP
        self.in_step, self._step_faulted, self._step_asked = True, False, self._stepping
        self._step_tf, self._step_start = bool(st.rflags & TF), st.rip
        limits.check(self, st.rip)
        physical = self.walk(self.linear(st.rip), self.rights() | s.ACCESS_FETCH)
        if not self.ram.contains(physical):
            raise GuestFault(vectors.UD)
        block = self._block(physical, mode)
        assert block is not None
        self._step_next = st.rip + block.length & (NOWHERE if mode & modes.CODE64 else 0xFFFFFFFF)
        self._step_code = bytes(self.ram.read(physical, min(block.length, PAGE_SIZE - physical % PAGE_SIZE)))
        self._step_goes = None if mode & modes.UNLIMITED & ~modes.STEP else limits.next_rip(self, self._fetched(block.length))
        st.rflags &= ~RF
        st.stepping, st.request, st.shadow = 1, 0, 0
        self.device_site = site
        return self._go(block.code)

    def _fetched(self, length: int) -> bytes:
        """The bytes of the instruction at RIP."""
        st = self.state
        pieces = self.pieces(self.linear(st.rip), length, self.rights() | s.ACCESS_FETCH)
        return b"".join(self.physical_read(at, size) for at, size in pieces)

    def become_step(self, place: int) -> None:
        """The instruction under way goes on at `place` in its step: something waits for its end. See `soft.answers`."""
        st = self.state
        self._before_step = 0, 0, None
        self.in_step, self._step_tf, self._step_faulted, self._step_asked = True, False, False, False
        self._step_start, self._step_code, self._step_goes = NOWHERE, b"", None
        st.stepping, st.shadow, st.saved_RESUME = 1, 0, place

    def _stepped(self) -> Exit | None:
        return None  # `run` ends the step

    def _end_step(self) -> Exit | None:
        """The instruction of a step is complete (or has faulted): what it caused, as one DebugException."""
        st = self.state
        self.in_step, self.device_site = False, 0
        st.stepping = 0
        if self._kicked or self._nmi or st.irq_waiting:
            st.request = 1
        if st.pending_debug & REPORT:
            st.pending_debug &= ~REPORT
            self.in_step = True
            return self.bus_lock
        if self._step_goes is not None and not self._step_faulted and st.rip == self._step_goes & 0xFFFF:
            st.rip = self._step_goes  # blocks of 16-bit code have 16 bits of it
        if st.rip == self._step_start and not self._step_faulted and debugging.repeats(self._step_code):
            debugging.within_repeat(self)
        tf = self._step_tf and not self._step_faulted
        if tf and st.debugctl & DEBUGCTL_BTF and not debugging.branched(self._step_code, st.rip, self._step_next):
            tf = False
        if st.shadow == 2 and st.shadow_rip == st.rip:  # traps wait for the next instruction; a debugger does not
            self.last_debug = GuestDebug(False, False, False, False)
            return DebugException(DR6_BS, 0, False, fault=False) if self._step_asked else None
        causes = DR6_BS if tf or self._step_asked else 0
        if tf:
            st.pending_debug |= DR6_BS
        return debugging.take_pending(self, causes)

    def _exec_hits(self) -> Exit | None:
        """Execution breakpoints at RIP, unless this instruction runs without them (RF, a resumed breakpoint)."""
        st = self.state
        linear = self.linear(st.rip)
        if linear not in self.breakpoints:
            return None
        shadowed = st.shadow == 2 and st.shadow_rip == st.rip
        skip_debugger = self._skip_breakpoint == st.rip
        hits = debugging.exec_hits(self, linear, guest=not st.rflags & RF and not shadowed, debugger=not skip_debugger)
        if hits:
            self.last_debug = GuestDebug(False, False, False, False)
            return DebugException(DR6_BS if self._stepping else 0, hits, False, fault=True)
        if linear in self.debugger.software and not skip_debugger:
            return SoftwareBreakpoint(linear)
        return None

    def _breakpoint(self) -> Exit | None:
        self._want_step = True
        return None

    def complete(self, value: int) -> None:
        """Answer the read that `run` returned."""
        if self._activity is not None:
            self._answer = value
        else:
            assert self.pending_read is not None, "nothing waits for an answer"
            self.pending_read(value)
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
    catch = inspection.catch

    def abandon(self) -> None:
        """Somebody moved RIP: an access that waits for a device is not resumed."""
        self._forget_access()
        self._resuming, self.in_step, self._untold = False, False, None
        self._skip_breakpoint = None
        self.state.stepping = 0

    def step(self, on: bool) -> None:
        """While on, `run` returns after one instruction; one that waits for a device counts."""
        self._stepping, self._step_over = on, False
        if self._activity is not None or self._untold is not None:
            self._step_asked = on

    def resume_over(self) -> None:
        """The next instruction runs without the debugger's execution breakpoints on it."""
        self._skip_breakpoint = self.state.rip

    def guest_debug(self) -> GuestDebug:
        """What the guest had armed when the last DebugException arose."""
        return self.last_debug
