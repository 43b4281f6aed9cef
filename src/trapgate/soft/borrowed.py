"""Tells which features of a CPU model are the host's own instructions (`isa.families.hosted`): a guest has what the host has."""

from trapgate import hostcpu
from trapgate.arch.models import CpuModel

# The kernel's name of each (arch/x86/include/asm/cpufeatures.h).
KERNEL_NAMES = {
    "mmx": "mmx", "sse": "sse", "sse2": "sse2", "sse3": "pni", "ssse3": "ssse3", "sse4.1": "sse4_1", "sse4.2": "sse4_2",
    "aes": "aes", "pclmulqdq": "pclmulqdq", "sha-ni": "sha_ni",
    "avx": "avx", "avx2": "avx2", "fma": "fma", "f16c": "f16c",
}  # fmt: skip


def lacked(model: CpuModel) -> tuple[str, ...]:
    """The features that a model has and cannot have on this host; none where the host's kernel does not tell."""
    has = hostcpu.features()
    return () if has is None else tuple(name for name, own in KERNEL_NAMES.items() if model.has(name) and own not in has)


def possible(model: CpuModel) -> CpuModel:
    """The model without what the host lacks, and without what rests on that: CPUID does not show it, its instructions are #UD."""
    for name in lacked(model):
        model = model.with_feature(name, False)
    return model
