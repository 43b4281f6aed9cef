"""Tells of the last stop: in words, and as the siginfo_t that Linux has for x86-64, with what is more behind it."""

import struct
from collections.abc import Iterator

from trapgate.arch.debugregs import DR6_BD, DR6_BLD, DR6_BS, DR6_BT
from trapgate.arch.paging import ERROR_I, ERROR_P, ERROR_RSVD, ERROR_U, ERROR_W
from trapgate.arch.vectors import PF
from trapgate.gdb.events import vector_name
from trapgate.gdb.target import SIGTRAP, Stopped, Why

SIZE, OURS = 128, 64
"""Bytes of a siginfo_t, and where ours begin in it: Linux' end before."""
NO_VECTOR = 0xFFFF_FFFF
_SI_KERNEL, _MAPERR, _ACCERR, _BRKPT, _TRACE, _HWBKPT = 0x80, 1, 2, 1, 2, 4
_HEAD, _MORE = struct.Struct("<iiiiQ"), struct.Struct("<IIQQQQQQ")
_CAUSES = ((DR6_BS, "BS"), (DR6_BT, "BT"), (DR6_BD, "BD"), (DR6_BLD, "BLD"))


def raw(stop: Stopped) -> bytes:
    """The stop as 128 bytes.

    At 64: vector (4 bytes, FFFFFFFF for none), whether there is an error code (4); of 8 bytes each the error code, CR2, and of a
    #DB the causes and the numbers of breakpoints that are the debugger's, then the guest's.
    """
    one = stop.cause
    code, address = _SI_KERNEL, one.address or 0
    if one.vector == PF:
        code = _ACCERR if (one.error or 0) & ERROR_P else _MAPERR
    elif stop.signal == SIGTRAP:
        code = {Why.SOFTWARE: _BRKPT, Why.PLAIN: _TRACE}.get(stop.why, _HWBKPT)
        address = stop.address
    vector = NO_VECTOR if one.vector is None else one.vector
    more = _MORE.pack(vector, one.error is not None, one.error or 0, one.address or 0, *one.mine, *one.guests)
    head = _HEAD.pack(stop.signal, 0, code, 0, address)
    return (head.ljust(OURS, b"\0") + more).ljust(SIZE, b"\0")


def told(stop: Stopped) -> Iterator[str]:
    """The stop in words."""
    one = stop.cause
    why = {Why.SOFTWARE: "a breakpoint", Why.HARDWARE: "a hardware breakpoint"}.get(stop.why, "a watchpoint")
    if stop.text:
        yield stop.text
    elif stop.why is Why.PLAIN and one.vector is None:
        yield f"signal {stop.signal}: a step, an interruption, or the debugger has just come"
    elif stop.why is not Why.PLAIN:
        yield f"signal {stop.signal}: {why}" + (f" on {stop.address:#x}" if stop.address else "")
    if one.vector is not None:
        error = "" if one.error is None else f", error code {one.error:#x}"
        yield f"vector {one.vector} ({vector_name(one.vector)}){error}"
    if one.vector == PF and one.error is not None:
        yield f"CR2 {one.address or 0:#x}: {_page_fault(one.error)}"
    for whose, (causes, hits) in (("the debugger's", one.mine), ("the guest's", one.guests)):
        if causes or hits:
            yield f"{whose} part of the #DB: {_causes(causes, hits)}"


def _page_fault(error: int) -> str:
    """The error code of a #PF in words (SDM vol. 3, 4.7)."""
    access = "a fetch" if error & ERROR_I else "a store" if error & ERROR_W else "a load"
    who = "at CPL 3" if error & ERROR_U else "at CPL 0 to 2"
    if error & ERROR_RSVD:
        return f"{access} {who}; an entry has reserved bits set"
    return f"{access} {who}; {'the page is there, and its rights refuse it' if error & ERROR_P else 'no page is there'}"


def _causes(causes: int, hits: int) -> str:
    names = [name for bit, name in _CAUSES if causes & bit]
    names += [f"breakpoint {n}" for n in range(hits.bit_length()) if hits >> n & 1]
    return ", ".join(names)
