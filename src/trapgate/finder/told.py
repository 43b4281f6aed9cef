"""Reads what Linux says of split locks and bus locks (arch/x86/kernel/cpu/bus_lock.c; Documentation/arch/x86/buslock.rst)."""

import re

from trapgate.values import dataclass

_LINE = re.compile(
    r"(?P<vector>#AC|#DB): (?P<name>.{1,64}?)/(?P<pid>\d{1,10}) took a (?P<kind>split_lock|bus_lock) trap at address: "
    r"0x(?P<address>[0-9a-f]{1,16})(?![0-9a-f])"
)
_ADDRESS = re.compile(r"\s*(?:0x)?(?P<address>[0-9a-f]{1,16})\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Told:
    """A bus lock that was told of. `after`: the address is not the instruction's own but that of the next, as #DB is a trap."""

    address: int
    after: bool
    name: str = ""
    pid: int = 0


def read(text: str) -> Told | None:
    """What a line of the kernel's log says, or a bare address, which is the instruction's own; None for another."""
    if (match := _LINE.search(text)) is not None:
        return Told(int(match["address"], 16), match["vector"] == "#DB", match["name"], int(match["pid"]))
    if (match := _ADDRESS.fullmatch(text)) is not None:
        return Told(int(match["address"], 16), False)
    return None
