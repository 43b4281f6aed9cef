"""Control registers, MSRs, CPUID, TLB invalidation (SDM vol. 2 and 3; APM vol. 2, 14.6 for the way into long mode)."""

import pytest

from trapgate.arch.models import MODELS
from trapgate.arch.msrs import MsrError
from trapgate.devices.lapic import LocalApic
from trapgate.soft.exact.msr import read_msr, write_msr
from trapgate.soft.state.fault import GuestFault
from unit.soft.bench import DATA, K64, KDATA, Bench

GP0 = (13, 0)
UD = (6, None)


def fault_of(bench: Bench, code: str) -> tuple[int, int | None]:
    """(vector, error code) of the fault that an instruction raises."""
    with pytest.raises(GuestFault) as caught:
        bench.run(code)
    return caught.value.vector, caught.value.error


def wrmsr(bench: Bench, index: int, value: int) -> None:
    """WRMSR by its handler."""
    bench.st.rcx, bench.st.rax, bench.st.rdx = index, value & 0xFFFFFFFF, value >> 32
    bench.run("0f30")


def rdmsr(bench: Bench, index: int) -> int:
    """RDMSR by its handler."""
    bench.st.rcx = index
    bench.run("0f32")
    return int(bench.st.rdx << 32 | bench.st.rax)


def test_the_way_into_long_mode_and_back() -> None:
    bench = Bench("32")
    st = bench.st
    bench.ram.write_int(0x100000, 8, 0x101007)
    bench.ram.write_int(0x101000, 8, 0x87)
    st.rax = 0x20
    bench.run("0f22e0")  # mov cr4, eax: PAE
    st.rax = 0x100000
    bench.run("0f22d8")
    wrmsr(bench, 0xC0000080, 0x100)
    st.rax = 0x80000011
    bench.run("0f22c0")
    assert (st.efer, st.mode & 3) == (0x500, 1)
    bench.run("ea004001000800")
    assert (st.cs_selector, st.mode & 3) == (K64, 2)
    bench.bits = 64
    st.rax = 0x11
    assert fault_of(bench, "0f22c0") == GP0  # PG cannot go while in 64-bit mode
    st.rax = 0
    assert fault_of(bench, "0f22e0") == GP0  # nor PAE
    wrmsr_fault = Bench("64")
    wrmsr_fault.st.rcx, wrmsr_fault.st.rax, wrmsr_fault.st.rdx = 0xC0000080, 0, 0
    assert fault_of(wrmsr_fault, "0f30") == GP0  # LME while PG


def test_leaving_long_mode_from_compatibility_mode() -> None:
    bench = Bench("compat")
    bench.st.rax = 0x11
    bench.run("0f22c0")
    assert (bench.st.efer & 0x400, bench.st.cr0) == (0, 0x11)


def test_control_registers_need_ring_0_and_legal_values() -> None:
    assert fault_of(Bench("64", cpl=3), "0f20c0") == GP0
    bench = Bench("64")
    bench.st.rax = 1 << 40
    assert fault_of(bench, "0f22c0") == GP0
    bench.st.rax = 1 << 50
    assert fault_of(bench, "0f22d8") == GP0
    bench.st.rax = bench.st.cr4 | 1 << 13  # VMXE
    assert fault_of(bench, "0f22e0") == GP0


def test_write_protect_takes_effect_at_once() -> None:
    bench = Bench("64")
    bench.ram.write_int(0x102008, 8, 0x200081)  # read-only
    bench.cpu.write(0x200000, 4, 1)
    bench.st.rax = bench.st.cr0 | 1 << 16
    bench.run("0f22c0")
    with pytest.raises(GuestFault) as caught:
        bench.cpu.write(0x200000, 4, 2)
    assert (caught.value.vector, caught.value.error, caught.value.cr2) == (14, 3, 0x200000)


def test_pae_tables_are_checked_when_loaded() -> None:
    bench = Bench("32")
    bench.st.cr4, bench.st.cr3 = 0x20, 0x100000
    bench.ram.write_int(0x100000, 8, 0x101001 | 1 << 1)  # bit 1 is reserved in a PDPTE
    bench.st.rax = 0x80000011
    assert fault_of(bench, "0f22c0") == GP0
    assert not bench.st.cr0 >> 31
    bench.ram.write_int(0x100000, 8, 0x101001)
    bench.run("0f22c0")
    assert bench.st.cr0 >> 31


def test_lmsw_cannot_clear_pe() -> None:
    bench = Bench("32")
    bench.st.rax = 0x8
    bench.run("0f01f0")
    assert bench.st.cr0 & 0xF == 9
    bench.run("0f06")  # clts
    assert bench.st.cr0 & 0xF == 1
    bench.run("0f01e0")  # smsw eax
    assert bench.st.rax == 0x11


def test_task_priority_reaches_the_apic() -> None:
    bench = Bench("64")
    bench.cpu.lapic = LocalApic(bench.cpu.clock, 2_000_000_000)
    bench.st.rax = 9
    bench.run("440f22c0")  # mov cr8, rax
    assert bench.cpu.lapic.tpr == 0x90
    bench.cpu.lapic.tpr = 0x20
    bench.run("440f20c0")
    assert bench.st.rax == 2
    bench.st.rax = 0x10
    assert fault_of(bench, "440f22c0") == GP0


