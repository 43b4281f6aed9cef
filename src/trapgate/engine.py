"""States the protocol of what makes vCPUs: all that a machine and its owner ask of an engine beyond the vCPU itself."""

from collections.abc import Callable
from typing import Protocol

from trapgate.arch.models import CpuModel
from trapgate.clock import Clock
from trapgate.devices.interrupts import Interrupts
from trapgate.devices.lapic import LocalApic
from trapgate.devices.pit import Pit
from trapgate.memory import Ram
from trapgate.values import dataclass
from trapgate.vcpu import Devices, Vcpu


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a vCPU is put into. It forwards CR8, IA32_APIC_BASE, x2APIC MSRs and IA32_TSC_DEADLINE to `lapic`, its own."""

    ram: Ram
    model: CpuModel
    clock: Clock
    lapic: LocalApic
    interrupts: Interrupts
    pit: Pit
    devices: Devices
    """Who answers accesses amid a run of the vCPU, where the engine can ask."""
    counting: bool
    """Whether the clock counts instructions: then `Vcpu.executed` and `budget` must work."""
    bus_locks: bool
    """Whether `Vcpu.run` is to return every bus lock."""
    report: Callable[[str], None]
    """Takes a line for the user, amid a run."""
    failed: Callable[[BaseException], None]
    """Takes what a thread of the engine failed with."""


class Engine(Protocol):
    """Makes the vCPU of one machine, each time it is switched on."""

    most_cpus: int
    """How many vCPUs of one machine it can run."""

    breaks_anywhere: bool
    """Whether a software breakpoint may be on any byte of code, and not on the first of an instruction only."""

    has_room: bool
    """Whether it holds any number of hardware breakpoints: then arming never fails, and can wait until the guest runs."""

    def make(self, around: Surroundings) -> Vcpu:
        """A vCPU in its reset state; the one made before is closed already. EngineError or HostError when it cannot be had."""
        ...

    def catch_crashes(self, terminal: bytes | None) -> None:
        """Turn a crash amid translated code into an exception; for programs that run one machine, as signals are the process's.

        `terminal` is what standard input is left with by a process that cannot go on (ioctl TCGETS); None: as it is.
        """
        ...

    def keep(self) -> None:
        """Write to disk what makes later runs faster: before the vCPU is closed."""
        ...
