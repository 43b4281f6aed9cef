"""Arms what KVM catches for us and what it is made to raise: debug registers shared by both owners, exceptions injected.

While KVM hands every #DB to us the real debug registers hold both owners' breakpoints, and DR7.GD besides: a guest's MOV to or from
a debug register then comes here too, runs as a step without GD, and the registers are shared out anew. On hosts that do not honour
that GD they are shared out anew at the next exit, and what the guest arms lies idle until then. There, if INT3 is told, software
breakpoints without others of the debugger's are INT3 bytes from the first on: KVM then leaves debug registers and #DB to the guest.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from trapgate.arch import debugregs, dr6
from trapgate.arch.debugregs import DEBUGCTL_BTF, DEBUGCTL_LBR, DR7_FIXED_1, DR7_GD
from trapgate.arch.flags import RF
from trapgate.arch.models import CpuModel
from trapgate.arch.msrs import DEBUGCTL
from trapgate.kvm import abi, convert, stepping
from trapgate.kvm.answering import Answering
from trapgate.kvm.convert import BP, DB
from trapgate.kvm.core import PLAIN, LocalApic, Setup
from trapgate.memory import Ram
from trapgate.values import dataclass
from trapgate.vcpu import Breakpoint, Kind, Owner

Addresses = tuple[int, int, int, int]  # DR0-DR3
Held = tuple[Breakpoint, ...]
KEPT = 64  # ways to share the debug registers out that are known
NO_ADDRESSES: Addresses = (0, 0, 0, 0)
FREE: tuple[int, Addresses, int] = 0, NO_ADDRESSES, 0  # nothing of a guest comes to us


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


@dataclass(frozen=True, slots=True)
class Injection:
    """An exception to inject with the next entry. `resume`: the pushed RFLAGS has RF, as between two iterations of REP
    (SDM vol. 3, 18.3.1.1; for an instruction breakpoint it has not)."""

    vector: int
    causes: int = 0
    hits: int = 0
    resume: bool = False


class Arming(Answering):
    """Knows what both owners armed, and holds an exception until KVM has delivered it."""

    def __init__(self, ram: Ram, model: CpuModel, lapic: LocalApic | None, make_plan: MakePlan, setup: Setup = PLAIN) -> None:
        super().__init__(ram, model, lapic, setup)
        self.make_plan = make_plan
        self.debugger: tuple[Breakpoint, ...] = ()
        self.software: tuple[int, ...] = ()
        self.skip: int | None = None  # linear address of an instruction that runs without the debugger's breakpoints
        self.injection: Injection | None = None
        self.note: Callable[[str], None] = lambda line: None
        self._planned: tuple[Breakpoint, ...] = ()
        self._plan: Plan = make_plan(())
        self._nets: tuple[stepping.Handler, ...] = ()
        self._in_registers: tuple[int, ...] = ()  # software breakpoints that debug registers hold
        self._fits: dict[tuple[Held, Held, tuple[int, ...]], tuple[Plan, Held, int, Addresses, int]] = {}
        self._told = FREE
        self._noted = False
        self.leaves_debug_registers = False  # for software breakpoints alone, see above
        self.in_flight: int | None = None  # vector of an interrupt that KVM may still have to deliver

    def guest_breakpoints(self) -> tuple[Breakpoint, ...]:
        """What the guest's own DR0-DR7 arm."""
        debug = self.registers.debug
        if not debug.dr7 & debugregs.DR7_ENABLES:  # as nearly always, and asked at every exit for a port
            return ()
        slots = ((n, debugregs.slot(debug.dr7, n)) for n in range(debugregs.SLOTS))
        return tuple(Breakpoint(Owner.GUEST, n, Kind(slot.rw), int(debug.db[n]), slot.length) for n, slot in slots if slot.enabled)

    def armed(self) -> Sequence[Breakpoint]:
        """The guest's enabled breakpoints, then the debugger's."""
        return (*self.guest_breakpoints(), *self.debugger)

    # --- what the CPU holds

    def configure(
        self, *, step: bool = False, detect: bool = True, nets: Sequence[stepping.Handler] = (), interrupts: bool = False
    ) -> None:
        """Tell KVM what to catch. `detect`: accesses to debug registers too. `interrupts`: the kernel's may come even amid a step.

        Debug registers that are left over take software breakpoints, so that the guest has no INT3 in its memory; or `nets`.
        """
        if not (self.debugger or self.software or step or nets):
            self._tell(0)
            self._planned, self._nets, self._in_registers = (), (), ()
            self.planted.want(())
            return
        if self.leaves_debug_registers and not (self.debugger or step or nets):
            self._plan, self._planned, self._nets, self._in_registers = self.make_plan(()), (), (), ()
            self.planted.want(self.software)
            self.planted.plant(but=self.skip)
            self._tell(abi.DEBUG_ENABLE | abi.DEBUG_SOFTWARE)
            return
        guest, resumed = self.guest_breakpoints(), self._resumed() if step else None
        guest = tuple(one for one in guest if one.kind is not Kind.EXEC or one.address != resumed)
        mine = tuple(one for one in self.debugger if not (step and one.kind is Kind.EXEC and one.address == self.skip))
        spare = [one.entry for one in nets] if step or nets else list(self.software)
        asked = guest, mine, tuple(spare)
        if (found := self._fits.get(asked)) is None:
            if len(self._fits) >= KEPT:
                self._fits.clear()
            plan, planned, taken = self._fit(*asked)
            found = self._fits[asked] = plan, planned, taken, plan.addresses, plan.dr7 | DR7_FIXED_1
        self._plan, self._planned, taken, addresses, dr7 = found
        self._nets = tuple(nets[:taken])
        self._in_registers = () if step or nets else self.software[:taken]
        if not (step or nets):
            self.planted.want(self.software[taken:])
        self.planted.plant(but=self.skip)
        guest_detects = bool(self.registers.debug.dr7 & DR7_GD)
        dr7 |= DR7_GD if detect or guest_detects else 0
        control = abi.DEBUG_ENABLE | abi.DEBUG_HARDWARE
        control |= (abi.DEBUG_SOFTWARE if self.planted else 0) | (abi.DEBUG_STEP if step else 0)
        if self.chips is not None and (step or nets) and not interrupts:
            control |= abi.DEBUG_BLOCK_IRQ
        self._tell(control, addresses, dr7, again=step)

    def _resumed(self) -> int | None:
        """Where RF holds back the guest's own breakpoints on the next instruction; KVM, where it emulates that, does not."""
        registers = self.registers
        return registers.linear(registers.rip) if registers.general.rflags & RF else None

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
            rip = self.registers.rip
            self._inject(waiting)
            self.injection = None
            happened = self.enter()
            if not happened:
                self._take_back(waiting, rip)
        if happened:
            self.in_flight = None
            if self._told == FREE:
                happened = self.answer()
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
            debug = self.registers.debug
            debug.dr6 = dr6.deliver(debug.dr6, one.causes, one.hits)
            debug.dr7 &= ~DR7_GD
            self.registers.store_debug()

    def _take_back(self, one: Injection, rip: int) -> None:
        """KVM was left before it delivered: keep the exception ourselves, for a change of registers would drop it there.

        Of #BP, which it takes for a software exception, KVM does not tell that it holds one: RIP, not moved, does.
        """
        events = self.fd.events()
        held = events.exception_nr == one.vector and (events.exception_pending or events.exception_injected)
        if held or (one.vector == BP and self.registers.rip == rip):
            events.exception_pending = events.exception_injected = events.exception_has_payload = 0
            self.fd.set_events(events)
            self.injection = one


def _execution(address: int) -> Breakpoint:
    return Breakpoint(Owner.DEBUGGER, -1, Kind.EXEC, address, 1)
