"""Makes the hardware CPU a vCPU: the protocol of `trapgate.vcpu` on KVM.

Without a debugger KVM runs the guest alone, its debug registers, TF and bus-lock traps included. As soon as the debugger has a
hardware breakpoint or steps, every #DB comes here instead (`debugging`), and what is the guest's is injected again. Interrupt
controllers and the PIT are the kernel's where it has them (`chips`): then HLT waits there, and interrupts never come by here.
Otherwise they are the machine's own, in user space.
"""

from collections.abc import Sequence

from trapgate.arch.flags import IF
from trapgate.arch.models import CpuModel
from trapgate.arch.msrs import MsrError
from trapgate.arch.vectors import NMI
from trapgate.clock import Clock, HostClock
from trapgate.exits import BusLock, Exit, Halted, Interrupted, Shutdown, SoftwareBreakpoint
from trapgate.kvm import abi, buslock, probe
from trapgate.kvm.arming import MakePlan
from trapgate.kvm.core import LocalApic, Setup
from trapgate.kvm.ioctl import KvmError
from trapgate.kvm.resting import Resting
from trapgate.memory import Ram
from trapgate.vcpu import TABLES, Alone, Breakpoint, CpuStart, EngineError, GuestDebug, Uncounted, Unobserved

APIC_MSRS = frozenset({0x1B, 0x6E0, *range(0x800, 0x900)})
LOOK = 250_000_000  # ns between two looks at whether the guest can still wake
LONG = 1_000_000_000  # ns of a stop after which the PIT's ticks are forgotten
RESET_VECTOR = 0xFFF0, 0xFFFF_0000  # RIP and the base of CS
INTERNAL = {
    1: "it cannot emulate an instruction",
    2: "exceptions while it delivered one",
    3: "an exit amid a delivery",
    4: "an exit it does not know",
}


