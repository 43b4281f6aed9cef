"""States what the software CPU asks of its local APIC (`devices.lapic` is one)."""

from typing import Protocol


class LocalApic(Protocol):
    """The registers of a local APIC that the CPU itself reaches: by MSR, and CR8."""

    cr8: int

    def read_msr(self, index: int) -> int:
        """IA32_APIC_BASE, 800h-8FFh, IA32_TSC_DEADLINE; MsrError for what is not there."""
        ...

    def write_msr(self, index: int, value: int) -> None:
        """The same; MsrError for a value it refuses, too."""
        ...

    def set_tsc_offset(self, offset: int) -> None:
        """The guest changed its TSC: deadlines count by it."""
        ...
