"""Declares the state of a CPU at rest: its registers as the manuals have them, and what waits; the same for every engine.

Between two runs a CPU may be amid an instruction, a step or a delivery; what an engine must know of that is a state of its own
(`CpuState.underway`), which only the same engine takes back, unless it is `Between`. Translations are no part of a state, nor is
what a debugger has asked.
"""

from typing import Annotated, ClassVar

from trapgate.arch import control, debugregs, flags, msrs, xstate
from trapgate.arch.models import MODELS, CpuModel
from trapgate.arch.paging import is_canonical
from trapgate.arch.segments import ATTRIBUTES
from trapgate.state import U8, U16, U32, U64, Bits, Length, Mask, Range, State, StateError, require
from trapgate.values import dataclass

GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr")
TABLES = ("gdt_base", "gdt_limit", "idt_base", "idt_limit")
CONTROL = ("cr0", "cr2", "cr3", "cr4", "efer", "xcr0")
CAUSES = debugregs.DR6_BD | debugregs.DR6_BS | debugregs.DR6_BT | debugregs.DR6_BLD
REMEMBERED = 64  # events
SHADOWS = 2  # by STI, by MOV SS
_DR6_FREE = debugregs.DR6_B | CAUSES
_NOT_STORAGE = {msrs.TSC, msrs.EFER, msrs.FS_BASE, msrs.GS_BASE, msrs.APIC_BASE, msrs.TSC_DEADLINE}
_CONSTANT = {msrs.Rule.READ_ONLY, msrs.Rule.IGNORED, msrs.Rule.WRITE_ONLY}


@dataclass(frozen=True, slots=True)
class SegmentState(State):
    """A segment register with its hidden part: `limit` in bytes, `attributes` as descriptor bits 40-55."""

    selector: U16
    base: U64
    limit: U32
    attributes: Annotated[int, Mask(ATTRIBUTES)]
    unusable: bool


@dataclass(frozen=True, slots=True)
class Between(State):
    """A CPU between two instructions, with nothing in flight: every engine can go on from there."""


