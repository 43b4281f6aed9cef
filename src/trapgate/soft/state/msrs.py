"""Keeps MSRs where native code finds them: the values of those that are storage, and a rule for each (`isa.native.msrs`)."""

import ctypes
from collections.abc import Iterator, Mapping, MutableMapping

from trapgate.arch import msrs
from trapgate.arch.msrs import Msr, Rule
from trapgate.isa.native.msrs import CANONICAL, CUT, IGNORED, PLAIN, READS, SAME
from trapgate.isa.state import LAYOUT, MSR_RULE, MSR_VALUES
from trapgate.soft.state.view import CpuState

_KINDS = {
    Rule.PLAIN: PLAIN,
    Rule.CUT: CUT,
    Rule.CANONICAL: CANONICAL,
    Rule.IGNORED: IGNORED,
    Rule.WRITE_ONLY: IGNORED,
    Rule.READ_ONLY: 0,
}
_MOVING = {msrs.TSC, msrs.TSC_ADJUST}  # a write always acts, and TSC is none that could be read from anywhere
ALL_64 = (1 << 64) - 1


class MsrStore(MutableMapping[int, int]):
    """The values of MSRs by index, those that are a field of the state among them."""

    def __init__(self, state: CpuState) -> None:
        self._state, self._places = state, dict[int, int]()

    def power_on(self, known: Mapping[int, Msr], fields: Mapping[int, str], foreign: set[int]) -> None:
        """These MSRs are all, each with its reset value. `fields`: the state's names of some; `foreign`: those that others hold."""
        base = LAYOUT["msr_values"].offset
        self._places = {index: LAYOUT[fields[index]].offset if index in fields else base + 8 * n for n, index in enumerate(known)}
        assert len(known) <= MSR_VALUES
        rows = [self._row(msr) for index, msr in sorted(known.items()) if index not in foreign]
        self._state.msr_rules[: MSR_RULE.size * len(rows)] = b"".join(rows)
        self._state.msr_count = len(rows)
        for index, msr in known.items():
            if index not in fields:
                self[index] = msr.reset

    def _row(self, msr: Msr) -> bytes:
        kinds = _KINDS.get(msr.rule, 0 if msr.index in _MOVING else SAME)
        if msr.readable and msr.index != msrs.TSC:
            kinds |= READS
        mask = msr.mask if msr.rule in (Rule.PLAIN, Rule.CUT) else ALL_64
        return MSR_RULE.pack(index=msr.index, place=self._places[msr.index], kinds=kinds, mask=mask, fixed=msr.fixed)

    def _value(self, index: int) -> ctypes.c_uint64:
        return ctypes.c_uint64.from_buffer(self._state, self._places[index])

    def __getitem__(self, index: int) -> int:
        return self._value(index).value

    def __setitem__(self, index: int, value: int) -> None:
        self._value(index).value = value

    def __delitem__(self, index: int) -> None:
        raise TypeError("a CPU loses no MSR")

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