def test_msrs_of_the_apic() -> None:
    bench = Bench("64")
    bench.cpu.lapic = LocalApic(bench.cpu.clock, 2_000_000_000)
    assert rdmsr(bench, 0x1B) == 0xFEE00900
    bench.st.rcx = 0x802
    assert fault_of(bench, "0f32") == GP0  # not in x2APIC mode
    wrmsr(bench, 0x1B, 0xFEE00D00)
    assert rdmsr(bench, 0x802) == 0


def test_msr_fields_and_faults() -> None:
    bench = Bench("64")
    wrmsr(bench, 0xC0000102, 0xFFFF800012345678)
    assert bench.st.kernel_gs_base == 0xFFFF800012345678
    assert rdmsr(bench, 0xC0000102) == 0xFFFF800012345678
    wrmsr(bench, 0x277, 0x0606060606060606)
    assert rdmsr(bench, 0x277) == 0x0606060606060606
    with pytest.raises(MsrError):
        write_msr(bench.cpu, 0x277, 2)
    with pytest.raises(MsrError):
        write_msr(bench.cpu, 0xC0000100, 1 << 47)
    with pytest.raises(MsrError):
        read_msr(bench.cpu, 0x12345)
    for index in (0x12345, 0x49):  # none, write-only
        bench.st.rcx = index
        assert fault_of(bench, "0f32") == GP0
    assert fault_of(Bench("64", cpl=3), "0f32") == GP0


def test_debugctl_arms_the_bus_lock_trap_outside_ring_0() -> None:
    bench = Bench("64")
    wrmsr(bench, 0x1D9, 4)
    assert (bench.st.debugctl, bench.st.bus_lock_trap) == (4, 0)
    ring3 = Bench("64", cpl=3)
    write_msr(ring3.cpu, 0x1D9, 4)
    assert ring3.st.bus_lock_trap
    bench.st.rax, bench.st.rdx = 8, 0
    assert fault_of(bench, "0f30") == GP0
    plain = Bench("64", model="EPYC-Turin,-bus-lock-detect")
    plain.st.rcx, plain.st.rax, plain.st.rdx = 0x1D9, 4, 0
    assert fault_of(plain, "0f30") == GP0


def test_split_lock_control_is_intels() -> None:
    bench = Bench("64", model="SapphireRapids")
    wrmsr(bench, 0x33, 1 << 29)
    assert bench.st.split_lock_ac == 1
    wrmsr(bench, 0x33, 0)
    assert bench.st.split_lock_ac == 0
    with pytest.raises(MsrError):
        write_msr(Bench("64").cpu, 0x33, 0)


def test_tsc_and_its_adjustment() -> None:
    bench = Bench("64", model="SapphireRapids")
    bench.run("0f31")
    start = bench.st.rdx << 32 | bench.st.rax
    assert start == bench.cpu.tsc() == 2000
    wrmsr(bench, 0x10, 0)
    assert rdmsr(bench, 0x10) == 0
    assert rdmsr(bench, 0x3B) == 2**64 - start
    wrmsr(bench, 0x3B, 0)
    assert rdmsr(bench, 0x10) == start
    user = Bench("64", cpl=3)
    user.run("0f31")
    user.st.cr4 |= 4
    assert fault_of(user, "0f31") == GP0
    assert fault_of(user, "0f01f9") == GP0


def test_tsc_aux() -> None:
    bench = Bench("64")
    wrmsr(bench, 0xC0000103, 7)
    bench.run("0f01f9")
    assert bench.st.rcx == 7
    bench.run("f30fc7f8")  # rdpid rax
    assert bench.st.rax == 7


def test_cpuid_shows_osxsave() -> None:
    bench = Bench("64")
    for cr4, expected in ((0x20, 0), (0x40020, 1)):
        bench.st.cr4, bench.st.rax, bench.st.rcx, bench.st.rbx = cr4, 0xFFFFFFFF_00000001, 0, 0xFFFF_FFFF_FFFF_FFFF
        bench.run("0fa2")
        assert bench.st.rcx >> 27 & 1 == expected
        assert bench.st.rax == MODELS["EPYC-Turin"].signature
        assert bench.st.rbx >> 32 == 0


def test_xcr0() -> None:
    bench = Bench("64")
    assert fault_of(bench, "0f01d0") == UD
    bench.st.cr4 |= 1 << 18
    bench.st.rax, bench.st.rdx, bench.st.rcx = 3, 0, 0
    bench.run("0f01d1")
    bench.run("0f01d0")
    assert (bench.st.xcr0, bench.st.rax) == (3, 3)
    for value in (0, 2, 5):  # without x87; YMM without XMM
        bench.st.rax = value
        assert fault_of(bench, "0f01d1") == GP0
    bench.st.rcx = 5
    assert fault_of(bench, "0f01d0") == GP0


def test_swapgs_is_the_kernels() -> None:
    assert fault_of(Bench("64", cpl=3), "0f01f8") == GP0


def test_invalidation() -> None:
    bench = Bench("64", model="EPYC-Turin,+invpcid,+pcid")
    bench.st.rax, bench.st.rbx = 2, DATA
    bench.run("660f388203")
    bench.st.rax = 4
    assert fault_of(bench, "660f388203") == GP0
    assert fault_of(Bench("64"), "660f388203") == UD
    assert fault_of(Bench("64", cpl=3), "0f0138") == GP0  # invlpg [rax]
    assert fault_of(Bench("64", cpl=3), "0f09") == GP0
    Bench("64").run("0f09")


def test_real_mode_gives_every_segment_all_rights() -> None:
    bench = Bench("32")
    bench.st.rax = 0x10
    bench.run("0f22c0")
    assert bench.st.cs_attributes >> 17 & 3 == 3
    assert bench.st.ds_selector == KDATA
