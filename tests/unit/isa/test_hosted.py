"""What the opcode table is made to say about instructions that the host executes itself."""

import pytest
from iced_x86 import Code, Code_, Decoder, OpCodeInfo

from trapgate.isa import catalog
from trapgate.isa.families import hosted, sse, x87


@pytest.mark.parametrize(
    ("code", "written", "read", "size", "aligned", "flags"),
    [
        (Code.ADDPS_XMM_XMMM128, (True, False), (True, True), 16, True, False),
        (Code.MOVAPS_XMM_XMMM128, (True, False), (False, True), 16, True, False),
        (Code.MOVUPS_XMMM128_XMM, (True, False), (False, True), 16, False, False),
        (Code.MOVSS_XMM_XMMM32, (True, False), (True, True), 4, False, False),  # the register form keeps the upper part
        (Code.CVTSI2SD_XMM_RM32, (True, False), (True, True), 4, False, False),
        (Code.UCOMISD_XMM_XMMM64, (False, False), (True, True), 8, False, True),
        (Code.PCMPISTRI_XMM_XMMM128_IMM8, (False, False, False), (True, True, True), 16, False, True),
        (Code.PEXTRB_R32M8_XMM_IMM8, (True, False, False), (False, True, True), 1, False, False),
        (Code.PADDB_MM_MMM64, (True, False), (True, True), 8, False, False),
        (Code.FADD_M64FP, (False,), (True,), 8, False, False),
        (Code.FCOMI_ST0_STI, (False, False), (True, True), 0, False, True),
    ],
)
def test_plan(code: Code_, written: tuple[bool, ...], read: tuple[bool, ...], size: int, aligned: bool, flags: bool) -> None:
    p = hosted.plan(code)
    assert (p.written, p.size, p.aligned(amd=False), p.sets_flags) == (written, size, aligned, flags)
    wrong = [n for n, needed in enumerate(read) if needed and not p.read[n]]  # reading more than needed is only slower
    assert not wrong


def test_families_have_no_strangers() -> None:
    """Only what was asked for by CPUID feature: nothing with VEX, no SSE4A, no 3DNow!, no FWAIT in front."""
    for code in (*sse.codes(), *x87.codes()):
        text = OpCodeInfo(code).op_code_string
        assert "VEX" not in text
        assert "9B" not in text.split()[0]
    assert Code.EXTRQ_XMM_IMM8_IMM8 not in set(sse.codes())


def test_form_names_are_unique() -> None:
    names = [form.name for form in catalog.forms()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("data", "memory", "expected"),
    [
        ("0ffcca", False, {"Bmodrm": 0xCA}),  # PADDB MM1, MM2
        ("0ffc08", True, {"Bmodrm": 0x0E}),  # PADDB MM1, [RAX]: memory is at [RSI]
        ("0f71d305", False, {"Bmodrm": 0xD3, "Bimm": 5}),  # PSRLW MM3, 5
        ("d8c3", False, {"Bmodrm": 0xC3}),  # FADD ST0, ST3
        ("dec1", False, {"Bmodrm": 0xC1}),  # FADDP ST1, ST0
    ],
)
def test_live_registers_lie_in_modrm(data: str, memory: bool, expected: dict[str, int]) -> None:
    i = Decoder(64, bytes.fromhex(data)).decode()
    assert hosted.holes(i, memory) == expected


def test_who_may_raise_simd_exceptions() -> None:
    raising = {hosted.plan(code).name for code in sse.codes() if hosted.raises(hosted.plan(code))}
    assert {
        "addps_xmm_xmmm128",
        "cvttss2si_r64_xmmm32",
        "roundsd_xmm_xmmm64_imm8",
        "comiss_xmm_xmmm32",
        "cvtpi2ps_xmm_mmm64",
    } <= raising
    assert (
        not {"movaps_xmm_xmmm128", "andps_xmm_xmmm128", "cvtdq2pd_xmm_xmmm64", "rcpps_xmm_xmmm128", "shufps_xmm_xmmm128_imm8"}
        & raising
    )
