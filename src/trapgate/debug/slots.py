"""Fits both owners' breakpoints into the four debug registers of a real CPU, and reads the hits back (SDM vol. 3, 18.2.5)."""

from collections.abc import Sequence

from trapgate.arch.debugregs import SLOTS, covered, dr7_fields
from trapgate.debug.breakpoints import BreakpointError
from trapgate.debug.explain import breakpoint_text
from trapgate.values import dataclass
from trapgate.vcpu import Breakpoint, Kind, Owner

MAX_PIECE = 8


class SlotsError(BreakpointError):
    """Guest and debugger together ask for more than four debug registers."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One debug register: what it matches, and bit n of `serves` set when it stands for breakpoint n of the plan's list."""

    rw: int
    address: int
    length: int
    serves: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Up to four debug registers that stand for a list of breakpoints."""

    slots: tuple[Slot, ...]

    @property
    def addresses(self) -> tuple[int, int, int, int]:
        """DR0-DR3; 0 where unused."""
        a, b, c, d = (*(slot.address for slot in self.slots), *[0] * (SLOTS - len(self.slots)))
        return a, b, c, d

    @property
    def dr7(self) -> int:
        """The DR7 bits that enable the plan (global enables and fields; fixed bits are the caller's)."""
        return sum(dr7_fields(n, slot.rw, slot.length) for n, slot in enumerate(self.slots))

    def hits(self, matched: int) -> int:
        """From DR6[3:0] to bits of the list the plan was made from. A Bn of an unused register (CPUs may set it) says nothing."""
        found = 0
        for n, slot in enumerate(self.slots):
            if matched >> n & 1:
                found |= slot.serves
        return found


def pieces(address: int, length: int) -> tuple[tuple[int, int], ...]:
    """The fewest aligned (address, length) pieces of 1, 2, 4 or 8 bytes that cover exactly [address, address + length)."""
    found = []
    end = address + length
    while address < end:
        size = MAX_PIECE
        while address % size or address + size > end:
            size //= 2
        found.append((address, size))
        address += size
    return tuple(found)


def _needs(one: Breakpoint) -> tuple[tuple[int, int, int], ...]:
    """The (rw, address, length) registers that a breakpoint takes. Hardware has no read-only watch: READ becomes read or write."""
    if one.kind is Kind.EXEC:
        return ((Kind.EXEC.value, one.address, 1),)
    rw = Kind.ACCESS.value if one.kind is Kind.READ else one.kind.value
    if one.owner is Owner.GUEST:
        first, _ = covered(one.address, one.length)
        return ((rw, first, one.length),)
    return tuple((rw, at, size) for at, size in pieces(one.address, one.length))


def plan(breakpoints: Sequence[Breakpoint]) -> Plan:
    """Share four debug registers among breakpoints of both owners; equal needs share one register.

    SlotsError when they do not fit: it says how many there are and what takes them.
    """
    serves: dict[tuple[int, int, int], int] = {}
    for n, one in enumerate(breakpoints):
        for need in _needs(one):
            serves[need] = serves.get(need, 0) | 1 << n
    if len(serves) > SLOTS:
        taken = "; ".join(breakpoint_text(one) for one in breakpoints[:8])
        more = f"; and {len(breakpoints) - 8} more" if len(breakpoints) > 8 else ""
        raise SlotsError(f"{len(serves)} debug registers needed, the CPU has {SLOTS}: {taken}{more}; remove some of the debugger's")
    return Plan(tuple(Slot(*need, bits) for need, bits in serves.items()))
