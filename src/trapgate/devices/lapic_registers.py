"""Names the local APIC's registers by x2APIC index, their bits, and what they may hold (SDM vol. 3, ch. 11)."""

from typing import Annotated

from trapgate.devices.lapic_timer import ApicTimerState
from trapgate.state import U8, Bits, Mask, State
from trapgate.values import dataclass

APIC_BASE, TSC_DEADLINE, X2_FIRST, X2_LAST = 0x1B, 0x6E0, 0x800, 0x8FF  # MSRs
BSP, X2, ENABLE = 1 << 8, 1 << 10, 1 << 11  # IA32_APIC_BASE
ID, VERSION, TPR, APR, PPR, EOI, RRD, LDR, DFR, SVR = 0x02, 0x03, 0x08, 0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x0E, 0x0F
ISR, TMR, IRR, ESR, ICR, ICR_HIGH = 0x10, 0x18, 0x20, 0x28, 0x30, 0x31
LVT_TIMER, LVT_THERMAL, LVT_PMC, LVT_LINT0, LVT_LINT1, LVT_ERROR = range(0x32, 0x38)
TIMER_INITIAL, TIMER_CURRENT, TIMER_DIVIDE, SELF_IPI = 0x38, 0x39, 0x3E, 0x3F
INTEL_VERSION, AMD_VERSION = 0x14, 0x10  # SDM vol. 3, 11.4.8; APM vol. 2, 16.3.4
MAX_LVT = 5 << 16  # of the version register: six LVT entries
SOFTWARE_ENABLE = 1 << 8  # SVR
MASKED = 1 << 16  # LVT
LVT_WRITABLE = {
    LVT_TIMER: 0x7_00FF, LVT_THERMAL: 0x1_07FF, LVT_PMC: 0x1_07FF, LVT_LINT0: 0x1_A7FF, LVT_LINT1: 0x1_A7FF, LVT_ERROR: 0x1_00FF
}  # fmt: skip
ICR_WRITABLE = 0x000C_CFFF
ICR_LEVEL_ASSERT, ICR_TRIGGER_LEVEL, ICR_LOGICAL = 1 << 14, 1 << 15, 1 << 11
SEND_ILLEGAL, RECEIVE_ILLEGAL, ILLEGAL_REGISTER = 1 << 5, 1 << 6, 1 << 7  # ESR
X2_ONLY_READ = {ID, VERSION, PPR, LDR, *range(ISR, ISR + 8), *range(TMR, TMR + 8), *range(IRR, IRR + 8), TIMER_CURRENT}
X2_ONLY_WRITE = {EOI, SELF_IPI}
X2_BOTH = {TPR, SVR, ESR, ICR, *LVT_WRITABLE, TIMER_INITIAL, TIMER_DIVIDE}
ERRORS = SEND_ILLEGAL | RECEIVE_ILLEGAL | ILLEGAL_REGISTER
ICR_X2_LEGAL = 0xFFFF_FFFF << 32 | ICR_WRITABLE
LDR_WRITABLE = 0xFF << 24
ALL_VECTORS = (1 << 256) - (1 << 16)  # of ISR, TMR and IRR: 0 to 15 are no interrupts


def x2_legal(register: int) -> int:
    """The bits that a write of a register by MSR may set."""
    special = {
        ICR: ICR_X2_LEGAL, TPR: 0xFF, SVR: 0x1FF, EOI: 0, ESR: 0, SELF_IPI: 0xFF,
        TIMER_DIVIDE: 0b1011, TIMER_INITIAL: 0xFFFF_FFFF,
    }  # fmt: skip
    if register in special:
        return special[register]
    return LVT_WRITABLE[register] | 1 << 12  # the delivery status is ignored, not reserved


@dataclass(frozen=True, slots=True)
class LocalApicState(State):
    """All registers. ISR, TMR and IRR are 256 bits each; `lvt` is in the order of the entries' indices.

    `errors` are those that the next write of ESR shows; `destination_format` is DFR[31:28].
    """

    base: Annotated[int, Bits(52)]
    isr: Annotated[int, Mask(ALL_VECTORS)]
    tmr: Annotated[int, Mask(ALL_VECTORS)]
    irr: Annotated[int, Mask(ALL_VECTORS)]
    tpr: U8
    ldr: Annotated[int, Mask(LDR_WRITABLE)]
    destination_format: Annotated[int, Bits(4)]
    svr: Annotated[int, Bits(9)]
    esr: Annotated[int, Mask(ERRORS)]
    errors: Annotated[int, Mask(ERRORS)]
    icr: Annotated[int, Mask(ICR_X2_LEGAL)]
    lvt: tuple[
        Annotated[int, Mask(LVT_WRITABLE[LVT_TIMER])],
        Annotated[int, Mask(LVT_WRITABLE[LVT_THERMAL])],
        Annotated[int, Mask(LVT_WRITABLE[LVT_PMC])],
        Annotated[int, Mask(LVT_WRITABLE[LVT_LINT0])],
        Annotated[int, Mask(LVT_WRITABLE[LVT_LINT1])],
        Annotated[int, Mask(LVT_WRITABLE[LVT_ERROR])],
    ]
    xapic_id: U8
    lint1_level: bool
    timer: ApicTimerState
