"""Hands exceptions and interrupts to the guest, and tells of exceptions that somebody waits for first."""

from collections.abc import Callable

from trapgate.arch import vectors
from trapgate.arch.flags import IF
from trapgate.arch.models import CpuModel
from trapgate.clock import Clock
from trapgate.exits import Exit, GuestException, Shutdown
from trapgate.isa import state as s
from trapgate.memory import Ram
from trapgate.soft.blocks.shared import Shared
from trapgate.soft.exact import debugging
from trapgate.soft.exact.interrupts import TripleFault
from trapgate.soft.exact.interrupts import deliver as deliver_event
from trapgate.soft.exact.stack_fault import by_stack
from trapgate.soft.running import RunningCpu
from trapgate.soft.state.apic import LocalApic
from trapgate.soft.state.fault import GuestFault
from trapgate.soft.state.story import story
from trapgate.soft.state.underway import HeldFault, Phase
from trapgate.stencil.library import Library


class DeliveringCpu(RunningCpu):
    """A CPU that exceptions and interrupts reach."""

    def __init__(
        self,
        ram: Ram,
        model: CpuModel,
        translations: Library | Shared,
        clock: Clock,
        lapic: LocalApic | None,
        tsc_hz: int,
        counting: bool,
    ) -> None:
        super().__init__(ram, model, translations, clock, lapic, tsc_hz)
        self.deterministic = counting
        self._enter = self.code.enter()
        self._interrupt_code = self.code.entries["interrupt"]
        self._kicked = self._nmi = False
        self._answer: int | None = None  # of a device, to the read that waits
        self._restarts: set[int] = set()  # RIPs of instructions that faulted behind a breakpoint of the debugger: told of already
        self._stepping = False  # for the debugger
        self._step_over = False  # a #DB was delivered before the step's instruction: the step ends on the handler
        self._skip_breakpoint: int | None = None  # RIP whose breakpoints of the debugger are passed over
        self._again: tuple[int, ...] | None = None  # the instruction at RIP starts again, as a step: `Step.known`
        self._dead: Shutdown | None = None

    def spent(self) -> bool:
        """Whether instructions are counted, and the budget holds none any more."""
        return self.deterministic and self.left() <= 0

    def deliver(self, fault: GuestFault) -> Exit | None:
        """Deliver a fault to the guest."""
        self.leave_block()
        st = self.state
        vector, unclear, st.fault_has_error = fault.vector, st.fault_has_error == s.NOT_CANONICAL, 0
        if unclear and vector == vectors.GP and by_stack(self):
            vector = vectors.SS
        if self.single is not None:
            self.single.faulted = True
            if self.single.taken.skipped == self.single.start:
                self._restarts.add(self.single.start)
        self._forget_access()
        st.pending_debug = self.pending_hits = 0
        if vector in self.caught:
            self.held = HeldFault(vector, fault.error, fault.cr2)
            return GuestException(vector, fault.error, fault.cr2)
        deliver_event(self, vector, fault.error, cr2=fault.cr2)
        return None

    def can_interrupt(self) -> bool:
        """Whether an external interrupt would be taken now."""
        st = self.state
        waits = self.held is not None or self._again is not None
        amid = waits or self.single is not None or self.phase in (Phase.ACCESSING, Phase.RESUMING)
        busy = amid or st.pending_debug or self.pending_hits
        return bool(st.rflags & IF) and not busy and not (st.shadow and st.shadow_rip == st.rip)

    def interrupt(self, vector: int) -> None:
        """Deliver an external interrupt."""
        assert self.can_interrupt()
        self._wake()
        self.executed_one()
        st = self.state
        self.take_turn()
        if not self.deterministic:  # native code leaves again in front of the handler's first block
            st.fault_vector, st.fault_error, st.fault_has_error, st.request = vector, 0, 0, 1
            self._enter(self.address, self._interrupt_code)
            if st.exit_reason != s.EXIT_DELIVER:
                st.shadow = 0
                return
        self._survive(lambda: deliver_event(self, vector, external=True))

    def _survive(self, delivery: Callable[[], None]) -> None:
        """Deliver something from outside of `run`, which tells of a triple fault when it is called next."""
        try:
            delivery()
        except TripleFault as fault:
            self._dead = Shutdown(story(self, str(fault)))

    def deliver_debug(self, causes: int, hits: int, icebp: bool) -> None:
        """Deliver #DB to the guest; `debugging.deliver_debug`. An instruction that ends so takes no other trap."""
        if self.single is not None:
            self.single.faulted = True
        self._wake()
        self._step_over = self._stepping and not self.in_step
        self._survive(lambda: debugging.deliver_debug(self, causes, hits, icebp))

    def want_interrupt(self, waiting: bool) -> None:
        """While waiting, `run` returns Interrupted as soon as an interrupt could be taken."""
        self.state.irq_waiting = int(waiting)
        if waiting and self.state.rflags & IF:
            self.state.request = 1

    @property
    def waits(self) -> bool:
        """False: `run` returns Halted."""
        return False

    def wait(self) -> bool:
        """False, and nothing: its owner waits."""
        return False

    def nmi(self) -> None:
        """A non-maskable interrupt at the next boundary."""
        self._nmi = True
        self.state.request = 1

    def kick(self) -> None:
        """Make `run` return Interrupted soon; from any thread."""
        self._kicked = True
        self.state.request = 1

    def _forget_access(self) -> None:
        """The access that waits for a device is none any more; neither is the answer that it may have got already."""
        self.access = self._answer = None
        if self.phase in (Phase.ACCESSING, Phase.RESUMING):
            self.phase = Phase.RUNNING

    def _wake(self) -> None:
        """Something is delivered: HLT is over."""
        if self.phase is Phase.HALTING:
            self.phase = Phase.RUNNING
