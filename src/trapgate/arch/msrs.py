"""Lists the model-specific registers: index, name, which CPUs have them, reset value, and what a write may leave there.

Sources: SDM vol. 4, 2.1; APM vol. 2, appendix A. There is no firmware in our machines, so the MTRRs start as firmware leaves them:
RAM write-back, the VGA window and the 1 GiB below 4 GiB uncached.
"""

from enum import Enum

from trapgate.arch import control, debugregs, paging
from trapgate.arch.models import CpuModel
from trapgate.errors import TrapgateError
from trapgate.values import dataclass

TSC = 0x10
PLATFORM_ID = 0x17
APIC_BASE = 0x1B
TEST_CTRL = 0x33
FEATURE_CONTROL = 0x3A
TSC_ADJUST = 0x3B
SPEC_CTRL = 0x48
PRED_CMD = 0x49
MICROCODE_UPDATE = 0x79  # IA32_BIOS_UPDT_TRIG
MICROCODE = 0x8B  # IA32_BIOS_SIGN_ID, AMD PATCH_LEVEL
CORE_CAPABILITIES = 0xCF
MTRRCAP = 0xFE
ARCH_CAPABILITIES = 0x10A
SYSENTER_CS = 0x174
SYSENTER_ESP = 0x175
SYSENTER_EIP = 0x176
MCG_CAP = 0x179
MCG_STATUS = 0x17A
MISC_ENABLE = 0x1A0
DEBUGCTL = 0x1D9
LAST_BRANCH_FROM = 0x1DB
MTRR_PHYSBASE0 = 0x200  # base and mask of pair n at 200h + 2n and 201h + 2n
MTRR_PAIRS = 8
MTRR_FIXED = (0x250, 0x258, 0x259, *range(0x268, 0x270))
PAT = 0x277
MTRR_DEF_TYPE = 0x2FF
MTRRS = frozenset({*range(MTRR_PHYSBASE0, MTRR_PHYSBASE0 + 2 * MTRR_PAIRS), *MTRR_FIXED, MTRR_DEF_TYPE})
TSC_DEADLINE = 0x6E0
XSS = 0xDA0
X2APIC_FIRST = 0x800
X2APIC_LAST = 0x8FF
EFER = 0xC0000080
STAR = 0xC0000081
LSTAR = 0xC0000082
CSTAR = 0xC0000083
SFMASK = 0xC0000084
FS_BASE = 0xC0000100
GS_BASE = 0xC0000101
KERNEL_GS_BASE = 0xC0000102
TSC_AUX = 0xC0000103
AMD_PERF_EVENT_SELECT0 = 0xC0010000  # PerfEvtSel0-3
AMD_PERF_COUNTER0 = 0xC0010004  # PerfCtr0-3
AMD_PERF_COUNTERS = 4
AMD_SYSCFG = 0xC0010010
AMD_HWCR = 0xC0010015
AMD_TOP_MEM = 0xC001001A
AMD_TOP_MEM2 = 0xC001001D
AMD_NB_CFG = 0xC001001F
AMD_PATCH_LOADER = 0xC0010020
AMD_INT_PENDING = 0xC0010055
AMD_MMIO_CONF_BASE = 0xC0010058
AMD_LS_CFG = 0xC0011020
AMD_DC_CFG = 0xC0011022
AMD_DE_CFG = 0xC0011029

APIC_BASE_BSP = 1 << 8
APIC_BASE_EXTD = 1 << 10  # x2APIC
APIC_BASE_ENABLE = 1 << 11
APIC_BASE_ADDRESS = 0xFEE00000

