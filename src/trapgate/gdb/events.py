"""Names what a debugger may have the guest stopped on besides breakpoints: exceptions before their delivery, accesses to ports."""

from trapgate.arch.vectors import AC, BP, BR, DB, DE, MF, OF, SS, UD, VECTORS, XM
from trapgate.stops import ExceptionRaised, PortAccessed
from trapgate.values import dataclass

MOST_PORTS = 64
"""Ranges of ports that are watched at once."""

_SIGILL, _SIGTRAP, _SIGBUS, _SIGFPE, _SIGSEGV = 4, 5, 7, 8, 11
_SIGNALS = {DE: _SIGFPE, MF: _SIGFPE, XM: _SIGFPE, OF: _SIGSEGV, BR: _SIGSEGV, UD: _SIGILL, DB: _SIGTRAP, BP: _SIGTRAP,
            AC: _SIGBUS, SS: _SIGBUS}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Events:
    """Vectors of exceptions, and ranges of ports: the guest stops before the one is delivered and after the other is accessed."""

    vectors: frozenset[int] = frozenset()
    ports: tuple[range, ...] = ()


def vector_name(vector: int) -> str:
    """`#PF`, as the manuals have it; the number of one without a name."""
    known = VECTORS.get(vector)
    return f"vector {vector}" if known is None else known.mnemonic


def signal_of(vector: int) -> int:
    """What Linux sends a program for an exception that nobody handles: SIGSEGV for all that have none of their own."""
    return _SIGNALS.get(vector, _SIGSEGV)


def words(stop: ExceptionRaised | PortAccessed) -> str:
    """Such a stop as a line for the user."""
    if isinstance(stop, PortAccessed):
        way = f"OUT {stop.value:#x} to" if stop.write else f"IN {stop.value:#x} from"
        return f"{way} port {stop.port:#x}, {8 * stop.size} bits, is done"
    error = "" if stop.error is None else f", error code {stop.error:#x}"
    address = "" if stop.address is None else f", at {stop.address:#x}"
    known = VECTORS.get(stop.vector)
    meaning = "" if known is None else f" ({known.name})"
    return f"{vector_name(stop.vector)}{meaning}{error}{address}: the guest gets it when it goes on"
