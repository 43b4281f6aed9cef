"""Tells memory types to the page walk: is a page write-back, or do locks on it lock the bus? `arch.memtypes` says what it means."""

from trapgate.isa.vocabulary import Trace, Value


def pat_uncached(m: Trace, entry: Value, smallest: Value) -> Value:
    """1-bit: the PAT makes the page of this entry anything but write-back; `smallest`: of 4 KiB, where PAT is bit 7 and not 12."""
    number = ((entry >> 3) & 3) | ((smallest.select(entry >> 7, entry >> 12) & 1) << 2)
    return (m.get("pat_uncached", 64) >> number).bit(0)


def mtrr_uncached(m: Trace, physical: Value) -> Value:
    """1-bit: the MTRRs make this RAM anything but write-back. What firmware leaves costs one comparison: nothing above 1 MiB is."""
    found = m.variable(64, 0)
    with m.when(physical.ult(m.get("mtrr_end", 64)), likely=False):
        found.set(m.get("mtrr_uncached", 64))
        at = m.variable(64, 0)
        with m.loop():
            with m.when(at.value == m.get("mtrr_rules_end", 64)):
                m.leave()
            base = m.get_at("mtrr_rules", at.value, 64)
            matches = ((physical ^ base) & m.get_at("mtrr_rules", at.value + 8, 64)) == 0
            found.set(matches.select(base & 1, found.value))
            at.set(at.value + 16)
        with m.when(physical.ult(m.get("mtrr_fixed_end", 64))):
            found.set(m.get_at("mtrr_fixed", (physical >> 18) << 3, 64) >> ((physical >> 12) & 63))
    return found.value.bit(0)
