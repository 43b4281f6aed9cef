"""Makes #DB and #BP exits of KVM DebugException and SoftwareBreakpoint, and gives back to the guest what is the guest's."""

from trapgate.arch import dr6
from trapgate.arch.control import CR4_DE
from trapgate.arch.debugregs import DR6_BD, DR6_BLD, DR6_BS, DR7_GD, covered
from trapgate.arch.flags import RF
from trapgate.arch.msrs import DEBUGCTL
from trapgate.exits import Exit, Interrupted, SoftwareBreakpoint
from trapgate.kvm import abi, convert, stepping
from trapgate.kvm.arming import Injection
from trapgate.kvm.convert import BP, DB
from trapgate.kvm.memory import INT3
from trapgate.kvm.steps import Steps
from trapgate.vcpu import Kind


class Debugging(Steps):
    """Says what happened; whose it is, the router decides."""

    halting = False  # HLT has been executed, and is still to be told

    def not_entered(self) -> Exit | None:
        """KVM_RUN ended without an exit."""
        step = self.step_under_way
        if step is not None:
            if self.step_is_through():
                return self.finish_untold()
            self._end_step(step.tf)
        return Interrupted() if self.take_kick() else None

    def debug_exit(self) -> Exit | None:
        """KVM_EXIT_DEBUG."""
        debug, registers = self.shared.exit.debug, self.registers
        linear = registers.linear(registers.rip)
        if debug.exception == BP:
            return self._int3(linear)
        control = 0 if self.amd_host else self.fd.msr(DEBUGCTL) or 0
        at = convert.Situation(self.amd_host, control, registers.cpl, lambda: next(iter(self.read_virtual(linear, 1)), None))
        meaning = convert.debug_meaning(debug.dr6, at)
        step = self.step_under_way
        if meaning.causes & DR6_BD and not self.registers.debug.dr7 & DR7_GD:
            return self._run_alone(detect=False)
        listed = self._completed(meaning.causes, self._plan.hits(meaning.matched))
        found = self._by_armed(listed)
        hits = self._not_resumed(found)
        if found and not hits and not meaning.causes:
            return self._run_alone()
        exec_here = any(one.kind is Kind.EXEC and listed >> n & 1 for n, one in enumerate(self._planned))
        if meaning.icebp:
            return self._icebp(meaning.on_it)
        if step is None:
            causes = meaning.causes
            if linear == self.skip and exec_here:  # an interrupt came before it: it still has to run
                hits &= sum(1 << n for n, one in enumerate(self.guest_breakpoints()))
            if linear in self._in_registers and listed >> len(self._planned) and not hits and linear != self.skip:
                return SoftwareBreakpoint(linear)
            if not causes and not hits:
                return None
            fault = exec_here or bool(causes & DR6_BD)
            return self._event(causes, hits, tf=bool(causes & DR6_BS), cpl=registers.cpl, fault=fault)
        caught = next((one for one in self._nets if one.entry == linear), None)
        if caught is not None and registers.rip != step.rip and not meaning.causes & DR6_BS:
            return self._ended_in(caught, hits)
        if exec_here or meaning.causes & DR6_BD:  # before the instruction: it has not run
            self._end_step(step.tf)
            causes = meaning.causes | (DR6_BS if step.asked else 0)
            return self._event(causes, hits, tf=False, cpl=step.cpl, fault=True)
        return self.finish_step(meaning.causes, hits)

    def _completed(self, causes: int, listed: int) -> int:
        """The hits less those of execution, if an instruction has completed: their own #DB, a fault, is still to come.

        Some hosts report a breakpoint on the next instruction beside the trap behind the last one, whether RF holds it back or not.
        """
        execution = sum(1 << n for n, one in enumerate(self._planned) if one.kind is Kind.EXEC)
        execution |= -1 << len(self._planned)  # nets, software breakpoints
        return listed & ~execution if causes & (DR6_BS | DR6_BLD) or listed & ~execution else listed

    def _not_resumed(self, hits: int) -> int:
        """The hits less the guest's own of execution, where RF holds them back (SDM vol. 3, 18.3.1.1).

        No CPU reports those. KVM does, of an instruction that it emulates, and would each time that it is tried.
        """
        if not hits or not self.registers.general.rflags & RF:
            return hits
        return hits & ~sum(1 << n for n, one in enumerate(self.guest_breakpoints()) if one.kind is Kind.EXEC)

    def note_port(self) -> None:
        """KVM has exited for an IN or OUT, so that no CPU has looked whether somebody has a breakpoint on the port."""
        io = self.shared.exit.io
        armed = [(n, *covered(one.address, one.length)) for n, one in enumerate(self.armed()) if one.kind is Kind.IO]
        hits = sum(1 << n for n, first, last in armed if first < io.port + io.size and io.port <= last)
        if hits and self.registers.system.cr4 & CR4_DE:
            self.port_hits |= hits

    def port_trap(self) -> Exit | None:
        """The #DB of breakpoints on the port behind an IN or OUT, with the guest's own single step."""
        self.settle()
        if self.unread and not self._told_of_step():  # it is a repeated one, and goes on
            return None
        causes = DR6_BS if self.unread or self._take_step() else 0
        self.unread = False
        registers = self.registers
        code = self.read_virtual(registers.linear(registers.rip), stepping.MAX_INSTRUCTION)
        instruction = stepping.decode(code, registers.bits, registers.rip)
        self.complete_repetition(instruction)
        event = self._event(causes, self.take_port_hits(), tf=bool(causes), cpl=registers.cpl)
        self._resumes = stepping.repeats(instruction) and registers.general.rcx != 0
        return event

    def _told_of_step(self) -> bool:
        """Whether KVM has exited for the guest's own single step: newer ones do, beside hardware breakpoints of the debugger's."""
        shared = self.shared
        if shared.exit_reason != abi.EXIT_DEBUG or shared.exit.debug.exception != DB:
            return False
        causes, matched = dr6.from_raw(shared.exit.debug.dr6 & 0xFFFF_FFFF)
        return bool(causes & DR6_BS) and not self._completed(causes, self._plan.hits(matched))

    def _take_step(self) -> bool:
        """Whether KVM has queued the guest's own single-step trap; it has no longer."""
        events = self.fd.events()
        if events.exception_nr != DB or not (events.exception_pending or events.exception_injected):
            return False
        events.exception_pending = events.exception_injected = events.exception_has_payload = 0
        self.fd.set_events(events)
        return True

    def _by_armed(self, listed: int) -> int:
        """From bits of the list that the debug registers were shared out by, to bits of `armed` as it is now."""
        if not listed:
            return 0
        found = [one for n, one in enumerate(self._planned) if listed >> n & 1]
        return sum(1 << n for n, one in enumerate((*self.guest_breakpoints(), *self.debugger)) if one in found)

    def _run_alone(self, detect: bool = True) -> Exit | None:
        """The instruction at RIP, which something holds back that nobody has asked for: it runs as a step, which leaves that out.

        A breakpoint of the guest's under RF, or our own DR7.GD before its MOV to or from a debug register: that without `detect`.
        """
        if self.step_under_way is not None:
            self.configure(step=True, detect=detect, nets=self._nets)
            self.unread = self.enter()
        else:
            self.unread = self.begin_step(detect)
        return None

    def _icebp(self, on_it: bool) -> Exit | None:
        """INT1: the guest's #DB comes behind it, with no cause bit."""
        step = self.step_under_way
        asked, cpl = (step.asked, step.cpl) if step is not None else (False, self.registers.cpl)
        if step is not None:
            on_it = on_it and self.registers.rip == step.rip  # what RIP is on may be the next INT1
            self._end_step(step.tf)
            self._skipped(step)
        if on_it:
            self.registers.rip += 1
        return self._event(DR6_BS if asked else 0, 0, tf=False, cpl=cpl, icebp=True)

    def not_emulated(self) -> tuple[bool, Exit | None]:
        """KVM gave up on an instruction. INT3 and INT1, which hosts that emulate may not know, are taken for their exceptions."""
        if self.shared.exit_reason != abi.EXIT_INTERNAL_ERROR or self.shared.exit.internal.suberror != abi.INTERNAL_ERROR_EMULATION:
            return False, None
        linear = self.registers.linear(self.registers.rip)
        physical = self.translate(linear)
        byte = self.ram.read(physical, 1) if physical is not None and self.ram.contains(physical) else b""
        if byte == INT3:
            return True, self._int3(linear, length=1)
        if byte[:1] == bytes([convert.INT1]):
            return True, self._icebp(on_it=True)
        return False, None

    def _int3(self, linear: int, length: int = 0) -> Exit | None:
        """#BP: the debugger's where it planted one, else the guest's. `length`: what KVM will not add to RIP when it injects."""
        step = self.step_under_way
        if step is not None:
            self._end_step(step.tf)
        if linear in self.software and linear != self.skip:
            return SoftwareBreakpoint(linear)
        physical = self.translate(linear)
        if physical is not None and self.planted.planted(physical):  # another address of a page with our byte in it
            self.skip = linear
            return None
        self.skip = None
        if length:
            self.registers.rip += length
        self.injection = Injection(BP)
        if step is None or not step.asked:
            return None
        self.deliver_now(BP)
        return self._event(DR6_BS, 0, tf=False, cpl=step.cpl)

    def deliver_debug(self, causes: int, hits: int, icebp: bool) -> None:
        """Deliver #DB to the guest, with the next entry; at once while the debugger steps."""
        self.settle()
        self.halting = False
        self.injection = Injection(DB, causes, hits, resume=self._resumes and bool(hits))
        if self.stepping:
            self.deliver_now(DB)
