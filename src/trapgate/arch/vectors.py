"""Lists exceptions: name, class, error code, and when two of them make a double fault (SDM vol. 3, 6.3.1, 6.15 Table 6-5)."""

from enum import Enum

from trapgate.values import dataclass

DE, DB, NMI, BP, OF, BR, UD, NM, DF, CSO, TS, NP, SS, GP, PF = range(15)
MF, AC, MC, XM, VE, CP = range(16, 22)
HV, VC, SX = 28, 29, 30  # AMD only (APM vol. 2, 8.2)
FIRST_INTERRUPT = 32  # vectors below are the architecture's


class Class(Enum):
    """Where RIP points when the exception is delivered: the instruction, the one after it, or nowhere certain."""

    FAULT = "fault"
    TRAP = "trap"
    FAULT_OR_TRAP = "fault or trap"  # #DB: the cause decides
    ABORT = "abort"
    INTERRUPT = "interrupt"


class Severity(Enum):
    """The classes of SDM vol. 3, Table 6-4 by which nested exceptions are judged."""

    BENIGN = "benign"
    CONTRIBUTORY = "contributory"
    PAGE_FAULT = "page fault"


class Nesting(Enum):
    """What becomes of an exception that arises while another one is being delivered."""

    SERIAL = "serial"  # the second is delivered, the first is forgotten (it will arise again)
    DOUBLE_FAULT = "double fault"
    SHUTDOWN = "shutdown"  # triple fault


@dataclass(frozen=True, slots=True)
class Vector:
    """One architectural exception. `error_code`: whether an error code is pushed."""

    number: int
    mnemonic: str
    name: str
    kind: Class
    error_code: bool = False
    severity: Severity = Severity.BENIGN


VECTORS: dict[int, Vector] = {
    vector.number: vector
    for vector in (
        Vector(DE, "#DE", "divide error", Class.FAULT, severity=Severity.CONTRIBUTORY),
        Vector(DB, "#DB", "debug exception", Class.FAULT_OR_TRAP),
        Vector(NMI, "NMI", "non-maskable interrupt", Class.INTERRUPT),
        Vector(BP, "#BP", "breakpoint", Class.TRAP),
        Vector(OF, "#OF", "overflow", Class.TRAP),
        Vector(BR, "#BR", "bound range exceeded", Class.FAULT),
        Vector(UD, "#UD", "invalid opcode", Class.FAULT),
        Vector(NM, "#NM", "device not available", Class.FAULT),
        Vector(DF, "#DF", "double fault", Class.ABORT, error_code=True),
        Vector(CSO, "CSO", "coprocessor segment overrun", Class.FAULT),
        Vector(TS, "#TS", "invalid TSS", Class.FAULT, error_code=True, severity=Severity.CONTRIBUTORY),
        Vector(NP, "#NP", "segment not present", Class.FAULT, error_code=True, severity=Severity.CONTRIBUTORY),
        Vector(SS, "#SS", "stack fault", Class.FAULT, error_code=True, severity=Severity.CONTRIBUTORY),
        Vector(GP, "#GP", "general protection", Class.FAULT, error_code=True, severity=Severity.CONTRIBUTORY),
        Vector(PF, "#PF", "page fault", Class.FAULT, error_code=True, severity=Severity.PAGE_FAULT),
        Vector(MF, "#MF", "x87 floating-point error", Class.FAULT),
        Vector(AC, "#AC", "alignment check", Class.FAULT, error_code=True),
        Vector(MC, "#MC", "machine check", Class.ABORT),
        Vector(XM, "#XM", "SIMD floating-point exception", Class.FAULT),
        Vector(VE, "#VE", "virtualization exception", Class.FAULT, severity=Severity.PAGE_FAULT),
        Vector(CP, "#CP", "control protection", Class.FAULT, error_code=True, severity=Severity.CONTRIBUTORY),
        Vector(HV, "#HV", "hypervisor injection", Class.INTERRUPT),
        Vector(VC, "#VC", "VMM communication", Class.FAULT, error_code=True, severity=Severity.CONTRIBUTORY),
        Vector(SX, "#SX", "security exception", Class.FAULT, error_code=True),
    )
}


def name_of(number: int) -> str:
    """How people write a vector: "#GP", "NMI" or "vector 0x20"."""
    vector = VECTORS.get(number)
    return vector.mnemonic if vector else f"vector {number:#x}"


def has_error_code(number: int) -> bool:
    """Whether the CPU pushes an error code for this exception (never for INT n or external interrupts, whatever the number)."""
    vector = VECTORS.get(number)
    return vector is not None and vector.error_code


def severity(number: int) -> Severity:
    """The class of a vector for the double-fault rule; everything not listed is benign."""
    vector = VECTORS.get(number)
    return vector.severity if vector else Severity.BENIGN


def nested(first: int, second: int) -> Nesting:
    """What to do when exception `second` arises while `first` is being delivered (SDM vol. 3, 6.15, Table 6-5).

    While #DF is being delivered, a benign exception is served serially; a contributory one or a page fault shuts the CPU down.
    """
    second_class = severity(second)
    if first == DF:
        return Nesting.SERIAL if second_class is Severity.BENIGN else Nesting.SHUTDOWN
    first_class = severity(first)
    if first_class is Severity.CONTRIBUTORY and second_class is Severity.CONTRIBUTORY:
        return Nesting.DOUBLE_FAULT
    if first_class is Severity.PAGE_FAULT and second_class is not Severity.BENIGN:
        return Nesting.DOUBLE_FAULT
    return Nesting.SERIAL
