"""Makes single steps on KVM whole: begun with nets, finished when KVM swallows them, TF put right wherever it was copied to."""

from collections.abc import Iterable

from iced_x86 import Instruction, Mnemonic

from trapgate.arch.debugregs import DEBUGCTL_BTF, DR6_BD, DR6_BLD, DR6_BS, DR6_BT
from trapgate.arch.flags import RF, TF
from trapgate.arch.models import CpuModel
from trapgate.arch.msrs import DEBUGCTL
from trapgate.arch.vectors import NMI
from trapgate.exits import DebugException, Exit
from trapgate.kvm import abi, buslock, convert, stepping
from trapgate.kvm.arming import Arming, MakePlan
from trapgate.kvm.chips import Chips
from trapgate.kvm.core import PLAIN, LocalApic, Setup
from trapgate.memory import Ram
from trapgate.values import dataclass
from trapgate.vcpu import GuestDebug, Kind

NOT_ARMED = GuestDebug(False, False, False, False)


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
    splits: bool  # it locks across a line, and the guest wants to hear of it
    rcx: int


class Steps(Arming):
    """Runs one instruction alone."""

    def __init__(self, ram: Ram, model: CpuModel, lapic: LocalApic | None, make_plan: MakePlan, setup: Setup = PLAIN) -> None:
        super().__init__(ram, model, lapic, make_plan, setup)
        self.stepping = False
        self.step_under_way: Step | None = None
        self.last_debug = NOT_ARMED
        self._handlers = stepping.Nets()
        self._resumes = False  # the last #DB came between two iterations
        self.port_hits = 0  # of breakpoints on a port, by the list of `armed`: the IN or OUT is under way
        self.woken_at: int | None = None  # linear address behind a HLT whose interrupt is still to come

    def wants_step(self) -> bool:
        """Whether the next instruction runs alone."""
        if self.stepping:
            return True
        return self.skip is not None and self.skip == self.registers.linear(self.registers.rip)

    def begin_step(self, detect: bool = True) -> bool:
        """Enter the guest for the instruction at RIP alone; whether KVM_RUN exited."""
        if not self._deliver_first():
            return False
        if self.unread:
            self.unread = False
            return True
        registers = self.registers
        rip, bits = registers.rip, registers.bits
        instruction = stepping.decode(self.read_virtual(registers.linear(rip), stepping.MAX_INSTRUCTION), bits, rip)
        offset, size = stepping.popped_flags(instruction)
        popped = None
        if size:
            image = self.read_virtual(registers.linear(int(registers.general.rsp) + offset, "ss"), size)
            popped = int.from_bytes(image, "little")
        control = self.fd.msr(DEBUGCTL) or 0
        step = Step(
            rip=rip,
            linear=registers.linear(rip),
            instruction=instruction,
            tf=registers.tf,
            popped=popped,
            asked=self.stepping,
            btf=bool(control & DEBUGCTL_BTF),
            cpl=registers.cpl,
            splits=self._splits(instruction, control),
            rcx=int(registers.general.rcx),
        )
        if step.btf:  # the host's single step would trap on branches only
            self.fd.set_msr(DEBUGCTL, control & ~DEBUGCTL_BTF)
        here = registers.linear(rip)
        if instruction is not None and instruction.mnemonic == Mnemonic.HLT and self._runs_freely(here):
            self.step_under_way = step
            self._halt_by_hand(step)
            return True
        tables = self._tables(syscall=stepping.saves_flags_in_r11(instruction))
        nets = [one for one in self._handlers.of(self.read_virtual, tables, instruction) if one.entry != here]
        self.step_under_way = step
        self.planted.lift()
        self.configure(step=True, detect=detect, nets=nets)
        return self.enter()

    def _runs_freely(self, here: int) -> bool:
        """Whether the instruction is privileged, and nobody has a breakpoint on it that may stop it."""
        armed = self.guest_breakpoints() if here == self.skip else (*self.guest_breakpoints(), *self.debugger)
        return self.registers.cpl == 0 and not any(one.kind is Kind.EXEC and one.address == here for one in armed)

    def _halt_by_hand(self, step: Step) -> None:
        """HLT as KVM has it, and told as KVM does: of a stepped one some hosts forget either the step or, for a while, the HLT."""
        self.registers.rip = step.rip + 1
        events = self.fd.events()
        events.interrupt_shadow = 0
        events.flags |= abi.EVENT_VALID_SHADOW
        self.fd.set_events(events)
        if self.chips is not None and not step.tf:  # the guest's own single-step trap wakes it at once
            self.fd.halt()
        self.shared.exit_reason, self.shared.flags = abi.EXIT_HLT, 0
        self.known_ready = False

    def _splits(self, instruction: Instruction | None, control: int) -> bool:
        """Whether a bus lock must be inferred: on Intel hosts BS in the exit hides that bit 11 is lost."""
        if self.amd_host or instruction is None or not buslock.locks(instruction):
            return False
        place = buslock.operand(instruction, self.registers.get)
        line = self.model.line_size
        return convert.may_bus_lock(control, self.registers.cpl) and place.address % line + place.size > line

    def _tables(self, *, syscall: bool = False) -> stepping.Tables:
        """What leads to handlers; to that of SYSCALL only if it is asked for, for each MSR is a call to KVM."""
        system = self.registers.system
        bits = 64 if system.efer & 1 << 10 else 32 if system.cr0 & 1 else 16
        lstar = self.registers.get("lstar") if syscall else 0
        return stepping.Tables(system.idt.base, system.idt.limit, bits, lstar, system.gdt.base)

    def _deliver_first(self) -> bool:
        """Exceptions and interrupts that wait are delivered before the stepped instruction: it is the handler's first one.

        False when a kick came meanwhile.
        """
        if self.injection is not None:
            return self.deliver_now(self.injection.vector)
        if self.chips is not None and self.fd.halted():
            return self._wake(self.chips)
        events = self.fd.events()
        if events.exception_pending or events.exception_injected:  # KVM's own, which a kick came before
            return self.deliver_now(events.exception_nr)
        if self.in_flight is not None or self.chips is not None:
            if events.interrupt_injected:
                return self.deliver_now(events.interrupt_nr)
            if events.nmi_injected or (events.nmi_pending and self.in_flight == NMI):
                return self.deliver_now(NMI)
            self.in_flight = None
        if self.chips is not None and self.woken_at == self.registers.linear(self.registers.rip):
            return self._wake(self.chips)
        self.woken_at = None
        return True

    def _wake(self, chips: Chips) -> bool:
        """HLT waits in the kernel: first comes the interrupt that ends it. False when a kick came sooner.

        Awake, the guest is caught where it stands, for interrupts are kept out; then whatever waits by now is let in. Without a
        free debug register the step goes on behind HLT, and the interrupt comes later. A kick may come when the guest is awake and
        its interrupt not yet let in: `woken_at` remembers that.
        """
        here = stepping.Handler(self.registers.linear(self.registers.rip), None)
        self.woken_at = here.entry
        self.configure(nets=(here,))
        if self._nets:
            if not self.enter():
                return False
            if not self._stands_on(here):
                self.unread = True
            elif not self._deliver(self._waiting_now(chips), interrupts=True):
                return False
        self.woken_at = None
        return True

    def _waiting_now(self, chips: Chips) -> list[int]:
        """Vectors of what may come next, an NMI first."""
        return [NMI] * bool(self.fd.events().nmi_pending) + chips.waiting(self.fd)

    def deliver_now(self, vector: int) -> bool:
        """Run up to the first instruction of the handler. False when a kick came sooner: it still waits, or stands there.

        If something else comes first, `unread` tells the loop.
        """
        return self._deliver((vector,), interrupts=vector == NMI)

    def _deliver(self, vectors: Iterable[int], *, interrupts: bool) -> bool:
        """The same for whichever of them comes."""
        tables = self._tables()
        found = (stepping.handler(self.read_virtual, tables, vector) for vector in vectors)
        targets = [one for one in found if one is not None]
        if not targets:
            return True  # no such gate: what follows from that comes with the next entry
        self.configure(nets=targets, interrupts=interrupts)
        if not self._nets:
            return True
        if not self.enter_with_injection():
            return False
        self.unread = not any(map(self._stands_on, self._nets))
        return True

    def _stands_on(self, one: stepping.Handler) -> bool:
        """Whether the net has caught the guest."""
        return self.shared.exit_reason == abi.EXIT_DEBUG and self.registers.linear(self.registers.rip) == one.entry

    def step_is_through(self) -> bool:
        """Whether the instruction of the step has completed although no trap said so: I/O (an iteration), MMIO, HLT, CR8."""
        step = self.step_under_way
        if step is None:
            return False
        iterated = stepping.repeats(step.instruction) and self.registers.general.rcx != step.rcx
        return iterated or self.registers.rip != step.rip

    def _end_step(self, guest_tf: bool) -> None:
        """Take the real TF off, and put the guest's own back."""
        step = self.step_under_way
        self.step_under_way = None
        self._tell(0)
        registers = self.registers
        registers.forget_general()
        if registers.tf != guest_tf:
            registers.general.rflags ^= TF
            registers.store_general()
        if step is not None and step.btf:
            self.fd.set_msr(DEBUGCTL, (self.fd.msr(DEBUGCTL) or 0) | DEBUGCTL_BTF)

    def finish_step(self, causes: int, hits: int, *, debugger: bool = True) -> Exit | None:
        """The instruction is complete: correct what it copied of TF, and say what it caused. `hits` by the list of `armed`."""
        step, registers = self.step_under_way, self.registers
        assert step is not None
        instruction = step.instruction
        hits |= self.take_port_hits()
        after = self._tf_behind(step)
        self._end_step(after)
        self.complete_repetition(instruction)
        self._skipped(step)
        if not step.tf:
            size = stepping.pushed_flags(instruction)
            if size:
                self._clear_tf_at(registers.linear(int(registers.general.rsp), "ss"), size)
            elif stepping.saves_flags_in_r11(instruction):
                registers.general.r11 &= ~TF
                registers.store_general()
        tf = after if stepping.traps_by_new_tf(instruction) else step.tf
        if tf and step.btf:
            length = instruction.len if instruction is not None else 0
            tf = stepping.branched(instruction, registers.rip, step.rip + length)
        if step.splits:
            causes |= DR6_BLD
        asked = step.asked and debugger
        causes = causes & ~DR6_BS | (DR6_BS if asked or tf else 0)
        if not causes and not hits:
            return None
        event = self._event(causes, hits, tf=tf, cpl=step.cpl)
        self._resumes = step.rip == registers.rip and stepping.repeats(instruction)
        return event

    def _tf_behind(self, step: Step) -> bool:
        """The guest's own TF behind the step's instruction, which has completed."""
        r11, sfmask = int(self.registers.general.r11), 0
        if stepping.saves_flags_in_r11(step.instruction):
            sfmask = self.registers.get("sfmask")
        return stepping.tf_after(step.instruction, step.tf, step.popped, r11, sfmask)

    def own_flags(self) -> int:
        """RFLAGS with the guest's own TF, which KVM hides while a step is under way."""
        flags, step = int(self.registers.general.rflags), self.step_under_way
        if step is None:
            return flags
        tf = self._tf_behind(step) if self.step_is_through() else step.tf
        return flags & ~TF | (TF if tf else 0)

    def take_port_hits(self) -> int:
        """The hits on ports; forgotten with the asking."""
        hits, self.port_hits = self.port_hits, 0
        return hits

    def complete_repetition(self, instruction: Instruction | None) -> None:
        """Go on behind the instruction at RIP if it is a repeated one that has iterated, to the last: some hosts stay on it."""
        registers = self.registers
        if instruction is not None and instruction.ip == registers.rip and stepping.exhausted(instruction, registers.general.rcx):
            registers.general.rflags &= ~RF
            registers.rip += instruction.len

    def _skipped(self, step: Step) -> None:
        """The instruction that ran without the debugger's breakpoints has run; a repeated one to its end."""
        again = step.rip == self.registers.rip and stepping.repeats(step.instruction)
        if self.skip == step.linear and not again:
            self.skip = None

    def _clear_tf_at(self, address: int, size: int) -> None:
        image = int.from_bytes(self.read_virtual(address, size), "little")
        self.write_virtual(address, (image & ~TF).to_bytes(size, "little"))

    def finish_untold(self) -> Exit | None:
        """The step is through, and no trap has told of it: the instruction completed, or its handler has not begun yet."""
        for one in self._nets:
            if self._leads_to(one):
                return self._ended_in(one, 0)
        return self.finish_step(0, 0)

    def _leads_to(self, one: stepping.Handler) -> bool:
        """Whether the guest stands where this handler begins, because of the step's instruction."""
        step, registers = self.step_under_way, self.registers
        assert step is not None
        if registers.linear(registers.rip) != one.entry:
            return False
        if one.flags_at is None:
            return stepping.saves_flags_in_r11(step.instruction)
        length = step.instruction.len if step.instruction is not None else 0
        return self._returns_to(one.flags_at, step.rip) or self._returns_to(one.flags_at, step.rip + length)

    def _returns_to(self, flags_at: int, rip: int) -> bool:
        """Whether the frame of a handler that begins here holds this RIP, as far as it has room for it."""
        registers, width = self.registers, self.registers.bits // 8
        place = registers.linear(int(registers.general.rsp) + flags_at - 2 * width, "ss")
        return self.read_virtual(place, width) == (rip & (1 << 8 * width) - 1).to_bytes(width, "little")

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
            if not self._returns_to(one.flags_at, step.rip):
                self._skipped(step)  # behind a fault it has still to run
            if not step.tf:
                self._clear_tf_at(registers.linear(int(registers.general.rsp) + one.flags_at, "ss"), 2)
        causes = DR6_BS if step.asked else 0
        if not causes and not hits:
            return None
        return self._event(causes, hits, tf=False, cpl=step.cpl, fault=bool(hits))

    def abandon(self) -> None:
        """Somebody moved RIP."""
        self.skip, self.port_hits = None, 0
        if self.unread and self.shared.exit_reason == abi.EXIT_DEBUG:
            self.unread = False
        if self.step_under_way is not None:
            self._end_step(self.step_under_way.tf)

    def _event(self, causes: int, hits: int, *, tf: bool, cpl: int, fault: bool = False, icebp: bool = False) -> DebugException:
        """A DebugException, with what the guest had armed noted beside it."""
        lock = bool(causes & DR6_BLD) and convert.may_bus_lock(self.fd.msr(DEBUGCTL) or 0, cpl)
        self.last_debug = GuestDebug(tf, bool(causes & DR6_BD), bool(causes & DR6_BT), lock)
        self._resumes = False
        return DebugException(causes, hits, icebp, fault)
