"""Names the CPUID feature bits (as QEMU and Linux do), and which of them our CPUs can offer.

Sources: SDM vol. 2, CPUID; APM vol. 3, appendix E.
"""

from typing import NamedTuple


class Bit(NamedTuple):
    """Where CPUID reports a feature. `register`: 'eax', 'ebx', 'ecx' or 'edx'."""

    leaf: int
    subleaf: int
    register: str
    bit: int


def _names(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


def _bits(leaf: int, subleaf: int, register: str, **positions: int) -> dict[str, Bit]:
    """Features of one register; `_` in a keyword stands for `-`."""
    return {name.replace("_", "-").strip("-"): Bit(leaf, subleaf, register, bit) for name, bit in positions.items()}


FEATURES: dict[str, Bit] = {
    **_bits(1, 0, "edx", fpu=0, vme=1, de=2, pse=3, tsc=4, msr=5, pae=6, mce=7, cx8=8, apic=9, sep=11, mtrr=12, pge=13, mca=14),
    **_bits(1, 0, "edx", cmov=15, pat=16, pse36=17, clflush=19, mmx=23, fxsr=24, sse=25, sse2=26),
    **_bits(1, 0, "ecx", sse3=0, pclmulqdq=1, ssse3=9, cx16=13, pcid=17, x2apic=21, movbe=22, popcnt=23, tsc_deadline=24),
    **_bits(1, 0, "ecx", fma=12, aes=25, xsave=26, avx=28, f16c=29, rdrand=30, hypervisor=31),
    "sse4.1": Bit(1, 0, "ecx", 19),
    "sse4.2": Bit(1, 0, "ecx", 20),
    **_bits(6, 0, "eax", arat=2),
    **_bits(7, 0, "ebx", fsgsbase=0, tsc_adjust=1, bmi1=3, avx2=5, fdp_excptn_only=6, smep=7, bmi2=8, erms=9, invpcid=10),
    **_bits(7, 0, "ebx", zero_fcs_fds=13, rdseed=18, adx=19, smap=20, clflushopt=23, clwb=24, sha_ni=29),
    **_bits(7, 0, "ecx", umip=2, rdpid=22, bus_lock_detect=24),
    **_bits(7, 0, "edx", fsrm=4, md_clear=10, serialize=14, spec_ctrl=26, arch_capabilities=29, split_lock_detect=30),
    **_bits(0xD, 1, "eax", xsaveopt=0, xsavec=1, xgetbv1=2, xsaves=3),
    **_bits(0x80000001, 0, "ecx", lahf_lm=0, cmp_legacy=1, abm=5, _3dnowprefetch=8, topoext=22),
    **_bits(0x80000001, 0, "edx", syscall=11, nx=20, mmxext=22, fxsr_opt=25, pdpe1gb=26, rdtscp=27, lm=29),
    **_bits(0x80000007, 0, "edx", invtsc=8),
    **_bits(0x80000008, 0, "ebx", xsaveerptr=2, ibpb=12, amd_ssb_no=26, btc_no=29),
    **_bits(0x80000021, 0, "eax", no_nested_data_bp=0, lfence_always_serializing=2, null_sel_clr_base=6, auto_ibrs=8, srso_no=29),
}

ALIASES = {
    "pni": "sse3",
    "sse4-1": "sse4.1",
    "sse4-2": "sse4.2",
    "cmpxchg16b": "cx16",
    "tsc-deadline-timer": "tsc-deadline",
    "sha": "sha-ni",
    "lzcnt": "abm",
    "xd": "nx",
    "i64": "lm",
    "core-capability": "split-lock-detect",
    "buslocktrap": "bus-lock-detect",
    "autoibrs": "auto-ibrs",
    "clfsh": "clflush",
}

# Features that exist in silicon but not in our CPUs: asking for one is answered by name, not as a misspelling.
UNIMPLEMENTED = _names(
    "avx512f la57 pku pks cet-ss cet-ibt shstk ibt vmx svm smx sgx rtm hle mpx tme sev monitor ht "
    "pdcm osvw sse4a misalignsse 3dnow tbm xop fma4 vaes vpclmulqdq gfni amx-tile amx-int8 amx-bf16 movdiri movdir64b "
    "waitpkg cldemote invlpgb perfmon-v2 ds dtes64 stibp ssbd uintr lam fred bpext"
)

# What only one vendor's CPUs report.
INTEL_ONLY = _names("split-lock-detect arch-capabilities spec-ctrl md-clear serialize tsc-deadline fdp-excptn-only zero-fcs-fds")
AMD_ONLY = _names(
    "cmp-legacy topoext mmxext fxsr-opt ibpb amd-ssb-no btc-no no-nested-data-bp lfence-always-serializing null-sel-clr-base "
    "auto-ibrs srso-no xsaveerptr"
)

# A feature goes when the one it rests on is switched off, and cannot be switched on without it.
NEEDS = {
    "sse": "fxsr",
    "sse2": "sse",
    "sse3": "sse2",
    "ssse3": "sse3",
    "sse4.1": "ssse3",
    "sse4.2": "sse4.1",
    "aes": "sse2",
    "pclmulqdq": "sse2",
    "sha-ni": "sse2",
    "mmxext": "mmx",
    "avx": "xsave",
    "avx2": "avx",
    "fma": "avx",
    "f16c": "avx",
    "xsaveopt": "xsave",
    "xsavec": "xsave",
    "xgetbv1": "xsave",
    "xsaves": "xsavec",
    "x2apic": "apic",
    "tsc-deadline": "apic",
    "mtrr": "msr",
    "fsrm": "erms",
    "invtsc": "tsc",
    "cx16": "cx8",
    "lahf-lm": "lm",
    "pcid": "lm",
}

# In both models: the x86-64 baseline, and what any recent server part has and our CPUs implement. No AMD part has TSC_ADJUST, but
# hypervisors give it to their guests on AMD too: by it Linux knows that the TSC needs no watchdog, which a slow host would mislead.
COMMON = _names(
    "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 sse3 ssse3 sse4.1 sse4.2 "
    "cx16 x2apic movbe popcnt aes pclmulqdq xsave xsaveopt xsavec xgetbv1 xsaves rdrand rdseed hypervisor arat fsgsbase bmi1 "
    "bmi2 abm avx avx2 fma f16c adx smep smap umip rdpid erms fsrm clflushopt clwb sha-ni bus-lock-detect lahf-lm 3dnowprefetch "
    "syscall nx pdpe1gb rdtscp lm invtsc tsc-adjust"
)


# What level v3 of the x86-64 psABI has beyond v2, and extensions that are of no level up to it.
LEVEL_3 = _names("avx avx2 bmi1 bmi2 f16c fma abm movbe")
BESIDE_LEVELS = _names("aes pclmulqdq sha-ni adx")


def canonical_name(name: str) -> str:
    """The name in FEATURES for what a user wrote: case, `_` for `-`, and aliases are forgiven."""
    name = name.strip().lower().replace("_", "-")
    return ALIASES.get(name, name)
