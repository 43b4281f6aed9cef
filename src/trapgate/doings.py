"""Names what a guest does that somebody may want to be told of (`Vcpu.tell_of`), and what was delivered to it last."""

from enum import Enum, IntEnum

from trapgate.arch import vectors
from trapgate.arch.control import CR0_PE, EFER_LMA
from trapgate.values import dataclass

CONTROL = ("cr0", "cr3", "cr4", "cr8", "xcr0")
"""Control registers whose writes can be told of."""
SYSTEM_CALL = 0x80
"""The vector of INT n that counts as a system call."""


class CpuMode(Enum):
    """What a CPU runs: by CR0.PE and EFER.LMA."""

    REAL = "real"
    PROTECTED = "protected"
    LONG = "long"

    @classmethod
    def of(cls, cr0: int, efer: int) -> "CpuMode":
        """The mode that these mean."""
        if not cr0 & CR0_PE:
            return cls.REAL
        return cls.LONG if efer & EFER_LMA else cls.PROTECTED


@dataclass(frozen=True, slots=True)
class ControlWritten:
    """A control register was written."""

    register: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class ModeSwitched:
    """The CPU runs in another mode; CS is what it was, until a far jump."""

    before: CpuMode
    after: CpuMode


@dataclass(frozen=True, slots=True)
class MsrAccessed:
    """RDMSR or WRMSR was executed."""

    index: int
    value: int
    write: bool


@dataclass(frozen=True, slots=True)
class SystemCalled:
    """SYSCALL, SYSENTER or INT 80h was executed: the CPU is on the kernel's first instruction. `rip`: of the instruction."""

    number: int
    rip: int


@dataclass(frozen=True, slots=True)
class BreakpointMet:
    """INT3 was executed, and the guest gets no #BP: RIP is behind it."""

    rip: int


Doing = ControlWritten | ModeSwitched | MsrAccessed | SystemCalled | BreakpointMet


@dataclass(frozen=True, slots=True)
class Interest:
    """What is to be told of. `msrs`: all indices, or these; `breakpoints`: INT3, which the guest then does not get."""

    registers: frozenset[str] = frozenset()
    modes: bool = False
    msrs: frozenset[int] = frozenset()
    every_msr: bool = False
    calls: bool = False
    breakpoints: bool = False
    bus_locks: bool = False
    """Bus locks are returned by `run`, as all that an engine reports."""

    def of_msr(self, index: int) -> bool:
        """Whether an access to this MSR is told of."""
        return self.every_msr or index in self.msrs


class Cause(IntEnum):
    """What made a delivery: an exception, an interrupt from outside, or INT n."""

    EXCEPTION = 0
    INTERRUPT = 1
    SOFTWARE = 2


@dataclass(frozen=True, slots=True)
class Happened:
    """An event that was delivered, or that could not be. `rip`: where the guest was; `cr2` only for #PF."""

    vector: int
    error: int | None
    rip: int
    cr2: int | None
    cause: Cause = Cause.EXCEPTION

    def __str__(self) -> str:
        error = "" if self.error is None else f"({self.error:#x})"
        where = "" if self.cr2 is None else f", CR2 {self.cr2:#x}"
        return f"{self.name}{error} at RIP {self.rip:#x}{where}"

    @property
    def name(self) -> str:
        """`exception #GP`, `interrupt 0x20`, `INT 0x80`; INT3 and INTO are the exceptions that they raise."""
        if self.cause is Cause.SOFTWARE and self.vector not in (vectors.BP, vectors.OF):
            return f"INT {self.vector:#x}"
        if self.cause is Cause.INTERRUPT:
            return "NMI" if self.vector == vectors.NMI else f"interrupt {self.vector:#x}"
        return f"exception {vectors.name_of(self.vector)}"