TEST_CTRL_SPLIT_LOCK = 1 << 29  # #AC on a split lock
CORE_CAPABILITIES_SPLIT_LOCK = 1 << 5
FEATURE_CONTROL_LOCKED = 1
MISC_ENABLE_FAST_STRINGS = 1 << 0
MISC_ENABLE_THERMAL_CONTROL = 1 << 3
MISC_ENABLE_PERFORMANCE_MONITORING = 1 << 7  # available; read-only, as the next two
MISC_ENABLE_BTS_UNAVAILABLE = 1 << 11
MISC_ENABLE_PEBS_UNAVAILABLE = 1 << 12
MISC_ENABLE_SPEEDSTEP = 1 << 16
MISC_ENABLE_MONITOR = 1 << 18
MISC_ENABLE_LIMIT_CPUID = 1 << 22
MISC_ENABLE_XTPR_DISABLE = 1 << 23
MISC_ENABLE_XD_DISABLE = 1 << 34
MISC_ENABLE_TURBO_DISABLE = 1 << 38
PERF_EVENT_SELECT = 0x0000_030F_FFD7_FFFF  # bits of PerfEvtSel that exist (APM vol. 2, 13.2.1)
PERF_COUNTER = (1 << 48) - 1
HWCR_TSC_FREQUENCY_SELECT = 1 << 24
DE_CFG_LFENCE_SERIALIZES = 1 << 1

PAT_RESET = 0x0007_0406_0007_0406

# IA32_ARCH_CAPABILITIES: the CPU has none of these flaws, so a guest needs no page-table isolation, buffer clearing or retpolines.
RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, PSCHANGE_MC_NO = 1 << 0, 1 << 1, 1 << 3, 1 << 4, 1 << 5, 1 << 6
TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO = 1 << 8, 1 << 13, 1 << 14, 1 << 15, 1 << 20, 1 << 24
GDS_NO, RFDS_NO, ITS_NO = 1 << 26, 1 << 27, 1 << 62
FLAWLESS = (
    RDCL_NO | SKIP_L1DFL_VMENTRY | SSB_NO | MDS_NO | PSCHANGE_MC_NO | TAA_NO | SBDR_SSDP_NO
    | FBSDP_NO | PSDP_NO | BHI_NO | PBRSB_NO | GDS_NO | RFDS_NO | ITS_NO
)  # fmt: skip

# MSRs that are a register of `arch.registers` under another number: one value, two names.
REGISTER_OF = {
    TSC: "tsc",
    EFER: "efer",
    STAR: "star",
    LSTAR: "lstar",
    CSTAR: "cstar",
    SFMASK: "sfmask",
    FS_BASE: "fs_base",
    GS_BASE: "gs_base",
    KERNEL_GS_BASE: "k_gs_base",
}

ALL_64 = (1 << 64) - 1
MEMORY_TYPE_UC = 0
MEMORY_TYPE_WC = 1
MEMORY_TYPE_WT = 4
MEMORY_TYPE_WP = 5
MEMORY_TYPE_WB = 6
MEMORY_TYPE_UC_MINUS = 7  # PAT only
_MTRR_TYPES = (MEMORY_TYPE_UC, MEMORY_TYPE_WC, MEMORY_TYPE_WT, MEMORY_TYPE_WP, MEMORY_TYPE_WB)


class MsrError(TrapgateError):
    """RDMSR or WRMSR of this MSR raises #GP(0). `missing`: there is no such MSR; else it refuses to be read, or this value.

    Everything that reads or writes MSRs raises it and nothing else: vCPUs, local APICs, the table of a model.
    """

    def __init__(self, text: str, *, missing: bool = False) -> None:
        super().__init__(text)
        self.missing = missing


class Rule(Enum):
    """What WRMSR does. #GP shows as MsrError from `Msr.stored`."""

    PLAIN = "stored when no bit outside the mask is set, else #GP"
    CUT = "bits in the mask are stored, others forgotten"
    READ_ONLY = "#GP"
    IGNORED = "accepted and forgotten"
    WRITE_ONLY = "accepted and forgotten; RDMSR raises #GP"
    CANONICAL = "stored when canonical, else #GP"
    PAT_TYPES = "eight memory types of PAT, else #GP"
    MTRR_TYPES = "eight memory types of a fixed MTRR, else #GP"
    MTRR_TYPE = "memory type in bits 7:0, no other bit outside the mask, else #GP"
    MTRR_MASK = "valid bit 11, address within MAXPHYADDR, else #GP"
    SPECIAL = "the CPU acts on it (mask: bits that may be 1)"


