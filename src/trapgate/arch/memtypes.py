"""Tells which memory is write-back: PAT and MTRRs put together (SDM vol. 3, 12.11, 12.12 and Table 12-7; APM vol. 2, 7.7 and 7.8).

A bus lock asks for no more: in both tables the effective type is write-back only where the PAT's type and the MTRRs' type both are.
"""

from collections.abc import Iterable, Mapping

from trapgate.arch import msrs
from trapgate.arch.msrs import MEMORY_TYPE_WB
from trapgate.values import dataclass

DEF_TYPE_FE, DEF_TYPE_E = 1 << 10, 1 << 11  # fixed ranges on, MTRRs on
MASK_VALID = 1 << 11
PAGE = 4096
FIXED_END = 1 << 20
_FIXED_PAGES = {0x250: 16, 0x258: 4, 0x259: 4}  # pages for each of the eight types of a fixed MTRR; 1 in all others


@dataclass(frozen=True, slots=True)
class Rule:
    """Addresses with (address & mask) == base are write-back or not, whatever an earlier rule says. Base and mask: whole pages."""

    base: int
    mask: int
    uncached: bool


@dataclass(frozen=True, slots=True)
class Mtrrs:
    """What the MTRRs say of RAM. `uncached`: what holds where no rule matches.

    `fixed`: below 1 MiB, one bit for each 4 KiB page that is not write-back; None: the rules hold there, too.
    """

    uncached: bool
    rules: tuple[Rule, ...] = ()
    fixed: int | None = None


def pat_uncached(pat: int) -> int:
    """One bit for each entry of the PAT (number PAT * 4 + PCD * 2 + PWT of a page) that is not write-back."""
    return sum(1 << n for n, kind in enumerate(pat.to_bytes(8, "little")) if kind != MEMORY_TYPE_WB)


def mtrrs(values: Mapping[int, int], physical_bits: int, ram: Iterable[tuple[int, int]]) -> Mtrrs:
    """The MTRRs whose values these are, by index; `ram`: its (start, end), of which alone the rules need be right.

    A CPU without MTRRs leaves everything to the PAT. With MTRRs off all memory is UC (SDM vol. 3, 12.11.2.1).
    """
    if msrs.MTRR_DEF_TYPE not in values:
        return Mtrrs(False)
    control = values[msrs.MTRR_DEF_TYPE]
    if not control & DEF_TYPE_E:
        return Mtrrs(True)
    default = control & 0xFF != MEMORY_TYPE_WB
    regions = tuple(ram)
    rules = [rule for rule in _variable(values, physical_bits) if _touches(rule, regions, physical_bits)]
    # Where ranges overlap UC wins, then WT; all else is undefined (SDM vol. 3, 12.11.4.1): WB never wins.
    rules = [rule for rule in rules if not rule.uncached and default] + [rule for rule in rules if rule.uncached]
    return Mtrrs(default, tuple(rules), _fixed(values) if control & DEF_TYPE_FE else None)


def _variable(values: Mapping[int, int], physical_bits: int) -> list[Rule]:
    rules = []
    for n in range(msrs.MTRR_PAIRS):
        base, mask = values[msrs.MTRR_PHYSBASE0 + 2 * n], values[msrs.MTRR_PHYSBASE0 + 2 * n + 1]
        if mask & MASK_VALID:
            pages = mask & (1 << physical_bits) - PAGE
            rules.append(Rule(base & pages, pages, base & 0xFF != MEMORY_TYPE_WB))
    return rules


def _touches(rule: Rule, regions: tuple[tuple[int, int], ...], physical_bits: int) -> bool:
    """Whether a rule may match any RAM; a mask with holes always may."""
    size = (~rule.mask & (1 << physical_bits) - 1) + 1
    return bool(size & size - 1) or any(rule.base < end and start < rule.base + size for start, end in regions)


def _fixed(values: Mapping[int, int]) -> int:
    found, page = 0, 0
    for index in msrs.MTRR_FIXED:
        pages = _FIXED_PAGES.get(index, 1)
        for kind in values[index].to_bytes(8, "little"):
            if kind != MEMORY_TYPE_WB:
                found |= (1 << pages) - 1 << page
            page += pages
    assert page * PAGE == FIXED_END
    return found
