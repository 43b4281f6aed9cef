"""CPU models, their features by name, and what CPUID says of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapgate.arch import features
from trapgate.arch.cpuid import Dynamic, Leaf
from trapgate.arch.cpuid import leaf as cpuid_leaf
from trapgate.arch.models import DEFAULT_MODEL, LEVELS, MODELS, CpuModel, ModelError

TURIN = CpuModel.parse("EPYC-Turin")
SPR = CpuModel.parse("SapphireRapids")
BOTH = pytest.mark.parametrize("model", [TURIN, SPR], ids=lambda model: model.name)


def cpuid(model: CpuModel, leaf: int, subleaf: int = 0, dynamic: Dynamic | None = None) -> Leaf:
    return cpuid_leaf(model, leaf, subleaf, dynamic or Dynamic())


def test_vendor_family_model() -> None:
    def vendor(model: CpuModel) -> bytes:
        _, b, c, d = cpuid(model, 0)
        return b"".join(word.to_bytes(4, "little") for word in (b, d, c))

    def family_model(model: CpuModel) -> tuple[int, int]:
        eax = cpuid(model, 1)[0]
        family = eax >> 8 & 15
        return (family + (eax >> 20 & 255) if family == 15 else family), (eax >> 4 & 15) | (eax >> 16 & 15) << 4

    assert (vendor(TURIN), *family_model(TURIN)) == (b"AuthenticAMD", 0x1A, 2)
    assert (vendor(SPR), *family_model(SPR)) == (b"GenuineIntel", 6, 0x8F)
    assert TURIN.vendor == "amd"
    assert TURIN.amd
    assert not SPR.amd
    assert DEFAULT_MODEL in MODELS


@BOTH
def test_bus_lock_detect_is_leaf_7_ecx_24(model: CpuModel) -> None:
    assert cpuid(model, 7)[2] >> 24 & 1
    off = model.with_feature("bus-lock-detect", False)
    assert not off.has("bus-lock-detect")
    assert not cpuid(off, 7)[2] >> 24 & 1
    assert off.with_feature("bus_lock_detect", True) == model


def test_split_lock_detect_is_intels() -> None:
    assert SPR.has("split-lock-detect")
    assert cpuid(SPR, 7)[3] >> 30 & 1
    assert not TURIN.has("split-lock-detect")
    assert not cpuid(TURIN, 7)[3] >> 30 & 1
    with pytest.raises(ModelError, match="no AMD part has it"):
        CpuModel.parse("EPYC-Turin,+split-lock-detect")
    assert CpuModel.parse("EPYC-Turin,-split-lock-detect") == TURIN


@BOTH
def test_what_is_not_there(model: CpuModel) -> None:
    _, ebx, ecx, edx = cpuid(model, 7)
    assert not ebx & (1 << 2 | 1 << 4 | 1 << 11 | 1 << 14 | 1 << 16)  # SGX HLE RTM MPX AVX512F
    assert not ecx & (1 << 3 | 1 << 7 | 1 << 13 | 1 << 16)  # PKU CET_SS TME LA57
    assert not edx & 1 << 20  # CET_IBT
    assert not cpuid(model, 1)[2] & (1 << 3 | 1 << 5 | 1 << 17)  # MONITOR VMX PCID
    assert cpuid(model, 0xD)[0] == 7
    assert cpuid(model, 0xD)[1:3] == (576, 832)
    assert cpuid(model, 0xA) == (0, 0, 0, 0)


V2 = "cmov cx8 fpu fxsr mmx sse sse2 cx16 lahf-lm popcnt sse3 sse4.1 sse4.2 ssse3 syscall lm nx".split()
V3 = "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave".split()  # x86-64 psABI, 3.1.1; XSAVE is what OSXSAVE needs


@BOTH
def test_x86_64_v3_is_complete(model: CpuModel) -> None:
    assert all(model.has(feature) for feature in V2 + V3)


def test_levels_by_name() -> None:
    two, three = CpuModel.parse("x86-64-v2"), CpuModel.parse("X86-64-V3")
    assert all(two.has(feature) for feature in V2)
    assert [feature for feature in V3 if two.has(feature)] == ["xsave"]
    assert all(three.has(feature) for feature in V2 + V3)
    assert not any(model.has(feature) for model in (two, three) for feature in ("aes", "sha-ni", "adx", "pclmulqdq"))
    assert CpuModel.parse("x86-64-v2,+avx").has("avx")
    assert cpuid(two, 0xD)[0] == 3
    assert {one.name for one in LEVELS.values()} == set(LEVELS)
    with pytest.raises(ModelError, match="did you mean x86-64-v3 or x86-64-v2"):
        CpuModel.parse("x86-64-v4")


def test_avx_rests_on_xsave_and_others_on_it() -> None:
    left = CpuModel.parse("EPYC-Turin,-xsave")
    assert not any(left.has(feature) for feature in ("avx", "avx2", "fma", "f16c"))
    with pytest.raises(ModelError, match="needs 'avx'"):
        CpuModel.parse("EPYC-Turin,-avx,+avx2")


@BOTH
@pytest.mark.parametrize("name", sorted(features.FEATURES))
def test_each_feature_shows_in_its_bit(model: CpuModel, name: str) -> None:
    leaf, subleaf, register, bit = features.FEATURES[name]
    shown = cpuid(model, leaf, subleaf)[("eax", "ebx", "ecx", "edx").index(register)] >> bit & 1
    beyond = leaf == 0x80000021 and not model.amd  # Intel repeats its highest basic leaf there
    assert beyond or shown == model.has(name)


def test_dynamic_bits() -> None:
    assert not cpuid(SPR, 1)[2] >> 27 & 1
    assert cpuid(SPR, 1, dynamic=Dynamic(osxsave=True))[2] >> 27 & 1
    assert cpuid(SPR, 1)[3] >> 9 & 1
    assert not cpuid(SPR, 1, dynamic=Dynamic(apic_enabled=False))[3] >> 9 & 1
    assert not cpuid(TURIN, 0x80000001, dynamic=Dynamic(apic_enabled=False))[3] >> 9 & 1
    assert cpuid(SPR, 1, dynamic=Dynamic(apic_id=3, cpus=4))[1] >> 24 == 3


@BOTH
@given(cpus=st.integers(1, 64))
def test_topology_is_consistent(model: CpuModel, cpus: int) -> None:
    dynamic = Dynamic(apic_id=cpus - 1, cpus=cpus)
    shift, count, kind, apic_id = cpuid(model, 0xB, 1, dynamic)
    assert (count, kind, apic_id) == (cpus, 0x201, cpus - 1)
    assert 1 << shift >= cpus
    assert cpus == 1 or 1 << shift - 1 < cpus
    assert cpuid(model, 0xB, 0, dynamic) == (0, 1, 0x100, cpus - 1)
    assert cpuid(model, 0xB, 2, dynamic)[:3] == (0, 0, 2)
    assert bool(cpuid(model, 1, 0, dynamic)[3] >> 28 & 1) == (cpus > 1)
    if model.amd:
        assert cpuid(model, 0x80000008, 0, dynamic)[2] == shift << 12 | cpus - 1
        assert cpuid(model, 0x8000001E, 0, dynamic)[0] == cpus - 1
    else:
        assert cpuid(model, 4, 3, dynamic)[0] >> 26 == (1 << shift) - 1


@BOTH
def test_caches_multiply_out(model: CpuModel) -> None:
    leaf = 0x8000001D if model.amd else 4
    sizes = []
    for subleaf in range(5):
        eax, ebx, ecx, _ = cpuid(model, leaf, subleaf)
        if eax & 31:
            sizes.append(((ebx >> 22) + 1) * ((ebx & 0xFFF) + 1) * (ecx + 1) >> 10)
            assert (ebx & 0xFFF) + 1 == model.line_size
    assert len(sizes) == 4
    assert sizes[:2] == [48, 32]
    assert cpuid(model, 0x80000006)[2] >> 16 == sizes[2]


def test_line_size_where_the_manuals_put_it() -> None:
    assert cpuid(TURIN, 0x80000005)[2] & 0xFF == 64
    assert cpuid(SPR, 1)[1] >> 8 & 0xFF == 8


def test_tsc_frequency() -> None:
    eax, ebx, ecx, _ = cpuid(SPR, 0x15)
    assert ecx * ebx // eax == SPR.tsc_hz
    assert cpuid(SPR, 0x16)[0] * 1_000_000 == SPR.tsc_hz
    assert cpuid(TURIN, 0x15) == (0, 0, 0, 0)
    assert cpuid(TURIN, 0x80000007)[3] == cpuid(SPR, 0x80000007)[3] == 0x100


def test_leaves_beyond_the_end() -> None:
    for leaf in (0x17, 0x7FFFFFFF, 0x80000009, 0xFFFFFFFF):
        assert cpuid(SPR, leaf) == cpuid(SPR, 0x16)
    for leaf in (0xE, 0x7FFFFFFF, 0x80000022, 0xFFFFFFFF):
        assert cpuid(TURIN, leaf) == (0, 0, 0, 0)


@BOTH
def test_hypervisor_leaf(model: CpuModel) -> None:
    eax, *words = cpuid(model, 0x40000000)
    assert (eax, b"".join(word.to_bytes(4, "little") for word in words)) == (0x40000000, b"TrapgateVMM ")
    assert cpuid(model, 0x40000001) == (0, 0, 0, 0)
    assert cpuid(model.with_feature("hypervisor", False), 0x40000000) == (0, 0, 0, 0)


@BOTH
def test_brand_string(model: CpuModel) -> None:
    words = [word for leaf in (0x80000002, 0x80000003, 0x80000004) for word in cpuid(model, leaf)]
    assert b"".join(word.to_bytes(4, "little") for word in words).rstrip(b"\0").decode() == model.brand


@BOTH
@given(
    leaf=st.integers(0, 0xFFFFFFFF) | st.integers(0, 0x20) | st.integers(0x80000000, 0x80000030), subleaf=st.integers(0, 0xFFFFFFFF)
)
def test_every_leaf_answers_32_bits(model: CpuModel, leaf: int, subleaf: int) -> None:
    assert all(0 <= word < 1 << 32 for word in cpuid(model, leaf, subleaf, Dynamic(apic_id=300, cpus=512)))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "SaphireRapids",
            "unknown CPU 'SaphireRapids'; did you mean SapphireRapids?; known: EPYC-Turin, SapphireRapids, x86-64-v2, x86-64-v3",
        ),
        ("", "unknown CPU ''; known: EPYC-Turin, SapphireRapids, x86-64-v2, x86-64-v3"),
        ("EPYC-Turin,+smpe", "unknown CPU feature 'smpe'; did you mean smep"),
        ("EPYC-Turin,smep", "'smep' is no CPU feature switch; write +feature or -feature"),
        ("EPYC-Turin,+", "'+' is no CPU feature switch"),
        ("EPYC-Turin,+avx512f", "CPU feature 'avx512f' is not implemented; leave it out"),
        ("EPYC-Turin,-xsave,+xsavec", "CPU feature 'xsavec' needs 'xsave'"),
    ],
)
def test_errors_are_one_clear_line(text: str, line: str) -> None:
    with pytest.raises(ModelError) as caught:
        CpuModel.parse(text)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_switching() -> None:
    assert CpuModel.parse("epyc-turin , -SMEP").enabled == TURIN.enabled - {"smep"}
    assert CpuModel.parse("EPYC-Turin,-avx512f") == TURIN
    assert not CpuModel.parse("EPYC-Turin,-sse2").enabled & {"sse3", "ssse3", "sse4.1", "sse4.2", "aes", "pclmulqdq", "sha-ni"}
    assert CpuModel.parse("SapphireRapids,+pcid").has("pcid")
    assert CpuModel.parse("EPYC-Turin,-pni").enabled == CpuModel.parse("EPYC-Turin,-sse3").enabled


@BOTH
def test_lists_agree(model: CpuModel) -> None:
    assert model.enabled <= model.available <= set(features.FEATURES)
    assert not set(features.FEATURES) & features.UNIMPLEMENTED
    assert set(features.ALIASES.values()) <= set(features.FEATURES)
    assert all(features.NEEDS[one] in model.enabled for one in model.enabled if one in features.NEEDS)
    assert set(features.NEEDS) | set(features.NEEDS.values()) <= set(features.FEATURES)
