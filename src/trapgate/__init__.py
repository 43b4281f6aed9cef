"""trapgate is a virtual machine monitor for x86-64, made for debugging guests.

>>> from trapgate import Machine
>>> with Machine() as machine:
...     _ = machine.load_code(bytes.fromhex("b82a000000"))  # mov eax, 42
...     _ = machine.run(until=0x1005)
...     machine.cpu["rax"]
42

`docs/api.md` has more. What is not named here is the inside: it changes without notice.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"  # the one place: the packages' metadata take it from here

if TYPE_CHECKING:  # at run time a name is loaded when it is asked for: every room is imported through here
    from trapgate.api import *

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


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name in __all__:
            return getattr(import_module("trapgate.api"), name)
        raise AttributeError(f"module 'trapgate' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted((*globals(), *__all__))
