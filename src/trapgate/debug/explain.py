"""Puts debug exceptions into words: names of causes for tables, logs and stop messages."""

from trapgate.arch.debugregs import DR6_BD, DR6_BLD, DR6_BS, DR6_BT, DR6_RTM
from trapgate.exits import DebugException
from trapgate.vcpu import Breakpoint, Kind, Owner

NAMES = ((DR6_BLD, "BLD"), (DR6_BD, "BD"), (DR6_BS, "BS"), (DR6_BT, "BT"), (DR6_RTM, "RTM"))
MEANINGS = {
    DR6_BLD: "bus lock",
    DR6_BD: "debug register access",
    DR6_BS: "single step",
    DR6_BT: "task switch",
    DR6_RTM: "transaction",
}
KINDS = {Kind.EXEC: "execution", Kind.WRITE: "write", Kind.IO: "I/O", Kind.ACCESS: "access", Kind.READ: "read"}


def causes(bits: int, hits: int = 0, icebp: bool = False) -> str:
    """The causes by the manual's names, lowest bit first: "B0|BLD|BS", "ICEBP", or "none". `bits` and `hits` are active high."""
    names = [f"B{n}" for n in range(hits.bit_length()) if hits >> n & 1]
    names += [name for bit, name in NAMES if bits & bit]
    if icebp:
        names.append("ICEBP")
    return "|".join(names) or "none"


def event(one: DebugException) -> str:
    """A whole debug exception: "BLD|BS, trap"."""
    return f"{causes(one.causes, one.hits, one.icebp)}, {'fault' if one.fault else 'trap'}"


def meaning(bits: int, icebp: bool = False) -> str:
    """The causes in plain words: "bus lock and single step"."""
    words = [text for bit, text in MEANINGS.items() if bits & bit]
    if icebp:
        words.append("INT1 instruction")
    return " and ".join(words) or "no cause"


def breakpoint_text(one: Breakpoint) -> str:
    """A breakpoint: "guest DR2: write of 4 bytes at 0x1000"."""
    who = f"guest DR{one.slot}" if one.owner is Owner.GUEST else f"debugger #{one.slot}"
    what = "execution" if one.kind is Kind.EXEC else f"{KINDS[one.kind]} of {one.length} byte{'s' * (one.length != 1)}"
    return f"{who}: {what} at {one.address:#x}"
