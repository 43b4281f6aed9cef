"""Debugging on KVM: what is armed in the real debug registers, #DB and #BP exits, single steps, injecting what is the guest's.

While KVM hands every #DB to us the real debug registers hold both owners' breakpoints, and DR7.GD besides: a guest's MOV to or from
a debug register then comes here too, runs as a step without GD, and the registers are shared out anew. On hosts that do not honour
that GD (AMD's intercept comes first) they are shared out anew at the next exit, and what the guest arms lies idle until then.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from iced_x86 import Instruction

from trapgate.arch import debugregs, dr6
from trapgate.arch.debugregs import DEBUGCTL_BTF, DEBUGCTL_LBR, DR6_BD, DR6_BLD, DR6_BS, DR6_BT, DR7_FIXED_1, DR7_GD
from trapgate.arch.flags import RF, TF
from trapgate.arch.models import CpuModel
from trapgate.arch.msrs import DEBUGCTL
from trapgate.exits import DebugException, Exit, Interrupted, Shutdown, SoftwareBreakpoint
from trapgate.kvm import abi, convert, stepping
from trapgate.kvm.convert import BP, DB
from trapgate.kvm.core import Core, LocalApic
from trapgate.memory import Ram
from trapgate.vcpu import Breakpoint, GuestDebug, Kind, Owner

Addresses = tuple[int, int, int, int]  # DR0-DR3
NO_ADDRESSES: Addresses = (0, 0, 0, 0)
NOT_ARMED = GuestDebug(False, False, False, False)


class Plan(Protocol):
    """How breakpoints share the four debug registers (`debug.slots.Plan` is one)."""

    @property
    def addresses(self) -> Addresses:
        """DR0-DR3."""
        ...

    @property
    def dr7(self) -> int:
        """The bits of DR7 that enable them."""
        ...

    def hits(self, matched: int) -> int:
        """From DR6[3:0] to bits of the list of breakpoints."""
        ...


MakePlan = Callable[[Sequence[Breakpoint]], Plan]  # ValueError when they do not fit


@dataclass(slots=True)
class Step:
    """One instruction on its way, alone."""

    rip: int
    linear: int
    instruction: Instruction | None
    tf: bool  # the guest's own, before it
    popped: int | None  # the flags image that it loads
    asked: bool  # by the debugger
    btf: bool
    cpl: int


@dataclass(frozen=True, slots=True)
class Injection:
    """An exception to inject with the next entry. `resume`: the pushed RFLAGS has RF (an instruction breakpoint)."""

    vector: int
    causes: int = 0
    hits: int = 0
    resume: bool = False


class Debugging(Core):
    """The half of the vCPU that knows whose #DB is whose; the router decides."""

    def __init__(
        self, ram: Ram, model: CpuModel, lapic: LocalApic | None, make_plan: MakePlan, *, tsc_hz: int = 0, bus_locks: bool = False
    ) -> None:
        super().__init__(ram, model, lapic, tsc_hz=tsc_hz, bus_locks=bus_locks)
        self.make_plan = make_plan
        self.debugger: tuple[Breakpoint, ...] = ()
        self.software: tuple[int, ...] = ()
        self.stepping = False
        self.skip: int | None = None  # linear address of an instruction that runs without the debugger's breakpoints
        self.step_under_way: Step | None = None
        self.injection: Injection | None = None
        self.in_flight: int | None = None  # vector of an interrupt that KVM may still have to deliver
        self.halting = False
        self.dead: Shutdown | None = None
        self.last_debug = NOT_ARMED
        self.note: Callable[[str], None] = lambda line: None
        self._told_lock = False
        self._planned: tuple[Breakpoint, ...] = ()
        self._plan: Plan = make_plan(())
        self._nets: tuple[stepping.Handler, ...] = ()
        self._in_registers: tuple[int, ...] = ()  # software breakpoints that debug registers hold
        self._told: tuple[int, Addresses, int] = 0, NO_ADDRESSES, 0
        self._fault_hits = False
        self._noted = False

    def guest_breakpoints(self) -> tuple[Breakpoint, ...]:
        """What the guest's own DR0-DR7 arm."""
        raise NotImplementedError

    # --- what the CPU holds

    def configure(self, *, step: bool = False, detect: bool = True, nets: Sequence[stepping.Handler] = ()) -> None:
        """Tell KVM what to catch. `detect`: accesses to debug registers too.

        Debug registers that are left over take software breakpoints, so that the guest has no INT3 in its memory; or `nets`.
        """
        if not (self.debugger or self.software or step or nets):
            self._tell(0)
            self._planned, self._nets, self._in_registers = (), (), ()
            self.planted.want(())
            return
        guest = self.guest_breakpoints()
        mine = tuple(one for one in self.debugger if not (step and one.kind is Kind.EXEC and one.address == self.skip))
        spare = [one.entry for one in nets] if step or nets else list(self.software)
        self._plan, self._planned, taken = self._fit(guest, mine, spare)
        self._nets = tuple(nets[:taken])
        self._in_registers = () if step or nets else self.software[:taken]
        if not (step or nets):
            self.planted.want(self.software[taken:])
        self.planted.plant(but=self.skip)
        guest_detects = bool(self.fd.debug_registers().dr7 & DR7_GD)
        dr7 = self._plan.dr7 | DR7_FIXED_1 | (DR7_GD if detect or guest_detects else 0)
        control = abi.DEBUG_ENABLE | abi.DEBUG_HARDWARE
        control |= (abi.DEBUG_SOFTWARE if self.planted else 0) | (abi.DEBUG_STEP if step else 0)
        self._tell(control, self._plan.addresses, dr7, again=step)

    def _tell(self, control: int, addresses: Addresses = NO_ADDRESSES, dr7: int = 0, *, again: bool = False) -> None:
        """KVM_SET_GUEST_DEBUG, unless KVM knows; a step must be told `again` each time."""
        if again or self._told != (control, addresses, dr7):
            self.fd.set_guest_debug(control, addresses, dr7)
            self._told = control, addresses, dr7

    def _fit(
        self, guest: Sequence[Breakpoint], mine: Sequence[Breakpoint], spare: Sequence[int]
    ) -> tuple[Plan, tuple[Breakpoint, ...], int]:
        """Share the registers out: the guest's breakpoints, the debugger's, then as many `spare` addresses as there is room for.

        Returns the plan, the breakpoints in it, and how many spare addresses follow them.
        """
        for count in range(min(len(spare), debugregs.SLOTS), -1, -1):
            try:
                return self.make_plan((*guest, *mine, *map(_execution, spare[:count]))), (*guest, *mine), count
            except ValueError as error:
                why = error
        assert mine, "the guest alone has four"
        if not self._noted:
            self._noted = True
            self.note(f"the guest armed breakpoints of its own, and the debugger's no longer fit beside them: {why}")
        return self._fit(guest, mine[:-1], spare)

    def enter_with_injection(self) -> bool:
        """Enter the guest, an exception that waits first. What did not get in waits on."""
        waiting = self.injection
        if waiting is None:
            happened = self.enter()
        else:
            self._inject(waiting)
            self.injection = None
            happened = self.enter()
            if not happened:
                self._take_back(waiting)
        if happened:
            self.in_flight = None
        return happened

    def _inject(self, one: Injection) -> None:
        registers = self.registers
        if one.resume and not registers.general.rflags & RF:
            registers.general.rflags |= RF
            registers.store_general()
        events = self.fd.events()
        if one.vector == DB:
            self._before_debug(one)
            convert.inject_debug(events, one.causes, one.hits, payload=self.payload)
        else:
            events.exception_injected, events.exception_nr, events.exception_has_error_code = 1, one.vector, 0
        self.fd.set_events(events)

    def _before_debug(self, one: Injection) -> None:
        """What #DB does to DEBUGCTL, and without the payload to DR6 and DR7 (SDM vol. 3, 18.2.3, 18.4.1; APM vol. 2, 13.1)."""
        control = self.fd.msr(DEBUGCTL) or 0
        cleared = control & ~(DEBUGCTL_BTF | (DEBUGCTL_LBR if self.model.amd else 0))
        if cleared != control:
            self.fd.set_msr(DEBUGCTL, cleared)
        if not self.payload:
            debug = self.fd.debug_registers()
            debug.dr6 = dr6.deliver(debug.dr6, one.causes, one.hits)
            debug.dr7 &= ~DR7_GD
            self.fd.set_debug_registers(debug)

    def _take_back(self, one: Injection) -> None:
        """KVM was left before it delivered: keep the exception ourselves, for a change of registers would drop it there."""
        events = self.fd.events()
        if events.exception_nr == one.vector and (events.exception_pending or events.exception_injected):
            events.exception_pending = events.exception_injected = events.exception_has_payload = 0
            self.fd.set_events(events)
            self.injection = one

    def not_entered(self) -> Exit | None:
        """KVM_RUN ended without an exit."""
        step = self.step_under_way
        if step is not None:
            if self.step_is_through():
                return self.finish_step(0, 0)
            self._end_step(step.tf)
        return Interrupted() if self.take_kick() else None

    # --- steps

    def wants_step(self) -> bool:
        """Whether the next instruction runs alone."""
        if self.stepping:
            return True
        return self.skip is not None and self.skip == self.registers.linear(self.registers.rip)

    def begin_step(self, detect: bool = True) -> bool:
        """Enter the guest for the instruction at RIP alone; whether KVM_RUN exited."""
        self._deliver_first()
        registers = self.registers
        rip, bits = registers.rip, registers.bits
        instruction = stepping.decode(self.read_virtual(registers.linear(rip), stepping.MAX_INSTRUCTION), bits)
        offset, size = stepping.popped_flags(instruction)
        popped = None
        if size:
            image = self.read_virtual(registers.linear(int(registers.general.rsp) + offset, "ss"), size)
            popped = int.from_bytes(image, "little")
        control = self.fd.msr(DEBUGCTL) or 0
        step = Step(
            rip,
            registers.linear(rip),
            instruction,
            registers.tf,
            popped,
            self.stepping,
            bool(control & DEBUGCTL_BTF),
            registers.cpl,
        )
        if step.btf:  # the host's single step would trap on branches only
            self.fd.set_msr(DEBUGCTL, control & ~DEBUGCTL_BTF)
        here = registers.linear(rip)
        nets = [one for one in stepping.nets(self.read_virtual, self._tables(), instruction) if one.entry != here]
        self.step_under_way = step
        self.planted.lift()
        self.configure(step=True, detect=detect, nets=nets)
        return self.enter()

    def _tables(self) -> stepping.Tables:
        system = self.registers.system
        bits = 64 if system.efer & 1 << 10 else 32 if system.cr0 & 1 else 16
        return stepping.Tables(system.idt.base, system.idt.limit, bits, self.registers.get("lstar"), system.gdt.base)

    def _deliver_first(self) -> None:
        """Exceptions and interrupts that wait are delivered before the stepped instruction: it is the handler's first one."""
        if self.injection is not None:
            self.deliver_now(self.injection.vector)
        elif self.in_flight is not None:
            events = self.fd.events()
            if events.interrupt_injected or events.nmi_pending or events.nmi_injected:
                self.deliver_now(self.in_flight)
            self.in_flight = None

    def deliver_now(self, vector: int) -> None:
        """Run up to the first instruction of the handler. If something else comes first, `unread` tells the loop."""
        target = stepping.handler(self.read_virtual, self._tables(), vector)
        if target is None:
            return  # no such gate: what follows from that comes with the next entry
        self.configure(nets=(target,))
        if not self._nets:
            return
        if not self.enter_with_injection():
            return
        if self.shared.exit_reason == abi.EXIT_DEBUG and self.registers.linear(self.registers.rip) == target.entry:
            return
        self.unread = True

    def step_is_through(self) -> bool:
        """Whether the instruction of the step has completed although no trap said so: I/O, MMIO, HLT, CR8."""
        step = self.step_under_way
        return step is not None and self.registers.rip != step.rip

    def _end_step(self, guest_tf: bool) -> None:
        """Take the real TF off, and put the guest's own back."""
        step = self.step_under_way
        self.step_under_way = None
        self._tell(0)
        registers = self.registers
        registers.forget()
        if registers.tf != guest_tf:
            registers.general.rflags ^= TF
            registers.store_general()
        if step is not None and step.btf:
            self.fd.set_msr(DEBUGCTL, (self.fd.msr(DEBUGCTL) or 0) | DEBUGCTL_BTF)

    def finish_step(self, causes: int, hits: int, *, debugger: bool = True) -> Exit | None:
        """The instruction is complete: correct what it copied of TF, and say what it caused. `hits` by the list of `armed`."""
        step, registers = self.step_under_way, self.registers
        assert step is not None
        self._skipped(step)
        instruction = step.instruction
        after = stepping.tf_after(instruction, step.tf, step.popped, int(registers.general.r11), registers.get("sfmask"))
        self._end_step(after)
        if not step.tf:
            size = stepping.pushed_flags(instruction)
            if size:
                self._clear_tf_at(registers.linear(int(registers.general.rsp), "ss"), size)
            elif stepping.saves_flags_in_r11(instruction):
                registers.general.r11 &= ~TF
                registers.store_general()
        tf = step.tf
        if tf and step.btf:
            length = instruction.len if instruction is not None else 0
            tf = stepping.branched(instruction, registers.rip, step.rip + length)
        asked = step.asked and debugger
        causes = causes & ~DR6_BS | (DR6_BS if asked or tf else 0)
        return self._event(causes, hits, tf=tf, cpl=step.cpl) if causes or hits else None

    def _skipped(self, step: Step) -> None:
        """The instruction that ran without the debugger's breakpoints has run; a repeated one to its end."""
        again = step.rip == self.registers.rip and stepping.repeats(step.instruction)
        if self.skip == step.linear and not again:
            self.skip = None

    def _clear_tf_at(self, address: int, size: int) -> None:
        image = int.from_bytes(self.read_virtual(address, size), "little")
        self.write_virtual(address, (image & ~TF).to_bytes(size, "little"))

    def _ended_in(self, one: stepping.Handler, hits: int) -> Exit | None:
        """The step has become an exception, and stands on the first instruction of its handler."""
        step, registers = self.step_under_way, self.registers
        assert step is not None
        if one.flags_at is None:  # SYSCALL
            self._skipped(step)
            self._end_step(stepping.tf_after(step.instruction, step.tf, None, 0, registers.get("sfmask")))
            if not step.tf:
                registers.general.r11 &= ~TF
                registers.store_general()
        else:
            self._end_step(False)
            flags = registers.linear(int(registers.general.rsp) + one.flags_at, "ss")
            width = registers.bits // 8
            if self.read_virtual(flags - 2 * width, width) != step.rip.to_bytes(8, "little")[:width]:
                self._skipped(step)  # behind a fault it has still to run
            if not step.tf:
                self._clear_tf_at(flags, 2)
        causes = DR6_BS if step.asked else 0
        if not causes and not hits:
            return None
        return self._event(causes, hits, tf=False, cpl=step.cpl, fault=bool(hits))

    def abandon(self) -> None:
        """Somebody moved RIP."""
        self.skip = None
        if self.unread and self.shared.exit_reason == abi.EXIT_DEBUG:
            self.unread = False
        if self.step_under_way is not None:
            self._end_step(self.step_under_way.tf)

    # --- exits

    def debug_exit(self) -> Exit | None:
        """KVM_EXIT_DEBUG."""
        debug, registers = self.shared.exit.debug, self.registers
        linear = registers.linear(registers.rip)
        if debug.exception == BP:
            return self._int3(linear)
        byte = self.read_virtual(linear, 1)
        control = 0 if self.amd_host else self.fd.msr(DEBUGCTL) or 0
        at = convert.Situation(self.amd_host, control, registers.cpl, byte[0] if byte else None)
        meaning = convert.debug_meaning(debug.dr6, at)
        step = self.step_under_way
        if meaning.causes & DR6_BD and not self.fd.debug_registers().dr7 & DR7_GD:
            return self._debug_register_access()
        listed = self._plan.hits(meaning.matched)
        hits = self._by_armed(listed)
        exec_here = any(one.kind is Kind.EXEC and listed >> n & 1 for n, one in enumerate(self._planned))
        if meaning.on_icebp:
            return self._icebp()
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

    def _by_armed(self, listed: int) -> int:
        """From bits of the list that the debug registers were shared out by, to bits of `armed` as it is now."""
        found = [one for n, one in enumerate(self._planned) if listed >> n & 1]
        return sum(1 << n for n, one in enumerate((*self.guest_breakpoints(), *self.debugger)) if one in found)

    def _event(self, causes: int, hits: int, *, tf: bool, cpl: int, fault: bool = False, icebp: bool = False) -> DebugException:
        """A DebugException, with what the guest had armed noted beside it."""
        lock = bool(causes & DR6_BLD) and convert.may_bus_lock(self.fd.msr(DEBUGCTL) or 0, cpl)
        self.last_debug = GuestDebug(tf, bool(causes & DR6_BD), bool(causes & DR6_BT), lock)
        self._fault_hits = fault and bool(hits)
        return DebugException(causes, hits, icebp, fault)

    def _debug_register_access(self) -> Exit | None:
        """The guest's MOV to or from a debug register, caught by our own DR7.GD: it runs alone, without GD."""
        if self.step_under_way is not None:
            nets = self._nets
            self.configure(step=True, detect=False, nets=nets)
            self.unread = self.enter()
        else:
            self.unread = self.begin_step(detect=False)
        return None

    def _icebp(self) -> Exit | None:
        """INT1: KVM leaves RIP on it. The guest's #DB comes behind it, with no cause bit."""
        step = self.step_under_way
        asked, cpl = (step.asked, step.cpl) if step is not None else (False, self.registers.cpl)
        if step is not None:
            self._end_step(step.tf)
            self._skipped(step)
        self.registers.rip += 1
        return self._event(DR6_BS if asked else 0, 0, tf=False, cpl=cpl, icebp=True)

    def _int3(self, linear: int) -> Exit | None:
        """#BP: the debugger's where it planted one, else the guest's."""
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
        self.injection = Injection(BP)
        if step is None or not step.asked:
            return None
        self.deliver_now(BP)
        return self._event(DR6_BS, 0, tf=False, cpl=step.cpl)

    def deliver_debug(self, causes: int, hits: int, icebp: bool) -> None:
        """Deliver #DB to the guest, with the next entry; at once while the debugger steps."""
        self.settle()
        self.halting = False
        self.injection = Injection(DB, causes, hits, resume=self._fault_hits and bool(hits))
        if self.stepping:
            self.deliver_now(DB)


def _execution(address: int) -> Breakpoint:
    return Breakpoint(Owner.DEBUGGER, -1, Kind.EXEC, address, 1)
