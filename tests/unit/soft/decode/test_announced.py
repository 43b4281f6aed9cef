"""Instructions exist as far as CPUID announces them; some encodings are older instructions where it does not."""

import pytest
from iced_x86 import Code, Code_, CpuidFeature, Decoder, EncodingKind, Instruction, Mnemonic, OpCodeInfo

from trapgate.arch.models import MODELS, CpuModel
from trapgate.soft.decode.announced import meaning

TURIN = MODELS["EPYC-Turin"]


def decode(code: str, bits: int = 64) -> Instruction:
    """The instruction of some bytes in hexadecimal."""
    instruction = Decoder(bits, bytes.fromhex(code)).decode()
    assert not instruction.is_invalid
    return instruction


@pytest.mark.parametrize(
    ("code", "feature", "otherwise"),
    [
        ("f30fb8c1", "popcnt", None),
        ("f30fbcc1", "bmi1", Mnemonic.BSF),
        ("f30fbdc1", "abm", Mnemonic.BSR),
        ("c4e270f2c2", "bmi1", None),
        ("c4e27bf6c2", "bmi2", None),
        ("660f38f6c1", "adx", None),
        ("0f38f001", "movbe", None),
        ("f20f38f0c1", "sse4.2", None),
        ("660f38dcc1", "aes", None),
        ("480fc709", "cx16", None),
        ("f3480faec0", "fsgsbase", None),
        ("0f01cb", "smap", None),
        ("0fc7f0", "rdrand", None),
        ("0fc727", "xsavec", None),
        ("0fc72f", "xsaves", None),
        ("480fc71f", "xsaves", None),
        ("9f", "lahf-lm", None),
        ("0f0d08", "3dnowprefetch", Mnemonic.NOP),
    ],
)
def test_a_feature_switched_off_takes_its_instructions_with_it(code: str, feature: str, otherwise: int | None) -> None:
    instruction = decode(code)
    assert meaning(instruction, TURIN) == instruction.mnemonic
    assert meaning(instruction, TURIN.with_feature(feature, False)) == otherwise


@pytest.mark.parametrize("code", ["62f1745858c2", "0f01d5", "c7f800000000", "0f01c8", "0f01d9", "c4e27550c2", "c4e37d44c200"])
def test_what_no_model_has_is_undefined(code: str) -> None:
    """An AVX-512 addition, XEND, XBEGIN, MONITOR, VMMCALL, VPDPBUSD, VPCLMULQDQ on YMM registers."""
    for model in MODELS.values():
        assert meaning(decode(code), model) is None


def test_hints_stay_hints() -> None:
    assert meaning(decode("f30f1efa"), TURIN) == Mnemonic.NOP
    assert meaning(decode("f3480f1ec8"), TURIN) == Mnemonic.NOP


def test_lahf_needs_no_feature_outside_64_bit_mode() -> None:
    assert meaning(decode("9f", 32), CpuModel.parse("EPYC-Turin,-lahf-lm")) == Mnemonic.LAHF


def test_what_vex_and_evex_mean() -> None:
    """Of all VEX, EVEX and XOP encodings those of x86-64-v3, and of AES and PCLMULQDQ on XMM registers, are left."""
    ours = {CpuidFeature.BMI1, CpuidFeature.BMI2, CpuidFeature.AVX, CpuidFeature.AVX2, CpuidFeature.FMA, CpuidFeature.F16C,
            CpuidFeature.AES, CpuidFeature.PCLMULQDQ}  # fmt: skip
    found = set()
    for name in vars(Code):
        value: Code_ = getattr(Code, name)
        if not isinstance(value, int) or "KNC" in name:  # Knights Corner's are decoded on demand only
            continue
        if OpCodeInfo(value).encoding in (EncodingKind.LEGACY, EncodingKind.D3NOW):
            continue
        instruction = Instruction()
        instruction.code = value
        there = meaning(instruction, TURIN) is not None
        assert there == (OpCodeInfo(value).encoding == EncodingKind.VEX and set(instruction.cpuid_features()) <= ours), name
        found |= set(instruction.cpuid_features()) if there else set()
    assert found == ours
