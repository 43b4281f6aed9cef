"""Says the state of a vCPU on KVM at rest, and takes it back: what KVM's calls give, as `cpustate` has it.

What an instruction is amid while devices answer it, a step, and a #DB that waits to be injected, KVM does not say: the guest has to
go on first. Interrupt controllers in the kernel are no part of a CPU: `build.kvm_chips` keeps those.
"""

import contextlib
import ctypes
from typing import ClassVar

from trapgate.arch import msrs, xstate
from trapgate.arch.segments import ATTRIBUTES
from trapgate.clock import HostClock
from trapgate.cpustate import CONTROL, GENERAL, SEGMENTS, Between, CpuState, SegmentState, model_text, stored_msrs
from trapgate.exits import Shutdown
from trapgate.kvm import abi, convert
from trapgate.kvm.debugging import Debugging
from trapgate.kvm.ioctl import KvmError
from trapgate.kvm.registers import SELECTORS
from trapgate.state import U8, U32, U64, State, StateError, require
from trapgate.values import dataclass
from trapgate.vcpu import EngineError

SYSTEM_TIME, WALL_CLOCK = 0x4B564D01, 0x4B564D00  # MSRs of kvmclock (Linux, Documentation/virt/kvm/x86/msr.rst)
_SHADOWS = {0: 0, 1: 2, 2: 1, 3: 2}  # KVM_X86_SHADOW_INT_MOV_SS is 1, _STI is 2; ours by theirs
_ALL_64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class KvmState(State):
    """What is in flight: an exception (vector, error code, whether it is only pending), an interrupt (vector, whether by INT n).

    `kvmclock`: the MSRs of the system time and the wall clock, and what the clock shows, in ns; None: the guest has none.
    """

    VERSION: ClassVar[int] = 2

    exception: tuple[U8, U32 | None, bool] | None
    interrupt: tuple[U8, bool] | None
    nmi_injected: bool
    halting: bool
    kvmclock: tuple[U64, U64, U64] | None


_NOTHING = KvmState(None, None, False, False, None)


class Resting(Debugging):
    """A vCPU whose state can be kept."""

    underway = KvmState
    clock: HostClock | None = None  # the machine's
    dead: Shutdown | None = None
    stood = 0
    """How long the clock had stood still when the guest last went on."""
    _tsc_due: int | None = None  # the offset of the time-stamp counter that was loaded, and is not set yet

    def save(self) -> CpuState:
        """Its state, between two runs whose exits have been answered. EngineError: it is amid something."""
        self.settle()
        amid = self.items is not None or self.unread or self._reading is not None or self.step_under_way is not None
        if amid or self.port_hits or self.injection is not None or self.dead is not None:
            raise EngineError("the CPU is amid an instruction or an exception: let the guest go on a step")
        return self._saved()

    def load(self, state: CpuState) -> None:
        """Be as the one saved was. StateError, and nothing is changed: it cannot be so. EngineError as for `save`."""
        before = self.save()
        state.check(self.model)
        if not isinstance(state.underway, KvmState | Between):
            raise StateError(f"a CPU amid {type(state.underway).__name__} is another engine's")
        require(not state.causes and not state.hits, "a #DB waits: let the guest go on a step")
        try:
            self._put(state)
        except (KvmError, ValueError) as error:
            self._put(before)
            raise StateError(f"this host's KVM refuses the state: {error}") from error

    def _saved(self) -> CpuState:
        regs, sregs, events, debug = self.registers.general, self.registers.system, self.fd.events(), self.registers.debug
        values = {index: self.fd.msr(index) for index in stored_msrs(self.model)}
        return CpuState(
            model=model_text(self.model),
            general=tuple(int(getattr(regs, name)) for name in GENERAL),
            rip=int(regs.rip),
            rflags=self.own_flags(),
            segments=tuple(_segment_state(getattr(sregs, SELECTORS[name])) for name in SEGMENTS),
            tables=(int(sregs.gdt.base), int(sregs.gdt.limit), int(sregs.idt.base), int(sregs.idt.limit)),
            control=(*(int(getattr(sregs, name)) for name in CONTROL[:-1]), self.fd.xcr0()),
            cr8=self.lapic.cr8,
            debug=(*(int(one) for one in debug.db), int(debug.dr6), int(debug.dr7)),  # type: ignore[arg-type]
            msrs=tuple((index, _kept(stored_msrs(self.model)[index], value)) for index, value in sorted(values.items())),
            area=self._area(),
            shadow=_SHADOWS[events.interrupt_shadow & 3],
            nmi_waits=bool(events.nmi_pending),
            nmi_blocked=bool(events.nmi_masked),
            causes=0,
            hits=0,
            tsc_offset=(self.fd.msr(msrs.TSC) or 0) - self._ticks() & _ALL_64 if self._tsc_due is None else self._tsc_due,
            history=(),
            underway=_in_flight(events, self.halting, self._kvmclock()),
        )

    def catch_up(self) -> None:
        """The time-stamp counter goes on from guest time, which is loaded after the CPU. Again is harmless."""
        if self._tsc_due is not None:
            self.fd.set_msr(msrs.TSC, self._tsc_due + self._ticks() & _ALL_64)
            self._tsc_due = None

    def _kvmclock(self) -> tuple[int, int, int] | None:
        used = self.fd.msr(SYSTEM_TIME)
        return (used, self.fd.msr(WALL_CLOCK) or 0, int(self.vm.clock().clock)) if used else None

    def _put_kvmclock(self, kept: tuple[int, int, int] | None) -> None:
        """ValueError: this host's KVM has no such clock."""
        system_time, wall_clock, moment = kept or (0, 0, 0)
        if kept is None and not self.fd.msr(SYSTEM_TIME):
            return
        if not (self.fd.set_msr(WALL_CLOCK, wall_clock) and self.fd.set_msr(SYSTEM_TIME, system_time)):
            raise ValueError("it has no kvmclock")
        self.vm.set_clock(moment)
        self.stood = 0 if self.clock is None else self.clock.stood()

    def _ticks(self) -> int:
        """The counter that guest time alone would give."""
        return 0 if self.clock is None else self.clock.now() * self.model.tsc_hz // 1_000_000_000

    def _area(self) -> bytes:
        """The XSAVE area, with the initial values of what is not in use."""
        mask = xstate.user_mask(self.model.has)
        raw = bytes(self.fd.xsave())
        present = int.from_bytes(raw[xstate.XSTATE_BV : xstate.XSTATE_BV + 8], "little")
        area = bytearray(xstate.standard_size(mask))
        for one in xstate.COMPONENTS:
            if one.bit & present & mask:
                area[one.offset : one.offset + one.size] = raw[one.offset : one.offset + one.size]
        if not present & xstate.X87.bit:
            xstate.write(area, "fctrl", xstate.INITIAL_FCW)
        xstate.write(area, "mxcsr", xstate.read(raw, "mxcsr"))
        area[xstate.XSTATE_BV : xstate.XSTATE_BV + 8] = mask.to_bytes(8, "little")
        return bytes(area)

    def _put(self, state: CpuState) -> None:
        """KvmError, ValueError: KVM refuses a part."""
        underway = state.underway if isinstance(state.underway, KvmState) else _NOTHING
        self.abandon()
        fd, registers = self.fd, self.registers
        fd.set_events(abi.VcpuEvents())
        system = fd.sregs()
        for name, one in zip(SEGMENTS, state.segments, strict=True):
            attributes = one.attributes | convert.UNUSABLE * one.unusable
            setattr(system, SELECTORS[name], convert.segment(one.selector, one.base, one.limit, attributes))
        system.gdt.base, system.gdt.limit, system.idt.base, system.idt.limit = state.tables
        for name, value in zip(CONTROL[:-1], state.control, strict=False):
            setattr(system, name, value)
        system.interrupt_bitmap[:] = [0] * 4
        fd.set_sregs(system)
        fd.set_xcr0(state.control[-1])
        self._put_area(state.area)
        for index, value in state.msrs:
            if fd.msr(index) not in (None, value) and not fd.set_msr(index, value):
                raise ValueError(f"MSR {index:#x} cannot hold {value:#x}")
        self._tsc_due = state.tsc_offset
        debug = abi.DebugRegs()
        debug.db[:] = state.debug[:4]
        debug.dr6, debug.dr7 = state.debug[4:]
        fd.set_debug_registers(debug)
        registers.forget()
        regs = registers.general
        for name, value in zip((*GENERAL, "rip", "rflags"), (*state.general, state.rip, state.rflags), strict=True):
            setattr(regs, name, value)
        registers.store_general()
        fd.set_events(_events(state, underway))
        registers.forget()
        self._put_kvmclock(underway.kvmclock)
        if self.chips is not None:
            fd.halt(False)
        self.halting, self.known_ready = underway.halting, False

    def _put_area(self, area: bytes) -> None:
        room = self.fd.xsave()
        ctypes.memmove(ctypes.addressof(room), area, min(len(area), ctypes.sizeof(room)))
        self.fd.set_xsave(room)


