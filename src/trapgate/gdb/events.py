"""Names what a debugger may have the guest stopped on besides breakpoints: exceptions, ports, and all that `doings` lists."""

from trapgate.arch import msrs
from trapgate.arch.paging import ADDRESS_4K
from trapgate.arch.vectors import AC, BP, BR, DB, DE, MF, OF, SS, UD, VECTORS, XM
from trapgate.doings import BreakpointMet, ControlWritten, Doing, Interest, ModeSwitched, MsrAccessed, SystemCalled
from trapgate.stops import ExceptionRaised, PortAccessed
from trapgate.values import dataclass

MOST_PORTS = 64
"""Ranges of ports that are watched at once."""
MOST_NAMED = 256
"""MSRs, system calls or address spaces that are named at once."""

_SIGILL, _SIGTRAP, _SIGBUS, _SIGFPE, _SIGSEGV = 4, 5, 7, 8, 11
_SIGNALS = {DE: _SIGFPE, MF: _SIGFPE, XM: _SIGFPE, OF: _SIGSEGV, BR: _SIGSEGV, UD: _SIGILL, DB: _SIGTRAP, BP: _SIGTRAP,
            AC: _SIGBUS, SS: _SIGBUS}  # fmt: skip
MSRS: dict[str, int] = {
    name.lower(): getattr(msrs, name)
    for name in (
        *("TSC", "APIC_BASE", "TEST_CTRL", "SYSENTER_CS", "SYSENTER_ESP", "SYSENTER_EIP", "MISC_ENABLE", "DEBUGCTL", "PAT"),
        *("EFER", "STAR", "LSTAR", "CSTAR", "SFMASK", "FS_BASE", "GS_BASE", "KERNEL_GS_BASE", "TSC_AUX"),
    )
}
"""MSRs that have a name here."""


@dataclass(frozen=True, slots=True)
class Events:
    """What stops the guest: before exceptions of these vectors are delivered, and behind all else.

    Where `msrs`, `calls` or `spaces` is None nobody asks, and where it is empty any of them stops. `spaces`: of CR3.
    """

    vectors: frozenset[int] = frozenset()
    ports: tuple[range, ...] = ()
    registers: frozenset[str] = frozenset()
    modes: bool = False
    msrs: frozenset[int] | None = None
    calls: frozenset[int] | None = None
    spaces: frozenset[int] | None = None
    bus_locks: bool = False
    breakpoints: bool = False
    """The guest's INT3 is the debugger's, and the guest does not get it."""

    @property
    def interest(self) -> Interest:
        """What the CPU has to tell of for it."""
        return Interest(
            registers=self.registers | ({"cr3"} if self.spaces is not None else set()),
            modes=self.modes,
            msrs=self.msrs or frozenset(),
            every_msr=self.msrs == frozenset(),
            calls=self.calls is not None,
            breakpoints=self.breakpoints,
            bus_locks=self.bus_locks,
        )

    def wants(self, doing: Doing) -> bool:
        """Whether it stops at this."""
        match doing:
            case ControlWritten(register="cr3") if "cr3" not in self.registers:
                space = doing.after & ADDRESS_4K
                return space != doing.before & ADDRESS_4K and (not self.spaces or space in self.spaces)
            case SystemCalled(number=number):
                return not self.calls or number & 0xFFFF_FFFF in self.calls
        return True


def vector_name(vector: int) -> str:
    """`#PF`, as the manuals have it; the number of one without a name."""
    known = VECTORS.get(vector)
    return f"vector {vector}" if known is None else known.mnemonic


def msr_name(index: int) -> str:
    """`MSR c0000082 (LSTAR)`."""
    name = next((name.upper() for name, number in MSRS.items() if number == index), "")
    return f"MSR {index:x}" + (f" ({name})" if name else "")


def signal_of(vector: int) -> int:
    """What Linux sends a program for an exception that nobody handles: SIGSEGV for all that have none of their own."""
    return _SIGNALS.get(vector, _SIGSEGV)


def words(stop: ExceptionRaised | PortAccessed | Doing) -> str:
    """Such a stop as a line for the user."""
    match stop:
        case PortAccessed():
            way = f"OUT {stop.value:#x} to" if stop.write else f"IN {stop.value:#x} from"
            return f"{way} port {stop.port:#x}, {8 * stop.size} bits, is done"
        case ControlWritten():
            return f"{stop.register.upper()} is written: {stop.before:#x} became {stop.after:#x}"
        case ModeSwitched():
            return f"the CPU has left {stop.before.value} mode for {stop.after.value} mode; CS is the old one until a far jump"
        case MsrAccessed():
            return f"{'WRMSR' if stop.write else 'RDMSR'} of {msr_name(stop.index)} is done: {stop.value:#x}"
        case SystemCalled():
            return f"system call {stop.number:#x}, made at {stop.rip:#x}: the CPU is at its entry"
        case BreakpointMet():
            return f"INT3 at {stop.rip:#x} is the debugger's: the guest does not get it"
    error = "" if stop.error is None else f", error code {stop.error:#x}"
    address = "" if stop.address is None else f", at {stop.address:#x}"
    known = VECTORS.get(stop.vector)
    meaning = "" if known is None else f" ({known.name})"
    return f"{vector_name(stop.vector)}{meaning}{error}{address}: the guest gets it when it goes on"


def listed(now: Events) -> list[str]:
    """What stops the guest, a line each."""
    lines = []
    if now.vectors:
        every = "every exception" if len(now.vectors) == 32 else " ".join(map(vector_name, sorted(now.vectors)))
        lines.append(f"stops before the delivery of: {every}")
    for ports in now.ports:
        lines.append(f"stops after an access to: port {ports.start:x}" + (f" to {ports.stop - 1:x}" if len(ports) > 1 else ""))
    if now.modes:
        lines.append("stops after a switch between real, protected and long mode")
    if now.registers:
        lines.append(f"stops after a change of: {' '.join(sorted(now.registers)).upper()}")
    for what, named, each, any_one in (
        ("an access to", now.msrs, msr_name, "any MSR"),
        ("system call", now.calls, "{:x}".format, "of any number"),
        ("a switch to the address space", now.spaces, "{:x}".format, "of any other process"),
    ):
        if named is not None:
            lines.append(f"stops after {what} " + (", ".join(map(each, sorted(named))) or any_one))
    if now.bus_locks:
        lines.append("stops after a bus lock")
    if now.breakpoints:
        lines.append("stops after INT3, which the guest does not get")
    return lines or ["stops on breakpoints alone"]