@dataclass(frozen=True, slots=True)
class Msr:
    """One MSR of a model. `mask`: for PLAIN and SPECIAL the bits that may be 1; `fixed`: those that keep their reset value."""

    index: int
    name: str
    reset: int = 0
    rule: Rule = Rule.PLAIN
    mask: int = ALL_64
    fixed: int = 0

    @property
    def readable(self) -> bool:
        """Whether RDMSR works; it raises #GP(0) for a command register."""
        return self.rule is not Rule.WRITE_ONLY

    def stored(self, value: int) -> int | None:
        """What WRMSR of `value` leaves there, None when the write is forgotten; MsrError where the CPU raises #GP(0).

        For SPECIAL only the mask is checked: the CPU adds the conditions that need its other state (EFER, APIC base, TSC).
        """
        if self.rule in (Rule.IGNORED, Rule.WRITE_ONLY):
            return None
        if self.rule is Rule.CUT:
            value &= self.mask
        if not self._accepts(value):
            raise MsrError(f"MSR {self.index:#x} ({self.name}) cannot hold {value:#x}: {self.rule.value}")
        return value & ~self.fixed | self.reset & self.fixed

    def _accepts(self, value: int) -> bool:
        types = value.to_bytes(8, "little")
        match self.rule:
            case Rule.READ_ONLY:
                return False
            case Rule.CANONICAL:
                return paging.is_canonical(value)
            case Rule.PAT_TYPES:
                return all(one in (*_MTRR_TYPES, MEMORY_TYPE_UC_MINUS) for one in types)
            case Rule.MTRR_TYPES:
                return all(one in _MTRR_TYPES for one in types)
            case Rule.MTRR_TYPE:
                return types[0] in _MTRR_TYPES and not value & ~self.mask
            case _:
                return not value & ~self.mask


def arch_capabilities(model: CpuModel) -> int:
    """IA32_ARCH_CAPABILITIES of a model: no known flaw, and enhanced IBRS where SPEC_CTRL exists."""
    return FLAWLESS | (IBRS_ALL if model.has("spec-ctrl") else 0)


def _mtrrs(model: CpuModel) -> list[Msr]:
    address = (1 << model.physical_bits) - 0x1000
    msrs = [
        Msr(MTRRCAP, "MTRRCAP", 1 << 10 | 1 << 8 | MTRR_PAIRS, Rule.READ_ONLY),  # WC, fixed ranges
        Msr(MTRR_DEF_TYPE, "MTRR_DEF_TYPE", 1 << 11 | 1 << 10 | MEMORY_TYPE_WB, Rule.MTRR_TYPE, 0xCFF),
    ]
    for n in range(MTRR_PAIRS):
        base, mask = (3 << 30 | MEMORY_TYPE_UC, address & -(1 << 30) | 1 << 11) if n == 0 else (0, 0)
        msrs.append(Msr(MTRR_PHYSBASE0 + 2 * n, f"MTRR_PHYSBASE{n}", base, Rule.MTRR_TYPE, address | 0xFF))
        msrs.append(Msr(MTRR_PHYSBASE0 + 2 * n + 1, f"MTRR_PHYSMASK{n}", mask, Rule.MTRR_MASK, address | 1 << 11))
    for index in MTRR_FIXED:
        vga = index == 0x259  # A0000-BFFFF
        reset = 0 if vga else int.from_bytes([MEMORY_TYPE_WB] * 8, "little")
        msrs.append(Msr(index, f"MTRR_FIX_{index:X}", reset, Rule.MTRR_TYPES))
    return msrs


