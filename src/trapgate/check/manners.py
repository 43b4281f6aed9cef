"""Says what the debugger has armed while the guest runs one of its cases."""

from collections.abc import Callable

from trapgate.check.guest import Case, DemoGuest
from trapgate.gdb.target import BreakKind
from trapgate.values import dataclass


@dataclass(frozen=True, slots=True)
class Arm:
    """A breakpoint of the debugger's. `stops_at`: where the guest must be when it is hit, once; None: it is in nobody's way."""

    kind: BreakKind
    address: int
    length: int = 1
    stops_at: int | None = None


Arms = Callable[[DemoGuest, Case], list[Arm] | None]


@dataclass(frozen=True, slots=True)
class Manner:
    """One of the debugger's ways. `arms` gives None for a case that it has nothing for."""

    name: str
    title: str
    arms: Arms
    steps: bool = False


WATCHED = {  # case: the debugger's watchpoint on what the guest watches too; (kind, offset from `line`)
    "data write": (BreakKind.WRITE, 0),
    "data access": (BreakKind.ACCESS, 4),
    "bus lock + data": (BreakKind.WRITE, 60),
}


def _nothing(guest: DemoGuest, case: Case) -> list[Arm]:
    return []


def _elsewhere(kind: BreakKind, symbol: str, length: int) -> Arms:
    return lambda guest, case: [Arm(kind, guest.symbols[symbol], length)]


def _there(kind: BreakKind) -> Arms:
    return lambda guest, case: [Arm(kind, case.at, 1, case.at)]


def _on_its_data(guest: DemoGuest, case: Case) -> list[Arm] | None:
    if case.name not in WATCHED:
        return None
    kind, offset = WATCHED[case.name]
    return [Arm(kind, guest.symbols["line"] + offset, 4, case.expected[0].rip)]


MANNERS = (
    Manner("nothing", "nothing armed", _nothing),
    Manner("break", "break elsewhere", _elsewhere(BreakKind.SOFTWARE, "elsewhere", 1)),
    Manner("hbreak", "hbreak elsewhere", _elsewhere(BreakKind.HARDWARE, "elsewhere", 1)),
    Manner("watch", "watch elsewhere", _elsewhere(BreakKind.WRITE, "untouched", 8)),
    Manner("break-there", "break there", _there(BreakKind.SOFTWARE)),
    Manner("hbreak-there", "hbreak there", _there(BreakKind.HARDWARE)),
    Manner("watch-there", "watch there", _on_its_data),
    Manner("steps", "steps", _nothing, steps=True),
)
BY_NAME = {one.name: one for one in MANNERS}
