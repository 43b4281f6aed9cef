"""Writes CR0, CR3 and CR4 where that is plain: what decides how pages and segments are read stays as it is (SDM vol. 2, MOV CR).

Python's (`exact.control`): PE, PG, PAE, PCIDE or LA57 change, PDPTEs have to be checked, the value is refused, or somebody wants
to hear of it.
"""

from collections.abc import Callable

from trapgate.arch import control as cr
from trapgate.isa import state as s
from trapgate.isa.native.flows import complete, decline
from trapgate.isa.native.mode import has
from trapgate.isa.vocabulary import Trace, Value

CR0_PYTHON = cr.CR0_PE | cr.CR0_PG
CR4_PYTHON = cr.CR4_PAE | cr.CR4_PCIDE | cr.CR4_LA57
CR4_PDPTES = cr.CR4_PGE | cr.CR4_PSE | cr.CR4_SMEP  # a change loads the PDPTEs of PAE paging anew


def _pae(m: Trace) -> Value:
    """1-bit: PAE paging, outside long mode."""
    return has(m.get("cr0", 64), cr.CR0_PG) & has(m.get("cr4", 64), cr.CR4_PAE) & ~has(m.get("efer", 64), cr.EFER_LMA)


def _told(m: Trace, what: int) -> Value:
    """1-bit: somebody wants to hear of it."""
    return has(m.get("told", 32), what)


def write_cr0(m: Trace) -> None:
    """MOV CR0, T0; CLTS and LMSW, which have worked out T0."""
    old, new = m.get("cr0", 64), m["T0"]
    refused = ((new >> 32) != 0) | (has(new, cr.CR0_NW) & ~has(new, cr.CR0_CD))
    with m.when(refused | has(old ^ new, CR0_PYTHON) | _told(m, s.TOLD_CR0), likely=False):
        decline(m)
    stored = new & cr.CR0_DEFINED | cr.CR0_ET
    m.put("cr0", stored)
    _changed(m, has(old ^ stored, cr.CR0_FLUSHES))


def write_cr3(m: Trace) -> None:
    """MOV CR3, T0. Translations carry no PCID: all that are not global go, where there are any."""
    long = has(m.get("efer", 64), cr.EFER_LMA)
    with m.when(_told(m, s.TOLD_CR3) | _pae(m) | (long & ((m["T0"] & ~m.get("physical_mask", 64)) != 0)), likely=False):
        decline(m)
    m.put("cr3", m["T0"])
    m.put("lock_age", m.get("lock_age", 64) + 1)
    with m.when(has(m.get("cr0", 64), cr.CR0_PG)):
        m.call("flush", 0, m.const(1, 64))
    complete(m)


def write_cr4(m: Trace) -> None:
    """MOV CR4, T0."""
    old, new = m.get("cr4", 64), m["T0"]
    changed = old ^ new
    refused = (new & ~m.get("cr4_allowed", 64)) != 0
    with m.when(_told(m, s.TOLD_CR4) | refused | has(changed, CR4_PYTHON) | (_pae(m) & has(changed, CR4_PDPTES)), likely=False):
        decline(m)
    m.put("cr4", new)
    _changed(m, has(changed, cr.CR4_FLUSHES))


def _changed(m: Trace, flushes: Value) -> None:
    """Behind a change of CR0 or CR4: the mode word follows, and translations where the change says so."""
    with m.when(flushes, likely=False):
        m.call("flush", 0, m.const(0, 64))
    m.call("update_mode", 0)
    complete(m)


FLOWS: dict[str, Callable[[Trace], None]] = {"write_cr0": write_cr0, "write_cr3": write_cr3, "write_cr4": write_cr4}
