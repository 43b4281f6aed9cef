"""Says what a machine is made of, in its owner's words."""

from collections.abc import Callable
from enum import Enum

from trapgate.arch.models import DEFAULT_MODEL
from trapgate.debug.buslock import EVERY_LEVEL, Mode
from trapgate.devices.parts import Maker
from trapgate.values import dataclass


def _discard(anything: object) -> None:
    pass


class ClockKind(Enum):
    """What guest time follows."""

    HOST = "host"
    INSTRUCTIONS = "instructions"  # runs repeat exactly


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """What a machine is made of. `memory` in bytes; `cpus`: how many, 1 to 64.

    `wall_start` in ns since 1970 (None: the host's time, or a fixed date).
    """

    memory: int = 512 << 20
    cpus: int = 1
    cpu: str = DEFAULT_MODEL  # a name, with +feature and -feature
    clock: ClockKind = ClockKind.HOST
    wall_start: int | None = None
    serial: Callable[[bytes], None] = _discard  # what the guest sends through COM1
    debugcon: Callable[[bytes], None] = _discard  # what it writes to port E9h
    devices: tuple[Maker, ...] = ()  # more parts than every board has
    bus_locks: Mode = Mode.OFF
    bus_lock_levels: tuple[int, ...] = EVERY_LEVEL  # CPLs
    bus_lock_limit: int = 0  # how many a second, in mode LIMIT
    report: Callable[[str], None] = _discard  # a line for the user
    stop_when_dead: bool = True  # HLT with interrupts disabled ends the run: nothing can wake the guest
