"""Runs one instruction alone, as a step: what it takes from the boundary before it, and what it ends with."""

from abc import abstractmethod

from trapgate.arch import vectors
from trapgate.arch.debugregs import DEBUGCTL_BTF, DR6_BS
from trapgate.arch.flags import RF, TF
from trapgate.exits import DebugException, Exit, SoftwareBreakpoint
from trapgate.isa import modes
from trapgate.isa import state as s
from trapgate.memory import PAGE_SIZE
from trapgate.soft.accesses import REPORT
from trapgate.soft.blocks.placed import Block
from trapgate.soft.delivering import DeliveringCpu
from trapgate.soft.exact import debugging, limits
from trapgate.soft.state.core import NOWHERE
from trapgate.soft.state.fault import GuestFault
from trapgate.soft.state.underway import Phase, Step, Taken
from trapgate.vcpu import GuestDebug, Owner


class SteppingCpu(DeliveringCpu):
    """A CPU that can run one instruction alone."""

    @abstractmethod
    def _go(self, code: int) -> Exit | None:
        """Run translated code."""

    @abstractmethod
    def _block(self, physical: int, mode: int) -> Block | None:
        """The block at RIP; None when it is where the dispatcher finds it, as no step's is."""

    def _begin_step(self, site: int = 0) -> Exit | None:
        """Run the instruction at RIP alone; `site`: the device access for which it started again, if that is why."""
        st = self.state
        self.phase = Phase.RUNNING
        if st.rip in self._restarts:
            self._restarts.remove(st.rip)
            if st.rflags & RF:  # IRET has come back to it; without RF it is met anew
                self._skip_breakpoint = st.rip
        hit = self._exec_hits()
        if hit is not None:
            return hit
        taken = Taken(st.rflags & RF, st.shadow, self._skip_breakpoint)
        if self._skip_breakpoint == st.rip:
            self._skip_breakpoint = None
        mode, generation = st.mode | modes.STEP, self.blocks.generation
        self.single = step = Step(st.rip, taken, bool(st.rflags & TF), self._stepping)
        with self.counting_faults():
            limits.check(self, st.rip)
            physical = self.walk(self.linear(st.rip), self.rights() | s.ACCESS_FETCH)
            if not self.ram.contains(physical):
                raise GuestFault(vectors.UD)
            block = self._block(physical, mode)
        assert block is not None
        step.following = self._behind(block.length)
        step.code = bytes(self.ram.read(physical, min(block.length, PAGE_SIZE - physical % PAGE_SIZE)))
        step.goes = None if mode & modes.UNLIMITED & ~modes.STEP else limits.next_rip(self, self._fetched(block.length))
        if self._again is not None:
            step.known, self._again = self._again, None
            self.count(-1)  # it has been counted already
        st.rflags &= ~RF
        st.stepping, st.request, st.shadow = 1, 0, 0
        self.device_site = site if self.blocks.generation == generation else 0  # other code may come to lie there
        return self._go(block.code)

    def _fetched(self, length: int) -> bytes:
        """The bytes of the instruction at RIP."""
        st = self.state
        pieces = self.pieces(self.linear(st.rip), length, self.rights() | s.ACCESS_FETCH)
        return b"".join(self.physical_read(at, size) for at, size in pieces)

    def _behind(self, length: int) -> int:
        """RIP behind the instruction of so many bytes."""
        st = self.state
        return int(st.rip) + length & (NOWHERE if st.mode & modes.CODE64 else 0xFFFFFFFF)

    def _give_back(self, step: Step) -> None:
        """The instruction of a step has not begun: it will be another step, with what it has taken."""
        st = self.state
        self.single, self.phase, st.stepping = None, Phase.STEPPING, 0
        st.rflags |= step.taken.resume_flag
        st.shadow, self._skip_breakpoint = step.taken.shadow, step.taken.skipped
        if step.known is not None:
            self._again = step.known
            self.count(1)

    def start_again(self) -> None:
        """The host code of the access under way is going: its instruction, which has changed nothing yet, starts again."""
        step, access = self.single, self.access
        if self.phase is not Phase.ACCESSING:
            return
        assert step is not None and access is not None, "devices are asked in steps"
        known = () if access.stores or self._answer is None else (self._answer,)
        step.known, answers = None, (*step.answers, *known)
        self._give_back(step)
        self._forget_access()
        self.phase, self._again = Phase.RUNNING, answers

    def become_step(self, place: int) -> None:
        """The instruction under way goes on at `place` in its step: something waits for its end. See `soft.answers`."""
        st = self.state
        self.leave_block()
        self.single = Step(NOWHERE, Taken(), tf=False, asked=False)
        st.stepping, st.shadow, st.saved_RESUME = 1, 0, place

    def _end_step(self, step: Step) -> Exit | None:
        """The instruction of a step is complete (or has faulted): what it caused, as one DebugException."""
        st = self.state
        self.single, self.device_site = None, 0
        st.stepping = 0
        if self._kicked or self._nmi or st.irq_waiting:
            st.request = 1
        if st.pending_debug & REPORT:
            st.pending_debug &= ~REPORT
            self.single = step
            return self.bus_lock
        if step.goes is not None and not step.faulted and st.rip == step.goes & 0xFFFF:
            st.rip = step.goes  # blocks of 16-bit code have 16 bits of it
        if st.rip == step.start and not step.faulted and debugging.repeats(step.code):
            debugging.within_repeat(self)
        tf = step.tf and not step.faulted
        if tf and st.debugctl & DEBUGCTL_BTF and not debugging.branched(step.code, st.rip, step.following):
            tf = False
        if st.shadow == 2 and st.shadow_rip == st.rip:  # traps wait for the next instruction; a debugger does not
            self.last_debug = GuestDebug(False, False, False, False)
            return DebugException(DR6_BS, 0, False, fault=False) if step.asked else None
        causes = DR6_BS if tf or step.asked else 0
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
            if any(one.owner is Owner.GUEST for n, one in enumerate(debugging.armed(self)) if hits >> n & 1):
                self.count(1)  # the guest's fault, in the place of the instruction
            self.last_debug = GuestDebug(False, False, False, False)
            return DebugException(DR6_BS if self._stepping else 0, hits, False, fault=True)
        if linear in self.debugger.software and not skip_debugger:
            return SoftwareBreakpoint(linear)
        return None

    def abandon(self) -> None:
        """Somebody moved RIP: an access that waits for a device is not resumed."""
        self._forget_access()
        self.single = self.held = self._again = None
        self._skip_breakpoint = None
        self.state.stepping = 0

    def step(self, on: bool) -> None:
        """While on, `run` returns after one instruction; one that waits for a device counts."""
        self._stepping, self._step_over = on, False
        if self.single is not None and (self.access is not None or self.held is not None):
            self.single.asked = on

    def resume_over(self) -> None:
        """The next instruction runs without the debugger's execution breakpoints on it."""
        self._skip_breakpoint = self.state.rip

    def guest_debug(self) -> GuestDebug:
        """What the guest had armed when the last DebugException arose."""
        return self.last_debug
