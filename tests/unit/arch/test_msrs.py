"""Which MSRs a model has, their reset values, and what a write may leave."""

import pytest

from trapgate.arch import msrs, registers
from trapgate.arch.models import CpuModel
from trapgate.arch.msrs import MsrError

TURIN = CpuModel.parse("EPYC-Turin")
SPR = CpuModel.parse("SapphireRapids")


def test_existence_follows_vendor_and_features() -> None:
    amd, intel = msrs.msrs_of(TURIN), msrs.msrs_of(SPR)
    for index in (msrs.TEST_CTRL, msrs.CORE_CAPABILITIES, msrs.ARCH_CAPABILITIES, msrs.TSC_DEADLINE, msrs.SPEC_CTRL):
        assert index in intel
        assert index not in amd
    for index in (msrs.AMD_HWCR, msrs.AMD_SYSCFG):
        assert index in amd
        assert index not in intel
    without = msrs.msrs_of(CpuModel.parse("SapphireRapids,-split-lock-detect,-tsc-deadline,-rdtscp,-rdpid"))
    assert not {msrs.TEST_CTRL, msrs.CORE_CAPABILITIES, msrs.TSC_DEADLINE, msrs.TSC_AUX} & set(without)
    assert all(index == one.index for table in (amd, intel) for index, one in table.items())


def test_debugctl_bit_2_needs_the_feature() -> None:
    for name in ("EPYC-Turin", "SapphireRapids"):
        debugctl = msrs.msrs_of(CpuModel.parse(name))[msrs.DEBUGCTL]
        assert debugctl.reset == 0
        assert debugctl.stored(4) == 4
        without = msrs.msrs_of(CpuModel.parse(f"{name},-bus-lock-detect"))[msrs.DEBUGCTL]
        with pytest.raises(MsrError, match="DEBUGCTL"):
            without.stored(4)
        for bit in range(3, 7):
            with pytest.raises(MsrError):
                debugctl.stored(1 << bit)


def test_split_lock_pair() -> None:
    table = msrs.msrs_of(SPR)
    assert table[msrs.CORE_CAPABILITIES].reset == 1 << 5
    assert table[msrs.TEST_CTRL].stored(1 << 29) == 1 << 29
    with pytest.raises(MsrError):
        table[msrs.TEST_CTRL].stored(1)


def test_flawless_intel() -> None:
    value = msrs.msrs_of(SPR)[msrs.ARCH_CAPABILITIES].reset
    for bit in (0, 1, 3, 4, 5, 6, 8, 13, 14, 15, 20, 24, 26, 27, 62):
        assert value >> bit & 1, bit
    assert not value >> 19 & 1
    assert not value >> 7 & 1
    assert not msrs.arch_capabilities(CpuModel.parse("SapphireRapids,-spec-ctrl")) & msrs.IBRS_ALL


def test_rules() -> None:
    table = msrs.msrs_of(SPR)
    with pytest.raises(MsrError):
        table[msrs.ARCH_CAPABILITIES].stored(0)
    assert table[msrs.MICROCODE].stored(5) is None
    assert table[msrs.PRED_CMD].stored(1) is None
    assert table[msrs.LSTAR].stored(0xFFFF_8000_0000_0000) == 0xFFFF_8000_0000_0000
    with pytest.raises(MsrError, match="LSTAR"):
        table[msrs.LSTAR].stored(0x8000_0000_0000)
    with pytest.raises(MsrError):
        table[msrs.SFMASK].stored(1 << 32)


def test_command_registers_cannot_be_read() -> None:
    for model, update in ((TURIN, msrs.AMD_PATCH_LOADER), (SPR, msrs.MICROCODE_UPDATE)):
        assert {one.index for one in msrs.msrs_of(model).values() if not one.readable} == {msrs.PRED_CMD, update}


def test_misc_enable_takes_back_what_was_read_and_any_documented_bit() -> None:
    one = msrs.msrs_of(SPR)[msrs.MISC_ENABLE]
    assert one.stored(one.reset) == one.reset == 0x1801
    for bit in (3, 16, 22, 23, 34, 38):
        assert one.stored(one.reset | 1 << bit) == one.reset | 1 << bit
    for bit in (7, 18):  # performance monitoring, MONITOR: our CPUs have neither
        assert one.stored(one.reset | 1 << bit) == one.reset
    assert one.stored(0) == 0x1800  # BTS and PEBS stay unavailable
    with pytest.raises(msrs.MsrError):
        one.stored(1 << 1)
    assert msrs.MISC_ENABLE not in msrs.msrs_of(TURIN)


def test_amds_performance_counters_need_no_cpuid_bit() -> None:
    table = msrs.msrs_of(TURIN)
    for n in range(4):
        assert table[0xC0010000 + n].stored(0xFFFF_FFFF_FFFF_FFFF) == 0x30F_FFD7_FFFF
        assert table[0xC0010004 + n].stored(0xFFFF_FFFF_FFFF_FFFF) == 0xFFFF_FFFF_FFFF
    assert not set(range(0xC0010000, 0xC0010008)) & set(msrs.msrs_of(SPR))


def test_where_sysenter_leads_by_vendor() -> None:
    for index in (msrs.SYSENTER_ESP, msrs.SYSENTER_EIP):
        assert msrs.msrs_of(TURIN)[index].stored(1 << 63 | 5) == 5
        with pytest.raises(msrs.MsrError):
            msrs.msrs_of(SPR)[index].stored(1 << 63)


def test_msrs_that_are_registers() -> None:
    for index, name in msrs.REGISTER_OF.items():
        assert name in registers.BY_NAME
        assert index in msrs.msrs_of(TURIN)
        assert index in msrs.msrs_of(SPR)


def test_memory_types() -> None:
    table = msrs.msrs_of(TURIN)
    pat = table[msrs.PAT]
    assert pat.stored(pat.reset) == pat.reset == 0x0007040600070406
    assert pat.stored(0x0107050606050107) is not None
    for bad in (2, 3, 8, 0xFF << 56):
        with pytest.raises(MsrError):
            pat.stored(bad)
    with pytest.raises(MsrError):
        table[0x250].stored(7)  # UC- exists in PAT only
    base, mask = table[msrs.MTRR_PHYSBASE0], table[msrs.MTRR_PHYSBASE0 + 1]
    assert base.stored(base.reset) == 0xC0000000
    assert mask.stored(mask.reset) == 0xFF_C000_0800
    with pytest.raises(MsrError):
        base.stored(1 << 40)
    with pytest.raises(MsrError):
        base.stored(0x100)


def test_xss_has_no_bits_and_goes_with_xsaves() -> None:
    xss = msrs.msrs_of(SPR)[msrs.XSS]
    assert xss.stored(0) == xss.reset == 0
    for bit in range(64):
        with pytest.raises(MsrError, match="XSS"):
            xss.stored(1 << bit)
    assert msrs.XSS not in msrs.msrs_of(CpuModel.parse("SapphireRapids,-xsaves"))
    assert msrs.XSS not in msrs.msrs_of(CpuModel.parse("EPYC-Turin,-xsave"))


@pytest.mark.parametrize("name", ["EPYC-Turin", "SapphireRapids"])
def test_reset_values_are_legal(name: str) -> None:
    for one in msrs.msrs_of(CpuModel.parse(name)).values():
        assert 0 <= one.reset < 1 << 64
        if one.rule not in (msrs.Rule.READ_ONLY, msrs.Rule.IGNORED, msrs.Rule.WRITE_ONLY):
            assert one.stored(one.reset) == one.reset, one.name