def _common(model: CpuModel) -> list[Msr]:
    has = model.has
    # AMD's CPUs have no SYSENTER in long mode, and ignore the upper halves of where it leads (APM vol. 2, 6.1.2).
    entry = (Rule.CUT, 0xFFFFFFFF) if model.amd else (Rule.CANONICAL, ALL_64)
    msrs = [
        Msr(TSC, "TSC", 0, Rule.SPECIAL),
        Msr(MICROCODE, "MICROCODE", model.microcode if model.amd else model.microcode << 32, Rule.IGNORED),
        Msr(SYSENTER_CS, "SYSENTER_CS", mask=0xFFFFFFFF),
        Msr(SYSENTER_ESP, "SYSENTER_ESP", 0, *entry),
        Msr(SYSENTER_EIP, "SYSENTER_EIP", 0, *entry),
        Msr(MCG_CAP, "MCG_CAP", 0, Rule.READ_ONLY),  # no machine-check banks
        Msr(MCG_STATUS, "MCG_STATUS", mask=7),
        Msr(DEBUGCTL, "DEBUGCTL", 0, Rule.SPECIAL, debugregs.debugctl_mask(has("bus-lock-detect"))),
        Msr(EFER, "EFER", 0, Rule.SPECIAL, control.efer_mask(has) | control.EFER_LMA),
        Msr(STAR, "STAR"),
        Msr(LSTAR, "LSTAR", 0, Rule.CANONICAL),
        Msr(CSTAR, "CSTAR", 0, Rule.CANONICAL),
        Msr(SFMASK, "SFMASK", mask=0xFFFFFFFF),
        Msr(FS_BASE, "FS_BASE", 0, Rule.CANONICAL),
        Msr(GS_BASE, "GS_BASE", 0, Rule.CANONICAL),
        Msr(KERNEL_GS_BASE, "KERNEL_GS_BASE", 0, Rule.CANONICAL),
    ]
    if has("apic"):
        mask = APIC_BASE_BSP | APIC_BASE_ENABLE | (APIC_BASE_EXTD if has("x2apic") else 0) | (1 << model.physical_bits) - 0x1000
        msrs.append(Msr(APIC_BASE, "APIC_BASE", APIC_BASE_ADDRESS | APIC_BASE_ENABLE | APIC_BASE_BSP, Rule.SPECIAL, mask))
    if has("rdtscp") or has("rdpid"):
        msrs.append(Msr(TSC_AUX, "TSC_AUX", mask=0xFFFFFFFF))
    if has("xsaves"):
        msrs.append(Msr(XSS, "XSS", mask=0))  # no supervisor state component (SDM vol. 1, 13.3)
    if has("pat"):
        msrs.append(Msr(PAT, "PAT", PAT_RESET, Rule.PAT_TYPES))
    if has("tsc-adjust"):
        msrs.append(Msr(TSC_ADJUST, "TSC_ADJUST", 0, Rule.SPECIAL))
    if has("mtrr"):
        msrs += _mtrrs(model)
    return msrs


