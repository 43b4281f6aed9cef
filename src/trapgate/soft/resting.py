"""Says the state of the software CPU at rest, and takes it back. Translations are no part of it, nor is what a debugger has asked.

Where a device has answered a part of an access, host code would have to be resumed amid it. A state does not name host code: its
instruction, which has changed nothing yet, starts again as a step, and what devices have answered is given to it once more.
"""

from typing import Annotated, ClassVar

from trapgate.arch import msrs, xstate
from trapgate.arch.flags import RF
from trapgate.arch.segments import ATTRIBUTES
from trapgate.cpustate import (
    CAUSES,
    CONTROL,
    GENERAL,
    REMEMBERED,
    SEGMENTS,
    TABLES,
    Between,
    CpuState,
    SegmentState,
    model_text,
    stored_msrs,
)  # fmt: skip
from trapgate.doings import Cause, Happened
from trapgate.exits import Shutdown
from trapgate.isa.state import HAPPENED, UNUSABLE
from trapgate.soft.exact import debugging, memtypes, msr
from trapgate.soft.exact.careful import get_mxcsr, set_mxcsr
from trapgate.soft.exact.segments import put_segment
from trapgate.soft.exact.traps import TRAPPING
from trapgate.soft.state.underway import HeldFault, HeldTrap, Phase, Step, Taken, ToAccumulator, ToMemory
from trapgate.soft.stepping import SteppingCpu
from trapgate.state import U8, U32, U64, Length, OneOf, Range, State, StateError, require
from trapgate.values import dataclass
from trapgate.vcpu import Owner

INSTRUCTION = 15  # bytes of the longest


@dataclass(frozen=True, slots=True)
class StepState(State):
    """A step whose instruction is through, or has faulted: `underway.Step`, without what is the debugger's."""

    start: U64
    resume_flag: bool
    shadow: Annotated[int, Range(0, 2)]
    tf: bool
    code: Annotated[bytes, Length(0, INSTRUCTION)]
    following: U64
    goes: U32 | None
    faulted: bool


@dataclass(frozen=True, slots=True)
class PortState(State):
    """IN or INS waits for its port's answer; `memory`: linear address and rights (ACCESS_*), where it goes to memory."""

    size: Annotated[int, OneOf((1, 2, 4))]
    memory: tuple[U64, U8] | None


@dataclass(frozen=True, slots=True)
class HeldState(State):
    """An exception that somebody was told of and that has not been delivered. `length`: of INT3 or INTO, else 0."""

    vector: U8
    error: U32 | None
    cr2: U64 | None
    length: Annotated[int, Range(0, INSTRUCTION)]


@dataclass(frozen=True, slots=True)
class SoftState(State):
    """What the software CPU is in the midst of.

    `executed`: instructions, with a clock that counts them. `stepping`: the next one runs as a step. `answers`: it starts again,
    and devices have answered so. `dead`: the story of a triple fault.
    """

    VERSION: ClassVar[int] = 2

    executed: U64
    halting: bool
    stepping: bool
    answers: tuple[U64, ...] | None
    step: StepState | None
    port: PortState | None
    held: HeldState | None
    delivering: bool
    dead: str | None


NOTHING = SoftState(0, False, False, None, None, None, None, False, None)
assert HAPPENED <= REMEMBERED, "more events than a state has room for"


