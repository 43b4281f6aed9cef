"""Describes CR0, CR3, CR4, CR8, EFER and XCR0: bits, which of them a CPU has, and which values a write may leave behind.

Sources: SDM vol. 3, 2.5 and 2.6, 2.2.1; APM vol. 2, 3.1 and 3.1.7. The `check_*` functions return what a write stores and raise
ValueError where the CPU raises #GP(0).
"""

from collections.abc import Callable

from trapgate.arch.xstate import AVX, SSE, X87

CR0_PE = 1 << 0
CR0_MP = 1 << 1
CR0_EM = 1 << 2
CR0_TS = 1 << 3
CR0_ET = 1 << 4  # hardwired to 1
CR0_NE = 1 << 5
CR0_WP = 1 << 16
CR0_AM = 1 << 18
CR0_NW = 1 << 29
CR0_CD = 1 << 30
CR0_PG = 1 << 31
CR0_DEFINED = CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG
CR0_RESET = CR0_ET | CR0_NW | CR0_CD

CR3_PWT = 1 << 3
CR3_PCD = 1 << 4
CR3_PCID = 0xFFF  # while CR4.PCIDE
CR3_NOFLUSH = 1 << 63  # while CR4.PCIDE; never stored

CR4_VME = 1 << 0
CR4_PVI = 1 << 1
CR4_TSD = 1 << 2
CR4_DE = 1 << 3
CR4_PSE = 1 << 4
CR4_PAE = 1 << 5
CR4_MCE = 1 << 6
CR4_PGE = 1 << 7
CR4_PCE = 1 << 8
CR4_OSFXSR = 1 << 9
CR4_OSXMMEXCPT = 1 << 10
CR4_UMIP = 1 << 11
CR4_LA57 = 1 << 12
CR4_VMXE = 1 << 13
CR4_SMXE = 1 << 14
CR4_FSGSBASE = 1 << 16
CR4_PCIDE = 1 << 17
CR4_OSXSAVE = 1 << 18
CR4_SMEP = 1 << 20
CR4_SMAP = 1 << 21
CR4_PKE = 1 << 22
CR4_CET = 1 << 23

# Which CPUID feature a bit of CR4 needs; without it, setting the bit raises #GP.
CR4_NEEDS: dict[int, str | None] = {
    CR4_VME: "vme",
    CR4_PVI: "vme",
    CR4_TSD: "tsc",
    CR4_DE: "de",
    CR4_PSE: "pse",
    CR4_PAE: "pae",
    CR4_MCE: "mce",
    CR4_PGE: "pge",
    CR4_PCE: None,
    CR4_OSFXSR: "fxsr",
    CR4_OSXMMEXCPT: "sse",
    CR4_UMIP: "umip",
    CR4_LA57: "la57",
    CR4_FSGSBASE: "fsgsbase",
    CR4_PCIDE: "pcid",
    CR4_OSXSAVE: "xsave",
    CR4_SMEP: "smep",
    CR4_SMAP: "smap",
}

# A change of these flushes the TLB, global entries too (SDM vol. 3, 4.10.4.1).
CR0_FLUSHES = CR0_PG | CR0_WP | CR0_CD  # with caches disabled every page is uncached
CR4_FLUSHES = CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP | CR4_LA57

EFER_SCE = 1 << 0
EFER_LME = 1 << 8
EFER_LMA = 1 << 10
EFER_NXE = 1 << 11
EFER_SVME = 1 << 12
EFER_FFXSR = 1 << 14
EFER_AUTOIBRS = 1 << 21
EFER_NEEDS = {EFER_SCE: "syscall", EFER_LME: "lm", EFER_NXE: "nx", EFER_FFXSR: "fxsr-opt", EFER_AUTOIBRS: "auto-ibrs"}

XCR0_RESET = X87.bit

Has = Callable[[str], bool]


def cr4_mask(has: Has) -> int:
    """The bits of CR4 that may be 1 on a CPU with these features."""
    return sum(bit for bit, feature in CR4_NEEDS.items() if feature is None or has(feature))


def efer_mask(has: Has) -> int:
    """The bits of EFER that software may set on a CPU with these features (LMA is the CPU's own)."""
    return sum(bit for bit, feature in EFER_NEEDS.items() if has(feature))


