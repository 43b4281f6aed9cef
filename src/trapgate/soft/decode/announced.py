"""Tells which instructions a model has: CPUID announces a feature, or those that need it are #UD, or mean something older.

Sources: SDM vol. 2, "CPUID Feature Flag" of each instruction; APM vol. 3, appendix D.
"""

from iced_x86 import CodeSize, CpuidFeature, Instruction, Mnemonic

from trapgate.arch.models import CpuModel

# Features that every model has without a bit that could be switched off.
_BASELINE = frozenset(
    getattr(CpuidFeature, name)
    for name in "INTEL8086 INTEL186 INTEL286 INTEL386 INTEL486 X64 CPUID RDPMC PAUSE MULTIBYTENOP".split()
)
# iced-x86's features by the names of `arch.features`. What stands in neither table is nothing that these CPUs have.
_NAMES = {
    "FPU": "fpu", "FPU287": "fpu", "FPU387": "fpu", "TSC": "tsc", "MSR": "msr", "CX8": "cx8", "CMPXCHG16B": "cx16", "SEP": "sep",
    "CMOV": "cmov", "CLFSH": "clflush", "MMX": "mmx", "FXSR": "fxsr", "SSE": "sse", "SSE2": "sse2", "SSE3": "sse3",
    "SSSE3": "ssse3", "SSE4_1": "sse4.1", "SSE4_2": "sse4.2", "PCLMULQDQ": "pclmulqdq", "AES": "aes", "SHA": "sha-ni",
    "MOVBE": "movbe", "POPCNT": "popcnt", "LZCNT": "abm", "BMI1": "bmi1", "BMI2": "bmi2", "ADX": "adx", "AVX": "avx",
    "AVX2": "avx2", "FMA": "fma", "F16C": "f16c", "XSAVE": "xsave", "XSAVEOPT": "xsaveopt", "XSAVEC": "xsavec",
    "XSAVES": "xsaves", "RDRAND": "rdrand", "RDSEED": "rdseed", "FSGSBASE": "fsgsbase", "INVPCID": "invpcid", "SMAP": "smap",
    "RDPID": "rdpid", "RDTSCP": "rdtscp", "CLFLUSHOPT": "clflushopt", "CLWB": "clwb", "PREFETCHW": "3dnowprefetch",
    "SYSCALL": "syscall", "SERIALIZE": "serialize",
}  # fmt: skip
_FEATURES = {getattr(CpuidFeature, name): feature for name, feature in _NAMES.items()}
# Encodings that were no-operations or had another meaning before (SDM vol. 2, ENDBR64, RDSSPD, TZCNT, LZCNT, WBNOINVD, CLDEMOTE,
# PREFETCHW, PREFETCHWT1: hints are ignored by processors without them).
_HINTS = (Mnemonic.ENDBR32, Mnemonic.ENDBR64, Mnemonic.RDSSPD, Mnemonic.RDSSPQ, Mnemonic.CLDEMOTE, Mnemonic.PREFETCHWT1,
          Mnemonic.PREFETCHIT0, Mnemonic.PREFETCHIT1, Mnemonic.PREFETCHW, Mnemonic.PREFETCH)  # fmt: skip
_OLDER = {
    **dict.fromkeys(_HINTS, Mnemonic.NOP),
    Mnemonic.TZCNT: Mnemonic.BSF,
    Mnemonic.LZCNT: Mnemonic.BSR,
    Mnemonic.WBNOINVD: Mnemonic.WBINVD,
}


def meaning(i: Instruction, model: CpuModel) -> int | None:
    """The mnemonic (iced_x86.Mnemonic) as which a decoded instruction executes on this model; None: #UD."""
    for feature in i.cpuid_features():
        if feature in _BASELINE:
            continue
        name = _FEATURES.get(feature)
        if name is None or not model.has(name):
            return _OLDER.get(i.mnemonic)
    if i.mnemonic in (Mnemonic.LAHF, Mnemonic.SAHF) and i.code_size == CodeSize.CODE64 and not model.has("lahf-lm"):
        return None
    return i.mnemonic
