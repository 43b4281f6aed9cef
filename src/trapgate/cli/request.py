"""Says what the user asked of a run, option by option."""

from typing import TYPE_CHECKING

from trapgate.cli.options import BusLockChoice, DiskChoice, ShareChoice, WhereChoice
from trapgate.stops import ExitKind
from trapgate.values import dataclass

if TYPE_CHECKING:
    from trapgate.gdb.address import Address
    from trapgate.gdb.architecture import Architecture
    from trapgate.record.tape import Recorded


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for, option by option."""

    image: str
    initrd: str | None
    modules: tuple[str, ...]
    command_line: str
    memory: int
    cpus: int
    cpu: str | None
    engine: str
    gdb: "Address | None"
    wait: bool
    serial: WhereChoice
    debugcon: WhereChoice
    bus_locks: BusLockChoice
    clock: str
    profile: bool = False
    symbols: tuple[str, ...] = ()
    load_at: int | None = None
    gdb_arch: "Architecture | None" = None
    sandbox: bool = False
    """For the whole process and for good: only a command that does nothing else asks for it."""
    disks: tuple[DiskChoice, ...] = ()
    save: str | None = None
    restored: bool = False
    """Whether `image` is a file that a machine was saved to."""
    rng: bool = False
    shares: tuple[ShareChoice, ...] = ()
    record: str | None = None
    record_limit: int = 0
    replayed: "Recorded | None" = None
    """What `image` holds behind its machine, if that is to come again."""
    net: bool = False
    """Whether the guest has a network, by passt."""
    firmware: bool = False
    """Whether `image` is firmware."""
    cds: tuple[str, ...] = ()
    """Files that are discs in drives."""
    reboots: frozenset[ExitKind] = frozenset()
    """Ends behind which the guest begins again."""
