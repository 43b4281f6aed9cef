"""What a program that imports trapgate gets: `docs/api.md` shows it at work."""

from trapgate.api.cpu import Cpu
from trapgate.api.hooks import Hook
from trapgate.api.machine import Machine, MachineError
from trapgate.arch.models import ModelError
from trapgate.arch.msrs import MsrError
from trapgate.boot import BootPlan, ImageError
from trapgate.build import Hearing
from trapgate.bus import BusConflict, Device
from trapgate.config import ClockKind, MachineConfig
from trapgate.debug.breakpoints import BreakpointError
from trapgate.debug.buslock import BusLockLog
from trapgate.debug.buslock import Mode as BusLockMode
from trapgate.errors import TrapgateError
from trapgate.exits import BusLock
from trapgate.hostcall import HostError
from trapgate.memory import Ram, RamError
from trapgate.stencil.cache import CacheError
from trapgate.stops import (
    BreakpointHit,
    BusLocked,
    CountDone,
    DeviceFault,
    ExceptionRaised,
    ExitKind,
    MachineExit,
    Paused,
    PortAccessed,
    SoftwareHit,
    StepDone,
    Stop,
)
from trapgate.vcpu import Breakpoint, EngineError, Kind

__all__ = [
    "BootPlan",
    "Breakpoint",
    "BreakpointError",
    "BreakpointHit",
    "BusConflict",
    "BusLock",
    "BusLockLog",
    "BusLockMode",
    "BusLocked",
    "CacheError",
    "ClockKind",
    "CountDone",
    "Cpu",
    "Device",
    "DeviceFault",
    "EngineError",
    "ExceptionRaised",
    "ExitKind",
    "Hearing",
    "Hook",
    "HostError",
    "ImageError",
    "Kind",
    "Machine",
    "MachineConfig",
    "MachineError",
    "MachineExit",
    "ModelError",
    "MsrError",
    "Paused",
    "PortAccessed",
    "Ram",
    "RamError",
    "SoftwareHit",
    "StepDone",
    "Stop",
    "TrapgateError",
]