def _intel(model: CpuModel) -> list[Msr]:
    has = model.has
    # Guests change one bit of what they have read: all that a server part has is accepted (SDM vol. 4, table 2-2). Read-only bits,
    # and the one for MONITOR, which our CPUs lack, stay as they are. LIMIT_CPUID and XD_DISABLE can be read back and do no more.
    misc_enable = MISC_ENABLE_FAST_STRINGS | MISC_ENABLE_BTS_UNAVAILABLE | MISC_ENABLE_PEBS_UNAVAILABLE
    fixed = MISC_ENABLE_PERFORMANCE_MONITORING | MISC_ENABLE_BTS_UNAVAILABLE | MISC_ENABLE_PEBS_UNAVAILABLE | MISC_ENABLE_MONITOR
    writable = (
        misc_enable | fixed | MISC_ENABLE_THERMAL_CONTROL | MISC_ENABLE_SPEEDSTEP | MISC_ENABLE_LIMIT_CPUID
        | MISC_ENABLE_XTPR_DISABLE | MISC_ENABLE_XD_DISABLE | MISC_ENABLE_TURBO_DISABLE
    )  # fmt: skip
    msrs = [
        Msr(PLATFORM_ID, "PLATFORM_ID", 0, Rule.READ_ONLY),
        Msr(FEATURE_CONTROL, "FEATURE_CONTROL", FEATURE_CONTROL_LOCKED, Rule.READ_ONLY),
        Msr(MICROCODE_UPDATE, "MICROCODE_UPDATE", 0, Rule.WRITE_ONLY),
        Msr(MISC_ENABLE, "MISC_ENABLE", misc_enable, Rule.PLAIN, writable, fixed),
    ]
    if has("tsc-deadline"):
        msrs.append(Msr(TSC_DEADLINE, "TSC_DEADLINE", 0, Rule.SPECIAL))
    if has("spec-ctrl"):
        msrs.append(Msr(SPEC_CTRL, "SPEC_CTRL", 0, Rule.PLAIN, 7))
        msrs.append(Msr(PRED_CMD, "PRED_CMD", 0, Rule.WRITE_ONLY))
    if has("arch-capabilities"):
        msrs.append(Msr(ARCH_CAPABILITIES, "ARCH_CAPABILITIES", arch_capabilities(model), Rule.READ_ONLY))
    if has("split-lock-detect"):
        msrs.append(Msr(CORE_CAPABILITIES, "CORE_CAPABILITIES", CORE_CAPABILITIES_SPLIT_LOCK, Rule.READ_ONLY))
        msrs.append(Msr(TEST_CTRL, "TEST_CTRL", 0, Rule.SPECIAL, TEST_CTRL_SPLIT_LOCK))
    return msrs


def _amd(model: CpuModel) -> list[Msr]:
    msrs = [Msr(LAST_BRANCH_FROM + n, f"LAST_BRANCH_{n}", 0, Rule.READ_ONLY) for n in range(4)]
    msrs += [
        Msr(AMD_SYSCFG, "SYSCFG"),
        Msr(AMD_HWCR, "HWCR", HWCR_TSC_FREQUENCY_SELECT),
        Msr(AMD_TOP_MEM, "TOP_MEM", 3 << 30),
        Msr(AMD_TOP_MEM2, "TOP_MEM2"),
        Msr(AMD_NB_CFG, "NB_CFG"),
        Msr(AMD_PATCH_LOADER, "PATCH_LOADER", 0, Rule.WRITE_ONLY),
        Msr(AMD_INT_PENDING, "INT_PENDING", 0, Rule.IGNORED),
        Msr(AMD_MMIO_CONF_BASE, "MMIO_CONF_BASE"),
        Msr(AMD_LS_CFG, "LS_CFG"),
        Msr(AMD_DC_CFG, "DC_CFG"),
        Msr(AMD_DE_CFG, "DE_CFG", DE_CFG_LFENCE_SERIALIZES),
    ]
    for n in range(AMD_PERF_COUNTERS):  # no CPUID bit says that they are there; they read back, and count nothing
        msrs.append(Msr(AMD_PERF_EVENT_SELECT0 + n, f"PERF_EVENT_SELECT{n}", 0, Rule.CUT, PERF_EVENT_SELECT))
        msrs.append(Msr(AMD_PERF_COUNTER0 + n, f"PERF_COUNTER{n}", 0, Rule.CUT, PERF_COUNTER))
    if model.has("ibpb"):
        msrs.append(Msr(PRED_CMD, "PRED_CMD", 0, Rule.WRITE_ONLY))
    return msrs


def msrs_of(model: CpuModel) -> dict[int, Msr]:
    """Every MSR that a model has, by index; any other raises #GP. The x2APIC range (800h-8FFh) belongs to the local APIC."""
    return {msr.index: msr for msr in _common(model) + (_amd(model) if model.amd else _intel(model))}