class KvmVcpu(Resting, Alone, Uncounted, Unobserved):
    """A vCPU of the KVM engine."""

    _look = False  # whether the kernel's HLT can still end
    _told_lock = False  # the bus lock that an exit of another kind came with has been told

    # --- the loop

    def run(self) -> Exit:
        """Execute until something happens that the CPU cannot settle alone."""
        while (exit_ := self._turn()) is None:
            pass
        return exit_

    def _turn(self) -> Exit | None:
        if self.dead is not None:
            return self.dead
        if self.items is not None:
            return self.next_item()
        if self.take_kick():
            return Interrupted()
        if self.unread:
            self.unread = False
            return self._sort()
        if self.step_under_way is not None:
            return self._go_on_stepping()
        if self.port_hits:
            return self.port_trap()
        if self.halting or (self._look and self._halted_for_good()):
            self.halting = False
            return Halted()
        if self.wants_step():
            linear = self.registers.linear(self.registers.rip)
            if linear in self.software and linear != self.skip:
                return SoftwareBreakpoint(linear)
            return self._sorted(self.begin_step())
        self.woken_at = None  # interrupts come by themselves
        self.configure()
        return self._sorted(self.enter_with_injection())

    def _sorted(self, happened: bool) -> Exit | None:
        return self._sort() if happened else self.not_entered()

    def _go_on_stepping(self) -> Exit | None:
        """An I/O instruction of a step: complete it, and see whether the step is through."""
        if self._waiting:
            self.settle()
            if self.unread:
                return None
        if self.step_is_through():
            return self.finish_untold()
        return self._sorted(self.enter())

    def _sort(self) -> Exit | None:
        """What the exit in `shared` means."""
        shared = self.shared
        if shared.flags & abi.RUN_BUS_LOCK and shared.exit_reason != abi.EXIT_BUS_LOCK and not self._told_lock:
            self._told_lock = self.unread = True
            return self._bus_lock()
        self._told_lock = False
        match shared.exit_reason:
            case abi.EXIT_IO:
                self.note_port()
                return self.port_exit()
            case abi.EXIT_MMIO:
                return self.mmio_exit()
            case abi.EXIT_DEBUG:
                return self.debug_exit()
            case abi.EXIT_HLT:
                return self._halted()
            case abi.EXIT_IRQ_WINDOW | abi.EXIT_INTR:
                return Interrupted()
            case abi.EXIT_SET_TPR:
                return self.finish_step(0, 0) if self.step_under_way is not None else Interrupted()
            case abi.EXIT_BUS_LOCK:
                return self._bus_lock()
            case abi.EXIT_SHUTDOWN:
                self.dead = Shutdown(self._last_words())
                return self.dead
            case _:
                known, exit_ = self.not_emulated()
                if not known:
                    raise self._failure()
                return exit_

    def _halted(self) -> Exit | None:
        if self.step_under_way is None:
            return Halted()
        if self.chips is not None:  # the kernel has it wait
            return self.finish_step(0, 0)
        self.halting = True  # the guest's own single-step trap comes first, and wakes it
        return self.finish_step(0, 0, debugger=False)

    def _failure(self) -> KvmError:
        """An exit that says that KVM gave up."""
        reason, remedy = self.shared.exit_reason, "run this guest with --engine soft"
        rip = self.registers.rip
        code = self.read_virtual(self.registers.linear(rip), 15).hex(" ")
        where = f"at RIP {rip:#x}, bytes {code or '(unmapped)'}"
        if reason == abi.EXIT_INTERNAL_ERROR:
            why = INTERNAL.get(self.shared.exit.internal.suberror, "no reason given")
            return KvmError(f"KVM_RUN: this host's KVM gave up {where}: {why}", 0, remedy)
        detail = f" ({self.shared.exit.hardware_reason:#x})" if reason in (abi.EXIT_UNKNOWN, abi.EXIT_FAIL_ENTRY) else ""
        return KvmError(f"KVM_RUN ended with exit {reason}{detail} {where}", 0, remedy)

    def _last_words(self) -> str:
        """Of a triple fault. On AMD KVM has reset the CPU by then, for the hardware keeps no state (APM vol. 2, 15.14.3)."""
        if (self.registers.rip, self.registers.system.cs.base) == RESET_VECTOR:
            return "triple fault; this host's KVM does not tell where, --engine soft does"
        return self.story("triple fault")

    def story(self, what: str) -> str:
        """The CPU's state in a few lines."""
        get = self.registers.get
        return "\n".join((
            f"{what} at RIP {get('rip'):#x}, RSP {get('rsp'):#x}, RFLAGS {get('rflags'):#x}",
            f"CS {get('cs'):#x}, SS {get('ss'):#x}",
            f"CR0 {get('cr0'):#x}, CR2 {get('cr2'):#x}, CR3 {get('cr3'):#x}, CR4 {get('cr4'):#x}",
        ))  # fmt: skip

    def _bus_lock(self) -> Exit | None:
        """A bus-lock exit: the instruction and its operand as far as they can still be told."""
        if not self.bus_lock_exits:
            return None
        find = buslock.instruction_at if self.amd_host else buslock.instruction_before
        registers = self.registers
        found = find(self.read_virtual, registers.linear(registers.rip), registers.rip, registers.bits)
        if found is None:
            return BusLock(registers.rip, 0, 0, registers.cpl)
        place = buslock.operand(found, registers.get)
        return BusLock(place.rip, place.address, place.size, registers.cpl)

    def _halted_for_good(self) -> bool:
        self._look = False
        return self.fd.halted() and not self.registers.general.rflags & IF and not self.fd.events().nmi_pending

    def look_for_death(self, clock: Clock) -> None:
        """HLT with interrupts disabled waits in the kernel for ever, and nobody is told: look from time to time."""
        self._look = True
        clock.at(clock.now() + LOOK, lambda: self.look_for_death(clock))

    # --- interrupts

    def can_interrupt(self) -> bool:
        """Whether an external interrupt would be taken now."""
        if self.chips is not None or self.injection is not None or self.step_under_way is not None or self.items is not None:
            return False
        if self.port_hits:  # their trap comes first
            return False
        if self.known_ready:
            return bool(self.shared.ready_for_interrupt_injection and self.shared.if_flag)
        events = self.fd.events()
        busy = events.interrupt_injected or events.interrupt_shadow or events.exception_pending or events.exception_injected
        return bool(self.registers.general.rflags & IF) and not busy

    def interrupt(self, vector: int) -> None:
        """Deliver an external interrupt, with the next entry."""
        assert self.chips is None, "the kernel delivers"
        self.fd.interrupt(vector)
        self.halting = self.known_ready = False
        self.shared.ready_for_interrupt_injection = 0
        self.in_flight = vector

    def want_interrupt(self, waiting: bool) -> None:
        """While waiting, `run` returns Interrupted as soon as an interrupt could be taken."""
        self.shared.request_interrupt_window = int(waiting)

    @property
    def waits(self) -> bool:
        """Whether HLT waits in the kernel."""
        return self.chips is not None and self.fd.halted()

    def wait(self) -> bool:
        """Let it wait in the kernel; False: it has no interrupt controllers there."""
        if self.chips is not None:
            self.fd.halt()
        return self.chips is not None

    def nmi(self) -> None:
        """A non-maskable interrupt with the next entry."""
        self.fd.nmi()
        self.halting = False
        self.in_flight = NMI

    # --- registers

    def get(self, register: str) -> int:
        """The value of a register."""
        self.settle()
        if register == "rflags":
            return self.own_flags()
        return self.lapic.cr8 if register == "cr8" else self.registers.get(register)

    def set(self, register: str, value: int) -> None:
        """Change a register; ValueError when the architecture forbids the value."""
        self.settle()
        if register == "cr8":
            self.lapic.cr8 = value
            return
        if register == "rip":
            self.abandon()
        self.known_ready = False
        self.registers.set(register, value)

    def catch(self, vectors: frozenset[int]) -> None:
        """Nothing but #DB leaves the guest, and that for a debugger alone."""
        if vectors:
            raise EngineError("KVM keeps the guest's exceptions to itself; use the engine 'soft' to stop at them")

    def start(self, first: CpuStart) -> None:
        """From the reset state to the first registers that a loader chose, hidden parts of the segments included."""
        registers = self.registers
        with registers.together():
            for name in TABLES:
                registers.set(name, getattr(first, name))
            for name, segment in first.segments.items():
                registers.put_segment(name, segment.selector, segment.base, segment.limit, segment.attributes)
        for name, value in first.registers():
            self.set(name, value)

    def read_msr(self, index: int) -> int:
        """The value of an MSR; MsrError when there is none."""
        if index in APIC_MSRS:
            return self.lapic.read_msr(index)
        value = self.fd.msr(index)
        if value is None:
            raise MsrError(f"KVM has no MSR {index:#x} here", missing=True)
        return value

    def write_msr(self, index: int, value: int) -> None:
        """Change an MSR; MsrError when there is none, or it refuses the value."""
        if index in APIC_MSRS:
            self.lapic.write_msr(index, value)
        elif not self.fd.set_msr(index, value):
            self.read_msr(index)
            raise MsrError(f"MSR {index:#x} cannot hold {value:#x}")
        self.registers.forget()

    # --- the debugger

    def arm(self, breakpoints: Sequence[Breakpoint], software: Sequence[int]) -> None:
        """The debugger's breakpoints from now on. ValueError when they and the guest's need more than four debug registers."""
        self.settle()
        self.make_plan((*self.guest_breakpoints(), *breakpoints))
        self.debugger = tuple(breakpoints)
        self.software = tuple(software)
        self.planted.lift()

    def step(self, on: bool) -> None:
        """While on, `run` returns after one instruction."""
        self.stepping = on
        self._after_stop()

    def _after_stop(self) -> None:
        """The guest goes on: its clocks where they stood, and its watchdogs are told of the stop (KVM_KVMCLOCK_CTRL)."""
        self.catch_up()
        stood = self.clock.stood() if self.clock is not None else 0
        held, self.stood = stood - self.stood, stood
        if self.fd.clock_paused():
            self.vm.set_clock(max(self.vm.clock().clock - held, 0))
        if self.chips is not None and held > LONG:
            self.chips.forget_ticks()

    def resume_over(self) -> None:
        """The next instruction runs without the debugger's execution breakpoints on it."""
        self.settle()
        self.skip = self.registers.linear(self.registers.rip)

    def guest_debug(self) -> GuestDebug:
        """What the guest had armed when the last DebugException arose."""
        return self.last_debug


def make(
    ram: Ram,
    *,
    model: CpuModel,
    clock: Clock,
    lapic: LocalApic | None,
    plan: MakePlan,
    bus_locks: bool = False,
    chips: bool = False,
) -> KvmVcpu:
    """A vCPU for `trapgate.machine`; KvmError when the host does not let us. `plan` shares the four debug registers out.

    With `chips`, and where the host has them, interrupt controllers and PIT are the kernel's: devices must drive `chips.drive`.
    """
    vcpu = KvmVcpu(ram, model, lapic, plan, Setup(0, bus_locks, chips))
    vcpu.leaves_debug_registers = vcpu.amd_host and probe.leaves_debug_registers()  # VMX tells of accesses to them
    if isinstance(clock, HostClock):
        vcpu.clock = clock
    if vcpu.chips is not None:
        vcpu.look_for_death(clock)
    return vcpu
