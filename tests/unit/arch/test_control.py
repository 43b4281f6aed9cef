"""What writes to the control registers leave, and which raise #GP."""

import pytest

from trapgate.arch import control as c
from trapgate.arch.models import CpuModel

TURIN = CpuModel.parse("EPYC-Turin")
PAGED = c.CR0_PG | c.CR0_PE | c.CR0_ET
LONG = c.EFER_LME | c.EFER_LMA


def cr0(new: int, old: int = c.CR0_RESET, cr4: int = 0, efer: int = 0, cs_long: bool = False) -> int:
    return c.check_cr0(old, new, cr4=cr4, efer=efer, cs_long=cs_long)


def test_cr0_stores_defined_bits() -> None:
    assert cr0(0) == c.CR0_ET
    assert cr0(0x1FFE_FFC0) == c.CR0_ET | c.CR0_AM  # reserved low bits are ignored


@pytest.mark.parametrize("new", [1 << 32, c.CR0_PG, c.CR0_NW])
def test_cr0_refuses(new: int) -> None:
    with pytest.raises(ValueError):
        cr0(new)


def test_entering_and_leaving_long_mode() -> None:
    assert cr0(PAGED, cr4=c.CR4_PAE, efer=c.EFER_LME) == PAGED
    with pytest.raises(ValueError, match="PAE"):
        cr0(PAGED, efer=c.EFER_LME)
    with pytest.raises(ValueError, match=r"CS\.L"):
        cr0(PAGED, cr4=c.CR4_PAE, efer=c.EFER_LME, cs_long=True)
    with pytest.raises(ValueError, match="64-bit"):
        cr0(c.CR0_PE, old=PAGED, cr4=c.CR4_PAE, efer=LONG, cs_long=True)
    assert cr0(c.CR0_PE, old=PAGED, cr4=c.CR4_PAE, efer=LONG) == c.CR0_PE | c.CR0_ET
    with pytest.raises(ValueError, match="PCIDE"):
        cr0(c.CR0_PE, old=PAGED, cr4=c.CR4_PAE | c.CR4_PCIDE, efer=LONG)


def cr4(new: int, old: int = 0, cr0: int = 0, cr3: int = 0, efer: int = 0, cpu: CpuModel = TURIN) -> int:
    return c.check_cr4(old, new, cr0=cr0, cr3=cr3, efer=efer, allowed=c.cr4_mask(cpu.has))


def test_cr4_follows_the_features() -> None:
    for bit, feature in ((c.CR4_SMEP, "smep"), (c.CR4_SMAP, "smap"), (c.CR4_UMIP, "umip"), (c.CR4_FSGSBASE, "fsgsbase")):
        assert cr4(bit) == bit
        with pytest.raises(ValueError):
            cr4(bit, cpu=CpuModel.parse(f"EPYC-Turin,-{feature}"))
    for bit in (c.CR4_LA57, c.CR4_VMXE, c.CR4_PKE, c.CR4_CET, c.CR4_PCIDE, 1 << 15, 1 << 40):
        with pytest.raises(ValueError):
            cr4(bit)


def test_cr4_in_long_mode() -> None:
    with pytest.raises(ValueError):
        cr4(0, old=c.CR4_PAE, cr0=PAGED, efer=LONG)
    cpu = CpuModel.parse("SapphireRapids,+pcid")
    both = c.CR4_PAE | c.CR4_PCIDE
    assert cr4(both, old=c.CR4_PAE, cr0=PAGED, efer=LONG, cpu=cpu) == both
    with pytest.raises(ValueError, match="PCIDE"):
        cr4(both, old=c.CR4_PAE, cr0=PAGED, efer=LONG, cr3=0x1001, cpu=cpu)
    with pytest.raises(ValueError, match="PCIDE"):
        cr4(both, old=c.CR4_PAE, cpu=cpu)


def test_cr3() -> None:
    assert c.check_cr3(1 << 39, cr4=0, efer=LONG, physical_bits=40) == 1 << 39
    with pytest.raises(ValueError):
        c.check_cr3(1 << 40, cr4=0, efer=LONG, physical_bits=40)
    with pytest.raises(ValueError):
        c.check_cr3(c.CR3_NOFLUSH, cr4=0, efer=LONG, physical_bits=40)
    assert c.check_cr3(c.CR3_NOFLUSH | 0x5000, cr4=c.CR4_PCIDE, efer=LONG, physical_bits=40) == 0x5000


def test_efer() -> None:
    allowed = c.efer_mask(TURIN.has)
    assert c.check_efer(0, c.EFER_LME | c.EFER_NXE, cr0=0, allowed=allowed) == c.EFER_LME | c.EFER_NXE
    assert c.check_efer(0, LONG, cr0=0, allowed=allowed) == c.EFER_LME  # LMA is the CPU's
    assert c.check_efer(LONG, c.EFER_LME, cr0=PAGED, allowed=allowed) == LONG
    with pytest.raises(ValueError, match="LME"):
        c.check_efer(LONG, 0, cr0=PAGED, allowed=allowed)
    for bit in (c.EFER_SVME, 1 << 1, 1 << 63):
        with pytest.raises(ValueError):
            c.check_efer(0, bit, cr0=0, allowed=allowed)
    without = c.efer_mask(CpuModel.parse("EPYC-Turin,-nx").has)
    with pytest.raises(ValueError):
        c.check_efer(0, c.EFER_NXE, cr0=0, allowed=without)


def test_cr8_and_xcr0() -> None:
    assert c.check_cr8(15) == 15
    with pytest.raises(ValueError):
        c.check_cr8(16)
    for supported, good in ((3, (1, 3)), (7, (1, 3, 7))):
        for value in range(16):
            if value in good:
                assert c.check_xcr0(value, supported) == value
            else:
                with pytest.raises(ValueError):
                    c.check_xcr0(value, supported)
