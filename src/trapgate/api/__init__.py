"""Offers what a program that imports trapgate gets: `docs/api.md` shows it at work."""

from trapgate.api.cpu import Cpu
from trapgate.api.execute import Executed, execute
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
from trapgate.devices.parts import Part, Wiring
from trapgate.devices.virtio.blk import virtio_blk
from trapgate.devices.virtio.console import ConsolePort, virtio_console
from trapgate.devices.virtio.fs import virtio_fs
from trapgate.devices.virtio.net import NetworkPort, virtio_net
from trapgate.devices.virtio.rng import virtio_rng
from trapgate.devices.virtio.scsi import virtio_cd
from trapgate.disk import Disk, DiskError
from trapgate.errors import TrapgateError
from trapgate.exec.errors import ExecError, GuestFailed
from trapgate.exits import BusLock
from trapgate.fuse.share import Share, ShareError
from trapgate.hostcall import HostError
from trapgate.memory import Ram, RamError
from trapgate.passt import NetworkError, Passt
from trapgate.snapshot import SnapshotError
from trapgate.snapshot import config_of as saved_config
from trapgate.state import Length, Range, State, StateError
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
    "ConsolePort",
    "CountDone",
    "Cpu",
    "Device",
    "DeviceFault",
    "Disk",
    "DiskError",
    "EngineError",
    "ExceptionRaised",
    "ExecError",
    "Executed",
    "ExitKind",
    "GuestFailed",
    "Hearing",
    "Hook",
    "HostError",
    "ImageError",
    "Kind",
    "Length",
    "Machine",
    "MachineConfig",
    "MachineError",
    "MachineExit",
    "ModelError",
    "MsrError",
    "NetworkError",
    "NetworkPort",
    "Part",
    "Passt",
    "Paused",
    "PortAccessed",
    "Ram",
    "RamError",
    "Range",
    "Share",
    "ShareError",
    "SnapshotError",
    "SoftwareHit",
    "State",
    "StateError",
    "StepDone",
    "Stop",
    "TrapgateError",
    "Wiring",
    "execute",
    "saved_config",
    "virtio_blk",
    "virtio_cd",
    "virtio_console",
    "virtio_fs",
    "virtio_net",
    "virtio_rng",
]
