"""Rows of the table for memory types: what PAT and MTRRs make of each page, and on which of them a lock locks the bus.

Sections: SDM vol. 3: 12.11 (MTRRs), 12.12 (PAT), Table 12-7 (both together); APM vol. 2: 7.7, 7.8.
"""

from programs.debug.cases import AC, BLD, BLD_BS, DB, INTEL, NONE, WRITE, Case, arm
from programs.debug.harness import DATA, PD, PDPT, PT, RF, TF, UNCACHED, Armed

PAT, FIX64K, FIX16K, FIX4K_C8000, DEF_TYPE, VARIABLE = 0x277, 0x250, 0x258, 0x269, 0x2FF, 0x202  # VARIABLE: the second pair
UC, WC, WT, WP, WB, UC_MINUS = 0, 1, 4, 5, 6, 7
P_RW_US, PWT, PAT_SMALL, PS, PAT_LARGE = 7, 8, 1 << 7, 1 << 7, 1 << 12
MTRRS, FIXED = 1 << 11, 1 << 10  # of DEF_TYPE: on, fixed ranges on
MIB, GIB = 1 << 20, 1 << 30
PHYSICAL = (1 << 40) - 1
SPLIT_AC = 1 << 29

Msrs = dict[int, int]
Memory = dict[int, bytes]


def types(*kinds: int) -> int:
    """Eight memory types, the first one in the lowest byte."""
    assert len(kinds) == 8
    return int.from_bytes(bytes(kinds), "little")


def only(n: int, kind: int, others: int = WB) -> int:
    """Eight memory types of which one is different."""
    return types(*(kind if at == n else others for at in range(8)))


def entry(number: int, pat: int) -> int:
    """The bits of a page-table entry that choose an entry of the PAT; `pat`: the bit that stands for 4."""
    return (number & 3) * PWT | (number >> 2) * pat


def small(at: int, number: int) -> Memory:
    """The 4 KiB page at `at`."""
    return {PT + 8 * (at >> 12): (at | P_RW_US | entry(number, PAT_SMALL)).to_bytes(8, "little")}


def pair(base: int, size: int, kind: int, n: int = 0, free: int = 0) -> Msrs:
    """A variable range; `free`: address bits that may be anything."""
    return {VARIABLE + 2 * n: base | kind, VARIABLE + 2 * n + 1: PHYSICAL & -size & ~free | 1 << 11}


def case(name: str, msrs: Msrs, lock: tuple[int, ...], keep: tuple[int, ...] = (), fixed: Memory | None = None) -> Case:
    """An aligned lock at CPL 3 at each of these addresses, with the trap on: those that lock the bus, and those that do not."""
    places = sorted((*lock, *keep))
    text = "".join(f"lock inc dword ptr [{at:#x}]\n" for at in places) + "nop"
    records = tuple((DB, BLD, n + 1, 0) for n, at in enumerate(places) if at in lock)
    return Case(name, text, Armed(debugctl=4, fixed=fixed or {}, msrs=msrs), records)


def _pat() -> list[Case]:
    pages = tuple(DATA + 0x1000 * n for n in range(1, 9))  # each with an entry of its own
    each = {at: data for n, page in enumerate(pages) for at, data in small(page, n).items()}
    kinds = (WB, UC, WC, WT, WP, UC_MINUS, WB, WB)
    rows = [
        case("PAT at reset", {}, tuple(pages[n] for n in (1, 2, 3, 5, 6, 7)), (pages[0], pages[4]), each),
        case("PAT, each type", {PAT: types(*kinds)}, pages[1:6], (pages[0], *pages[6:]), each),
    ]
    for bit in (1, 2, 4):
        low, high = (tuple(page for n, page in enumerate(pages) if bool(n & bit) is one) for one in (False, True))
        chosen = tuple(WC if n & bit else WB for n in range(8))
        rows.append(case(f"PAT, entries with bit {bit} WC", {PAT: types(*chosen)}, high, low, each))
        rows.append(case(f"PAT, entries without bit {bit} WC", {PAT: types(*(WB + WC - one for one in chosen))}, low, high, each))
    for table, size in ((PD, 2 * MIB), (PDPT, GIB)):  # the second page of that size, on the first one's memory
        for number, pat, locks in (
            (0, only(4, WC), False),
            (4, only(4, WC), True),
            (4, only(0, WC), False),
            (1, only(1, WC), True),
        ):
            large = {table + 8: (P_RW_US | PS | entry(number, PAT_LARGE)).to_bytes(8, "little")}
            name = f"PAT, a page of {size >> 20} MiB, entry {number} of {pat:016x}"
            rows.append(case(name, {PAT: pat}, (size + DATA,) if locks else (), () if locks else (size + DATA,), large))
    return rows