def check_cr0(old: int, new: int, *, cr4: int, efer: int, cs_long: bool) -> int:
    """The value that MOV to CR0 stores (SDM vol. 2, MOV to CR). Reserved bits 31:0 are ignored, ET reads 1.

    ValueError (#GP): upper half set; PG without PE; NW without CD; PG on with LME and not PAE, or with CS.L; PG off while CR4.PCIDE
    or in 64-bit mode.
    """
    if new >> 32:
        raise ValueError("CR0: bits 63:32 must be 0")
    if new & CR0_PG and not new & CR0_PE:
        raise ValueError("CR0: PG needs PE")
    if new & CR0_NW and not new & CR0_CD:
        raise ValueError("CR0: NW needs CD")
    if new & CR0_PG and not old & CR0_PG and efer & EFER_LME:
        if not cr4 & CR4_PAE:
            raise ValueError("CR0: PG with EFER.LME needs CR4.PAE")
        if cs_long:
            raise ValueError("CR0: PG with EFER.LME needs CS.L = 0")
    if old & CR0_PG and not new & CR0_PG:
        if cr4 & CR4_PCIDE:
            raise ValueError("CR0: PG cannot be cleared while CR4.PCIDE is 1")
        if efer & EFER_LMA and cs_long:
            raise ValueError("CR0: PG cannot be cleared in 64-bit mode")
    return new & CR0_DEFINED | CR0_ET


def check_cr3(new: int, *, cr4: int, efer: int, physical_bits: int) -> int:
    """The value that MOV to CR3 stores; bit 63 is dropped under PCIDE. ValueError (#GP): bits above MAXPHYADDR in long mode."""
    if cr4 & CR4_PCIDE:
        new &= ~CR3_NOFLUSH
    if efer & EFER_LMA and new >> physical_bits:
        raise ValueError(f"CR3: bits 63:{physical_bits} must be 0")
    return new


def check_cr4(old: int, new: int, *, cr0: int, cr3: int, efer: int, allowed: int) -> int:
    """The value that MOV to CR4 stores; `allowed` is `cr4_mask`.

    ValueError (#GP): a bit the CPU has not; PAE or LA57 changed in long mode; PCIDE set outside long mode or with CR3[11:0] not 0.
    """
    if bad := new & ~allowed:
        raise ValueError(f"CR4: bits {bad:#x} are reserved on this CPU")
    if efer & EFER_LMA and (old ^ new) & (CR4_PAE | CR4_LA57):
        raise ValueError("CR4: PAE and LA57 cannot change in long mode")
    if new & CR4_PCIDE and not old & CR4_PCIDE and (not efer & EFER_LMA or cr3 & CR3_PCID):
        raise ValueError("CR4: PCIDE needs long mode and CR3[11:0] = 0")
    if cr0 & CR0_PG and efer & EFER_LME and not new & CR4_PAE:
        raise ValueError("CR4: PAE must stay 1 while long mode pages")
    return new


def check_efer(old: int, new: int, *, cr0: int, allowed: int) -> int:
    """The value that WRMSR to EFER stores; `allowed` is `efer_mask`. LMA keeps its value whatever is written.

    ValueError (#GP): a bit the CPU has not; LME changed while CR0.PG is 1.
    """
    if bad := new & ~(allowed | EFER_LMA):
        raise ValueError(f"EFER: bits {bad:#x} are reserved on this CPU")
    if (old ^ new) & EFER_LME and cr0 & CR0_PG:
        raise ValueError("EFER: LME cannot change while CR0.PG is 1")
    return new & ~EFER_LMA | old & EFER_LMA


def check_cr8(new: int) -> int:
    """The value that MOV to CR8 stores: the task priority, 0-15; more raises ValueError (#GP)."""
    if new >> 4:
        raise ValueError("CR8: bits 63:4 must be 0")
    return new


def check_xcr0(new: int, supported: int) -> int:
    """The value that XSETBV of XCR0 stores; `supported` is `xstate.user_mask`.

    ValueError (#GP): x87 off, AVX without SSE, a component that the CPU has not (SDM vol. 1, 13.3).
    """
    if not new & X87.bit or new & ~supported:
        raise ValueError(f"XCR0: {new:#x} is not within {supported:#x} with bit 0 set")
    if new & AVX.bit and not new & SSE.bit:
        raise ValueError("XCR0: AVX needs SSE")
    return new