def _segment_state(one: abi.Segment) -> SegmentState:
    attributes = convert.attributes(one)
    usable = attributes & ~convert.UNUSABLE & ATTRIBUTES
    return SegmentState(int(one.selector), int(one.base), int(one.limit), usable, bool(attributes & convert.UNUSABLE))


def _kept(msr: msrs.Msr, value: int | None) -> int:
    """What the model's MSR holds where KVM's says this, which keeps more bits of some; None: KVM has none."""
    if value is None:
        return msr.reset
    with contextlib.suppress(msrs.MsrError):  # who loads it says that it cannot be
        kept = msr.stored(value)
        return msr.reset if kept is None else kept
    return value


def _in_flight(events: abi.VcpuEvents, halting: bool, kvmclock: tuple[int, int, int] | None) -> KvmState | Between:
    exception = interrupt = None
    if events.exception_injected or events.exception_pending:
        error = int(events.exception_error_code) if events.exception_has_error_code else None
        exception = int(events.exception_nr), error, bool(events.exception_pending)
    if events.interrupt_injected:
        interrupt = int(events.interrupt_nr), bool(events.interrupt_soft)
    require(not events.smi[0] and not events.exception_has_payload, "a #DB or an SMI is in flight")
    found = KvmState(exception, interrupt, bool(events.nmi_injected), halting, kvmclock)
    return Between() if found == _NOTHING else found


def _events(state: CpuState, underway: KvmState) -> abi.VcpuEvents:
    events = abi.VcpuEvents(flags=abi.EVENT_VALID_SHADOW | abi.EVENT_VALID_NMI_PENDING)
    if underway.exception is not None:
        vector, error, pending = underway.exception
        events.exception_nr, events.exception_injected = vector, 1  # that it was only pending shows before it is delivered alone
        events.exception_has_error_code, events.exception_error_code = int(error is not None), error or 0
        if pending:
            events.flags |= abi.EVENT_VALID_PAYLOAD
            events.exception_injected, events.exception_pending = 0, 1
    if underway.interrupt is not None:
        events.interrupt_nr, events.interrupt_soft = underway.interrupt
        events.interrupt_injected = 1
    events.interrupt_shadow = next(theirs for theirs, ours in _SHADOWS.items() if ours == state.shadow)
    events.nmi_injected, events.nmi_pending, events.nmi_masked = underway.nmi_injected, state.nmi_waits, state.nmi_blocked
    return events