def _mtrrs() -> list[Case]:
    high = 0x150000
    uc_page = pair(high, 0x1000, UC)
    under = {DEF_TYPE: MTRRS | FIXED | UC, **pair(MIB, MIB, WB)}  # UC but for the second MiB
    rest = (0x80000, 0x90000, 0xC0000, 0xF0000, high)
    return [
        case("as firmware leaves them", {}, (0xA0000, 0xBFFFC), (DATA, 0x9FFFC, 0xC0000, 0xFFFFC, MIB, high)),
        case("fixed MTRR of 64 KiB", {FIX64K: types(WB, WB, WB, WB, UC, WC, WT, WP)},
             (0x40000, 0x4EFFC, 0x50000 + 0x1000, 0x60000, 0x7FFFC), (DATA, DATA + 0xFFFC, *rest)),
        case("fixed MTRR of 16 KiB", {FIX16K: only(3, UC)}, (0x8C000, 0x8FFFC), (DATA, 0x8BFFC, 0x90000)),
        case("fixed MTRR of 4 KiB", {FIX4K_C8000: only(1, UC)}, (0xC9000, 0xC9FFC), (DATA, 0xC8FFC, 0xCA000)),
        case("fixed ranges off", {FIX64K: only(3, UC), DEF_TYPE: MTRRS | WB}, (), (DATA, 0xA0000, high)),
        case("MTRRs off", {DEF_TYPE: FIXED | WB}, (DATA, high)),
        case("default type UC", {DEF_TYPE: MTRRS | FIXED | UC}, (high,), (DATA,)),
        case("default type UC, fixed ranges off", {DEF_TYPE: MTRRS | UC}, (DATA, high)),
        case("variable MTRR", uc_page, (high, high + 0xFFC), (high - 4, high + 0x1000)),
        case("variable MTRRs, other types", {**pair(high, 0x1000, WC), **pair(high + 0x1000, 0x1000, WT, 1),
             **pair(high + 0x2000, 0x2000, WP, 2)}, tuple(range(high, high + 0x4000, 0x1000)), (high + 0x4000,)),
        case("variable MTRR, not valid", {VARIABLE: high | UC}, (), (high,)),
        case("variable MTRR, under fixed ranges", pair(DATA, 0x1000, UC), (), (DATA,)),
        case("variable MTRR, fixed ranges off", {**pair(DATA, 0x1000, UC), DEF_TYPE: MTRRS | WB}, (DATA,), (DATA + 0x1000,)),
        case("variable MTRR, a hole in its mask", pair(0x140000, 0x1000, UC, free=0x10000), (0x140000, high), (0x130000, 0x160000)),
        case("variable MTRRs, WB over UC by default", under, (), (DATA, high)),
        case("variable MTRRs, UC within WB", {**under, **pair(high, 0x1000, UC, 1)}, (high,), (high + 0x1000,)),
        case("variable MTRRs, WT within WB", {**under, **pair(high, 0x1000, WT, 1)}, (high,), (high + 0x1000,)),
        case("variable MTRRs, WB within UC", {**pair(MIB, MIB, UC), **pair(high, 0x1000, WB, 1)}, (high, high + 0x1000)),
        case("variable MTRRs, WB behind UC", {**pair(high, 0x1000, UC), **under, **pair(MIB, MIB, WB, 1)}, (), (high,)),
        case("MTRR UC, PAT WB", {FIX64K: only(3, UC), PAT: only(0, WB, WC)}, (DATA,)),
        case("MTRR WB, PAT WB", {PAT: only(0, WB, WC)}, (), (DATA,)),
    ]  # fmt: skip


def _together() -> list[Case]:
    """With the other causes, with #AC, with instructions that go other ways."""
    uc = {FIX64K: only(3, UC)}
    lock = "lock inc dword ptr [rdi]\nnop"
    rows = [
        Case("MTRR UC, Intel", lock, Armed(debugctl=4, msrs=uc), ((DB, BLD, 1, 0),), INTEL),
        Case("MTRR UC, wide", "lock cmpxchg16b [rdi]\nlock cmpxchg8b [rdi]\nxchg [rdi+1], al\nnop", Armed(debugctl=4, msrs=uc),
             ((DB, BLD, 1, 0), (DB, BLD, 2, 0), (DB, BLD, 3, 0))),
        Case("MTRR UC, no lock", "inc dword ptr [rdi]\ncmpxchg8b [rdi]\ncmpxchg16b [rdi]\nnop", Armed(debugctl=4, msrs=uc)),
        Case("MTRR UC, ring 0", lock, Armed(debugctl=4, ring=0, msrs=uc)),
        Case("MTRR UC, not armed", lock, Armed(msrs=uc)),
        Case("MTRR UC + BS", lock, Armed(debugctl=4, tf=True, msrs=uc), ((DB, BLD_BS, 1, TF),)),
        Case("MTRR UC + Bn", "lock inc dword ptr [rdi+8]\nnop", Armed((0, DATA + 8), arm(1, WRITE, 4), 4, msrs=uc),
             ((DB, BLD | 2, 1, 0),)),
    ]  # fmt: skip
    # Split-lock #AC is for write-back memory: where a lock crosses pages all of it must be.
    armed = Armed(debugctl=4, test_ctrl=SPLIT_AC)
    for op, back in (("lock inc dword ptr [rdi]", 2), ("lock cmpxchg8b [rdi]", 4)):
        for name, at, locks in (
            ("WB alone", DATA + 0x1000, False), ("WB, then UC", UNCACHED, True), ("UC, then WB", UNCACHED + 0x1000, True),
            ("UC alone", UNCACHED + 64, True),
        ):  # fmt: skip
            record = (DB, BLD, 2, 0) if locks else (AC, NONE, 1, RF)
            text = f"mov edi, {at - back:#x}\n{op}\nnop"
            rows.append(Case(f"#AC: {op}, {name}", text, armed, (record,), f"{INTEL},+split-lock-detect"))
    return rows


TYPES = [*_pat(), *_mtrrs()]
TOGETHER = _together()
