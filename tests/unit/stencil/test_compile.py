"""Machine code of ours uses what the host's CPU has, not what CPUs of its name have."""

import llvmlite.binding as llvm
import pytest
from iced_x86 import CpuidFeature, Decoder, Mnemonic

from trapgate.isa import catalog
from trapgate.stencil.library import compile_forms, compile_native

TAKEN = "avx avx2 bmi bmi2 lzcnt popcnt movbe adx fma f16c sse3 ssse3 sse4.1 sse4.2 sha aes".split()
BASELINE = {"INTEL8086", "INTEL186", "INTEL386", "INTEL486", "X64", "CMOV", "FPU", "FPU287", "FPU387", "MMX", "FXSR", "SSE", "SSE2",
            "MULTIBYTENOP", "SYSCALL"}  # fmt: skip
NAMES = {value: name for name, value in vars(CpuidFeature).items() if isinstance(value, int)}
BITS = tuple("andn. blsi. bextr. bzhi. pdep. pext. popcnt. lzcnt. tzcnt. bswap. mulx. rorx. sarx. movbe. crc32.".split())


def needed(code: bytes) -> set[str]:
    """The features that code needs beyond the baseline of x86-64. TZCNT is BSF where there is none: LLVM uses it as that."""
    decoded = (i for i in Decoder(64, code) if not i.is_invalid and i.mnemonic != Mnemonic.TZCNT)
    return {NAMES[feature] for i in decoded for feature in i.cpuid_features()} - BASELINE


def test_a_hypervisor_has_taken_features_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU's name stays; nothing but the guest's own encodings needs what is gone."""
    names = [form.name for form in catalog.forms()]
    chosen = [name for n, name in enumerate(names) if n % 40 == 0 or name.startswith(BITS)]
    with_all = set().union(*(needed(stencil.code) for stencil in compile_forms(chosen).values()))
    has = llvm.get_host_cpu_features()
    monkeypatch.setattr(llvm, "get_host_cpu_features", lambda: {**has, **dict.fromkeys(TAKEN, False)})
    for name, stencil in compile_forms(chosen).items():
        hosted = "_" in name or name.startswith("crc32")  # named by iced-x86's encoding; announced where the host has it
        assert hosted or not needed(stencil.code), name
    blob, entries = compile_native()
    ends = sorted([*entries.values(), len(blob)])
    for name, at in entries.items():
        assert not needed(blob[at : ends[ends.index(at) + 1]]), name
    assert with_all, "this host has nothing to take away"
