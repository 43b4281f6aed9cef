"""Memory types in the page walk, against the manual's rules written out for one address (SDM vol. 3, 12.11, 12.12)."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silicon.assemble import assemble
from trapgate.arch import msrs
from trapgate.arch.models import CpuModel
from trapgate.arch.msrs import MsrError
from trapgate.exits import BusLock, Halted
from trapgate.isa import state
from trapgate.soft.cpu import SoftVcpu
from trapgate.soft.exact.msr import write_msr
from unit.soft.bench import CODE, Bench

RAM = 4 << 20
UC, WC, WT, WP, WB = 0, 1, 4, 5, 6
PHYSICAL = (1 << 40) - 1
KINDS = st.sampled_from((UC, WC, WT, WP, WB, WB, WB))
FIXED = st.lists(KINDS, min_size=8, max_size=8)
PAIR = st.tuples(st.booleans(), st.integers(0, RAM >> 12), KINDS, st.integers(12, 24), st.integers(0, 0x7FF))


def uncached(cpu: SoftVcpu, address: int) -> bool:
    """What the page walk says."""
    cpu.walk(address, 0)
    return bool(cpu.state.walk_rights & state.RIGHT_UNCACHED)


@cache
def real_mode() -> Bench:
    """One CPU for all examples: paging is off, so MTRRs alone count."""
    bench = Bench("real")
    bench.st.cr0 &= ~(1 << 30)
    return bench


def by_the_manual(values: dict[int, int], address: int) -> set[int]:
    """The types of everything that an address matches: WB alone is write-back."""
    control = values[0x2FF]
    if not control & 1 << 11:
        return {UC}
    if address < 1 << 20 and control & 1 << 10:
        if address < 0x80000:
            index, n = 0x250, address >> 16
        elif address < 0xC0000:
            index, n = 0x258 + (address - 0x80000 >> 17), address >> 14 & 7
        else:
            index, n = 0x268 + (address - 0xC0000 >> 15), address >> 12 & 7
        return {values[index] >> 8 * n & 0xFF}
    found = set()
    for n in range(8):
        base, mask = values[0x200 + 2 * n], values[0x201 + 2 * n]
        if mask & 1 << 11 and address & mask & ~0xFFF == base & mask & ~0xFFF:
            found.add(base & 0xFF)
    return found or {control & 0xFF}


@settings(max_examples=60)
@given(
    control=st.tuples(st.sampled_from((True, True, True, False)), st.booleans(), KINDS),
    fixed=st.lists(FIXED, min_size=11, max_size=11),
    pairs=st.lists(PAIR, max_size=8),
    pages=st.lists(st.integers(0, (RAM >> 12) - 1), min_size=20, max_size=20),
)
def test_mtrrs(
    control: tuple[bool, bool, int],
    fixed: list[list[int]],
    pairs: list[tuple[bool, int, int, int, int]],
    pages: list[int],
) -> None:
    on, ranges, default = control
    values = {0x2FF: on << 11 | ranges << 10 | default}
    values |= {index: int.from_bytes(bytes(kinds), "little") for index, kinds in zip(msrs.MTRR_FIXED, fixed, strict=True)}
    for n, (valid, page, kind, bits, holes) in enumerate(pairs):
        values[0x200 + 2 * n] = page << 12 | kind
        values[0x201 + 2 * n] = PHYSICAL & -(1 << bits) & ~(holes << 12 if page & 1 else 0) | valid << 11
    cpu = real_mode().cpu
    for index in {0x2FF, *range(0x200, 0x210), *msrs.MTRR_FIXED}:
        write_msr(cpu, index, values.setdefault(index, 0))
    for at in (page << 12 for page in pages):
        assert uncached(cpu, at | 0x123) == (by_the_manual(values, at) != {WB}), hex(at)


def paging(bench: Bench, cr4: int) -> None:
    bench.st.cr3, bench.st.cr4 = 0x100000, cr4
    bench.st.cr0 = bench.st.cr0 & ~(1 << 30) | 1 << 31
    bench.cpu.flush_all()


def test_large_pages_of_32_bit_paging() -> None:
    """PAT is bit 12 of an entry of 4 MiB, under PSE-36 as well, and bit 7 of one of 4 KiB."""
    bench = Bench("32")
    paging(bench, 1 << 4)
    write_msr(bench.cpu, 0x277, 0x0606_0601_0606_0606)  # entry 4: WC
    for n, bits in enumerate((0x83, 0x1083, 0x107003)):
        bench.ram.write_int(0x100000 + 4 * n, 4, bits)
    for n, bits in enumerate((0x3, 0x83)):
        bench.ram.write_int(0x107000 + 4 * n, 4, bits)
    assert [uncached(bench.cpu, at) for at in (0x200000, 0x600000, 0x800000, 0x801000)] == [False, True, False, True]


def test_large_pages_of_pae() -> None:
    bench = Bench("32")
    paging(bench, 1 << 5)
    write_msr(bench.cpu, 0x277, 0x0606_0601_0606_0606)
    bench.ram.write_int(0x100000, 8, 0x101001)
    for n, bits in enumerate((0x83, 0x1083)):
        bench.ram.write_int(0x101000 + 8 * n, 8, bits)
    assert [uncached(bench.cpu, at) for at in (0x180000, 0x380000)] == [False, True]


def test_a_cpu_without_mtrrs_and_pat_goes_by_pcd_and_pwt() -> None:
    bench = Bench("64", model="EPYC-Turin,-mtrr,-pat")
    for n, bits in enumerate((0x7, 0xF, 0x17, 0x1F)):
        bench.ram.write_int(0x103000 + 8 * n, 8, 0x200000 | bits)
    bench.ram.write_int(0x102000, 8, 0x103007)
    assert [uncached(bench.cpu, 0x1000 * n) for n in range(4)] == [False, True, True, True]


@pytest.mark.parametrize(("index", "value"), [(0x2FF, 0x406), (0x277, 0x0007040600070401), (0x202, 0x200000)])
def test_wrmsr_takes_effect_at_once(index: int, value: int) -> None:
    """What the TLB knew of a page goes with a change of its type: at CPL 0, so that a lock is reported and not trapped."""
    bench = Bench("64")
    write_msr(bench.cpu, 0x203, PHYSICAL & -0x200000 | 1 << 11)
    write_msr(bench.cpu, 0x202, 0x200000 | WB)
    old = bench.cpu.msrs[index]
    lock = "lock inc dword ptr [0x200000]"
    wrmsr = f"mov ecx, {index}\nmov edx, {{}}\nmov eax, {{}}\nwrmsr"
    there, back = (wrmsr.format(one >> 32, one & 0xFFFFFFFF) for one in (value, old))
    bench.ram.write(CODE, assemble("\n".join((lock, there, lock, lock, back, lock, "hlt"))))
    bench.st.bus_lock_report = 1
    exits = [bench.cpu.run() for _ in range(3)]
    assert [type(one) for one in exits] == [BusLock, BusLock, Halted]
    assert bench.ram.read_int(0x200000, 4) == 4


def test_reserved_types_are_refused() -> None:
    table = msrs.msrs_of(CpuModel.parse("SapphireRapids"))
    control = table[msrs.MTRR_DEF_TYPE]
    for value in (2, 3, 7, 8, 1 << 8 | 6, 1 << 9, 1 << 12, 1 << 63):
        with pytest.raises(MsrError, match="MTRR_DEF_TYPE"):
            control.stored(value)
    assert [control.stored(0xC00 | kind) for kind in (UC, WC, WT, WP, WB)] == [0xC00 | kind for kind in (UC, WC, WT, WP, WB)]