@dataclass(frozen=True, slots=True)
class CpuState(State):
    """A CPU between two runs. Registers are in the order of GENERAL, SEGMENTS, TABLES and CONTROL.

    `debug` is DR0-DR3, DR6, DR7. `msrs` has those that are storage and nothing else, by index (`stored_msrs`). `area` is an XSAVE
    area in the standard format. `shadow` holds for the instruction at RIP. `causes` and `hits` (bits by DR number) are those of a
    #DB that waits. `tsc_offset` is the time-stamp counter at guest time 0. `history` has the last events that were delivered, as
    far as they are known: vector, error code, RIP, CR2, cause.
    """

    VERSION: ClassVar[int] = 2

    model: str
    general: Annotated[tuple[U64, ...], Length(len(GENERAL))]
    rip: U64
    rflags: Annotated[int, Mask(flags.DEFINED | flags.FIXED)]
    segments: Annotated[tuple[SegmentState, ...], Length(len(SEGMENTS))]
    tables: tuple[U64, U16, U64, U16]
    control: Annotated[tuple[U64, ...], Length(len(CONTROL))]
    cr8: Annotated[int, Bits(4)]
    debug: tuple[U64, U64, U64, U64, U32, U32]
    msrs: tuple[tuple[U32, U64], ...]
    area: bytes
    shadow: Annotated[int, Range(0, SHADOWS)]
    nmi_waits: bool
    nmi_blocked: bool
    causes: Annotated[int, Mask(CAUSES)]
    hits: Annotated[int, Bits(4)]
    tsc_offset: U64
    history: Annotated[tuple[tuple[U8, U32 | None, U64, U64 | None, Annotated[int, Range(0, 2)]], ...], Length(0, REMEMBERED)]
    underway: State

    def check(self, model: CpuModel) -> None:
        """Raise StateError where a CPU of this model cannot be so, whatever engine runs it."""
        require(self.model == model_text(model), f"the CPU is {self.model}, not {model_text(model)}")
        require(self.rflags & flags.FIXED, f"RFLAGS {self.rflags:#x}: bit 1 is 0")
        for name, one in zip(SEGMENTS, self.segments, strict=True):
            require(is_canonical(one.base), f"{name}: the base {one.base:#x} is not canonical")
        require(is_canonical(self.tables[0]) and is_canonical(self.tables[2]), "the base of GDT or IDT is not canonical")
        try:
            self._check_control(model)
        except ValueError as error:
            raise StateError(str(error)) from error
        dr6, dr7 = self.debug[4:]
        require(not (dr6 ^ debugregs.DR6_INIT) & ~_DR6_FREE, f"DR6 cannot be {dr6:#x}")
        require(debugregs.store_dr7(dr7) == dr7, f"DR7 cannot be {dr7:#x}")
        self._check_msrs(model)
        self._check_area(model)

    def _check_control(self, model: CpuModel) -> None:
        cr0, _, cr3, cr4, efer, xcr0 = self.control
        long = bool(efer & control.EFER_LME and cr0 & control.CR0_PG)
        kept = (
            control.check_cr0(cr0, cr0, cr4=cr4, efer=efer, cs_long=False) == cr0
            and control.check_cr3(cr3, cr4=cr4, efer=efer, physical_bits=model.physical_bits) == cr3
            and control.check_cr4(cr4, cr4, cr0=cr0, cr3=cr3, efer=efer, allowed=control.cr4_mask(model.has)) == cr4
            and control.check_efer(efer, efer, cr0=cr0, allowed=control.efer_mask(model.has)) == efer
            and control.check_xcr0(xcr0, xstate.user_mask(model.has)) == xcr0
        )
        require(kept, f"CR0 {cr0:#x}, CR3 {cr3:#x}, CR4 {cr4:#x}: a reserved bit is not as it must be")
        require(bool(efer & control.EFER_LMA) == long, f"EFER.LMA does not follow from LME and CR0.PG: {efer:#x}")
        require(not cr4 & control.CR4_PCIDE or long, "CR4.PCIDE outside long mode")
        require(not (long and self.rflags & flags.VM), "RFLAGS.VM in long mode")

    def _check_msrs(self, model: CpuModel) -> None:
        known = stored_msrs(model)
        require([index for index, _ in self.msrs] == sorted(known), "the MSRs are not those of the model")
        for index, value in self.msrs:
            try:
                kept = known[index].stored(value)
            except msrs.MsrError as error:
                raise StateError(str(error)) from error
            require(kept == value, f"MSR {index:#x} cannot hold {value:#x}")

    def _check_area(self, model: CpuModel) -> None:
        mask = xstate.user_mask(model.has)
        require(len(self.area) == xstate.standard_size(mask), f"an XSAVE area of {len(self.area)} bytes")
        present, compacted = (int.from_bytes(self.area[at : at + 8], "little") for at in (xstate.XSTATE_BV, xstate.XCOMP_BV))
        require(not present & ~mask and not compacted, "the header of the XSAVE area is none")
        try:
            xstate.check_mxcsr(xstate.read(self.area, "mxcsr"))
        except ValueError as error:
            raise StateError(str(error)) from error


def model_text(model: CpuModel) -> str:
    """A model with all that was switched of it, as `CpuModel.parse` reads it."""
    plain = MODELS[model.name].enabled
    switched = (*(f"-{one}" for one in sorted(plain - model.enabled)), *(f"+{one}" for one in sorted(model.enabled - plain)))
    return ",".join((model.name, *switched))


def stored_msrs(model: CpuModel) -> dict[int, msrs.Msr]:
    """The MSRs of a model, by index, that hold what was written and are no other register's name."""
    return {index: msr for index, msr in msrs.msrs_of(model).items() if index not in _NOT_STORAGE and msr.rule not in _CONSTANT}
