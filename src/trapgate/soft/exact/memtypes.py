"""Lays out the memory types of this CPU, what its PAT and MTRRs say, for the page walk."""

from trapgate.arch import memtypes, msrs
from trapgate.isa.state import MTRR_RULES
from trapgate.soft.state.core import NOWHERE, SoftCore

assert MTRR_RULES >= msrs.MTRR_PAIRS
SOURCES = msrs.MTRRS | {msrs.PAT}


def refresh(cpu: SoftCore) -> None:
    """PAT or an MTRR has changed: the page walk knows, and the TLB forgets what it knew."""
    st = cpu.state
    st.pat_uncached = memtypes.pat_uncached(cpu.msrs.get(msrs.PAT, msrs.PAT_RESET))
    types = memtypes.mtrrs(cpu.msrs, cpu.model.physical_bits, cpu.ram.regions())
    st.mtrr_uncached = types.uncached
    rules = b"".join((rule.base | rule.uncached).to_bytes(8, "little") + rule.mask.to_bytes(8, "little") for rule in types.rules)
    st.mtrr_rules[: len(rules)] = rules
    st.mtrr_rules_end = len(rules)
    st.mtrr_fixed_end = 0 if types.fixed is None else memtypes.FIXED_END
    st.mtrr_end = NOWHERE if types.uncached or types.rules else st.mtrr_fixed_end
    st.mtrr_fixed[:] = (types.fixed or 0).to_bytes(32, "little")
    cpu.flush_all()