class RestingCpu(SteppingCpu):
    """A CPU whose state can be kept."""

    underway = SoftState

    def save(self) -> CpuState:
        """Its state, between two runs: what `run` returned last has been answered, or the read is still to be."""
        st, model = self.state, self.model
        taken = self.single.taken if self.single is not None and self.phase is Phase.ACCESSING else Taken()
        shadow = (taken.shadow or st.shadow) if st.shadow_rip == st.rip else 0
        return CpuState(
            model=model_text(model),
            general=tuple(getattr(st, name) for name in GENERAL),
            rip=st.rip,
            rflags=st.get_rflags() | taken.resume_flag,
            segments=tuple(map(self._segment_state, SEGMENTS)),
            tables=(st.gdt_base, st.gdt_limit & 0xFFFF, st.idt_base, st.idt_limit & 0xFFFF),
            control=tuple(getattr(st, name) for name in CONTROL),
            cr8=self.lapic.cr8 if self.lapic is not None else st.cr8,
            debug=(st.dr0, st.dr1, st.dr2, st.dr3, st.dr6, st.dr7),
            msrs=tuple((index, msr.read_msr(self, index)) for index in sorted(stored_msrs(model))),
            area=self._area(),
            shadow=shadow,
            nmi_waits=self._nmi,
            nmi_blocked=bool(st.nmi_blocked),
            causes=st.pending_debug & CAUSES,
            hits=sum(1 << one.slot for n, one in enumerate(debugging.armed(self)) if self._hit(n) and one.owner is Owner.GUEST),
            tsc_offset=st.tsc_offset,
            history=tuple((one.vector, one.error, one.rip, one.cr2, int(one.cause)) for one in self.history),
            underway=self._underway(),
        )

    def load(self, state: CpuState) -> None:
        """Be as the one saved was, by whatever engine of this kind. StateError, and nothing is changed: it cannot be so."""
        underway = self._checked(state)
        st, before = self.state, debugging.armed(self)
        self.abandon()
        self._restarts.clear()
        for name, value in zip((*GENERAL, *TABLES, *CONTROL), (*state.general, *state.tables, *state.control), strict=True):
            setattr(st, name, value)
        st.rip, st.cr8 = state.rip, state.cr8
        st.lock_age += 1
        self.tsc_offset = state.tsc_offset
        st.set_rflags(state.rflags)
        for name, one in zip(SEGMENTS, state.segments, strict=True):
            put_segment(self, name, one.selector, one.base, one.limit, one.attributes | UNUSABLE * one.unusable)
        self._load_msrs(state.msrs)
        self._load_area(state.area)
        st.dr0, st.dr1, st.dr2, st.dr3, st.dr6, st.dr7 = state.debug
        st.shadow, st.shadow_rip = state.shadow, state.rip
        self._nmi, st.nmi_blocked = state.nmi_waits, state.nmi_blocked
        self.pending_hits = 0
        debugging.refresh(self, before)
        st.pending_debug = state.causes
        guests = (n for n, one in enumerate(self.guest_armed) if state.hits >> one.slot & 1)
        self.pending_hits = sum(1 << n for n in guests)
        self.history.clear()
        for vector, error, rip, cr2, cause in state.history:
            self.history.append(Happened(vector, error, rip, cr2, Cause(cause)))
        self._load_underway(underway)
        self.update_mode()
        st.request = 1

    def _checked(self, state: CpuState) -> SoftState:
        state.check(self.model)
        underway = NOTHING if isinstance(state.underway, Between) else state.underway
        if not isinstance(underway, SoftState):
            raise StateError(f"a CPU amid {type(underway).__name__} is another engine's")
        alone = underway.answers is None or not (underway.step or underway.held or underway.port or underway.halting)
        require(alone, "an instruction starts again, and another is not through")
        require(not (underway.halting and underway.stepping), "it halts, and is to run a step")
        held = underway.held
        require(held is None or not held.length or held.vector in TRAPPING, "only INT3 and INTO are held back with their length")
        return underway

    # --- parts of it

    def _hit(self, number: int) -> int:
        return self.pending_hits >> number & 1

    def _segment_state(self, name: str) -> SegmentState:
        st = self.state
        selector, base, limit, attributes = (getattr(st, f"{name}_{part}") for part in ("selector", "base", "limit", "attributes"))
        return SegmentState(selector, base, limit, attributes & ATTRIBUTES, bool(attributes & UNUSABLE))

    def _area(self) -> bytes:
        """x87, MXCSR and the vector registers as an XSAVE area."""
        st, mask = self.state, xstate.user_mask(self.model.has)
        area = bytearray(xstate.standard_size(mask))
        area[: xstate.XMM0] = st.fxsave[: xstate.XMM0]
        xstate.write(area, "mxcsr", get_mxcsr(self))
        area[xstate.XSTATE_BV : xstate.XSTATE_BV + 8] = mask.to_bytes(8, "little")
        for place in _vectors(mask):
            area[place.offset : place.offset + place.size] = bytes(getattr(st, place.field))
        return bytes(area)

    def _load_area(self, area: bytes) -> None:
        st, mask = self.state, xstate.user_mask(self.model.has)
        st.fxsave[: xstate.XMM0] = area[: xstate.XMM0]
        for place in _vectors(mask):
            getattr(st, place.field)[:] = area[place.offset : place.offset + place.size]
        set_mxcsr(self, xstate.read(area, "mxcsr"))

    def _load_msrs(self, values: tuple[tuple[int, int], ...]) -> None:
        st = self.state
        self.msrs.update(values)
        st.split_lock_ac = int(bool(self.msrs.get(msrs.TEST_CTRL, 0) & msrs.TEST_CTRL_SPLIT_LOCK))
        memtypes.refresh(self)

    def _underway(self) -> SoftState | Between:
        step, port, held = self.single, self.pending_read, self.held
        answers = self._again
        if self.phase is Phase.ACCESSING:
            assert step is not None and self.access is not None
            known = 0 if self.access.stores else self._answer
            answers, step = (*step.answers, *([] if known is None else [known])), None
        found = SoftState(
            executed=self.executed() if self.deterministic else 0,
            halting=self.phase is Phase.HALTING,
            stepping=self.phase is Phase.STEPPING,
            answers=answers,
            step=None if step is None else _step_state(step),
            port=None
            if port is None
            else PortState(port.size, (port.address, port.rights) if isinstance(port, ToMemory) else None),
            held=None if held is None else _held_state(held),
            delivering=bool(self.state.fault_delivering),
            dead=None if self._dead is None else self._dead.story,
        )
        return Between() if found == NOTHING else found

    def _load_underway(self, state: SoftState) -> None:
        st = self.state
        self.count_from(state.executed)
        self.phase = Phase.HALTING if state.halting else Phase.STEPPING if state.stepping else Phase.RUNNING
        self._again, self.single, self.pending_read, self.held = state.answers, None, None, None
        if (step := state.step) is not None:
            taken = Taken(RF * step.resume_flag, step.shadow)
            self.single = Step(step.start, taken, step.tf, False, step.code, step.following, step.goes, step.faulted)
        if (port := state.port) is not None:
            self.pending_read = ToMemory(port.memory[0], port.size, port.memory[1]) if port.memory else ToAccumulator(port.size)
        if (held := state.held) is not None:
            self.held = HeldTrap(held.vector, held.length) if held.length else HeldFault(held.vector, held.error, held.cr2)
        st.stepping, st.fault_delivering = int(self.single is not None), int(state.delivering)
        self._step_over, self.bus_lock = False, None
        self._dead = None if state.dead is None else Shutdown(state.dead)


def _vectors(mask: int) -> list[xstate.Place]:
    return [place for one in xstate.COMPONENTS[1:] if one.bit & mask for place in one.registers.values()]


def _step_state(step: Step) -> StepState:
    taken = step.taken
    return StepState(
        step.start, bool(taken.resume_flag), taken.shadow, step.tf, step.code, step.following, step.goes, step.faulted
    )  # fmt: skip


def _held_state(held: HeldFault | HeldTrap) -> HeldState:
    if isinstance(held, HeldTrap):
        return HeldState(held.vector, None, None, held.length)
    return HeldState(held.vector, held.error, held.cr2, 0)
