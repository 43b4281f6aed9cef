"""Segment loads, descriptor-table instructions and effective addresses (SDM vol. 3, 3.4 and 5; vol. 2 under each name)."""

import pytest

from trapgate.isa.state import READABLE, UNUSABLE, WRITABLE
from trapgate.soft.exact.operands import linear_address
from trapgate.soft.exact.segments import put_segment
from trapgate.soft.state.fault import GuestFault
from unit.soft.bench import ABSENT, DATA, DOWN, GDT, KDATA, LDT, READONLY, TSS_SELECTOR, U32, UDATA, Bench


def fault_of(bench: Bench, code: str) -> tuple[int, int | None]:
    """(vector, error code) of the fault that an instruction raises, which must have left RSP and the selectors alone."""
    st = bench.st
    before = (st.rsp, st.rip, st.cs_selector, st.ss_selector, st.ds_selector, st.get_rflags())
    with pytest.raises(GuestFault) as caught:
        bench.run(code)
    assert (st.rsp, st.rip, st.cs_selector, st.ss_selector, st.ds_selector, st.get_rflags()) == before
    return caught.value.vector, caught.value.error


def test_real_mode_load_keeps_the_limit() -> None:
    bench = Bench("real")
    put_segment(bench.cpu, "ds", 0, 0, 0xFFFFFFFF, 0x8093)
    bench.st.rax = 0x1234
    bench.run("8ed8")  # mov ds, ax
    assert (bench.st.ds_base, bench.st.ds_limit, bench.st.ds_selector) == (0x12340, 0xFFFFFFFF, 0x1234)
    assert bench.st.ds_attributes & (READABLE | WRITABLE) == READABLE | WRITABLE


def test_load_sets_the_accessed_bit_in_memory_and_register() -> None:
    bench = Bench("32")
    bench.descriptor(KDATA, type=2)
    bench.st.rax = KDATA
    bench.run("8ed8")
    assert bench.ram.read_int(GDT + KDATA + 5, 1) & 0xF == 3
    assert bench.st.ds_attributes == 0xC093 | READABLE | WRITABLE


@pytest.mark.parametrize(
    ("selector", "code", "expected"),
    [
        (ABSENT, "8ed8", (11, ABSENT)),
        (0x1F8, "8ed8", (13, 0x1F8)),  # beyond the GDT
        (KDATA | 4, "8ed8", (13, KDATA | 4)),  # the LDT is empty
        (TSS_SELECTOR, "8ed8", (13, TSS_SELECTOR)),
        (READONLY, "8ed0", (13, READONLY)),  # mov ss
        (ABSENT, "8ed0", (12, ABSENT)),
        (UDATA, "8ed0", (13, UDATA)),
        (0, "8ed0", (13, 0)),
    ],
)
def test_bad_selectors(selector: int, code: str, expected: tuple[int, int]) -> None:
    bench = Bench("32")
    bench.cpu.state.ldtr_attributes = UNUSABLE
    bench.st.rax = selector
    assert fault_of(bench, code) == expected


def test_ring_3_may_not_load_kernel_data() -> None:
    bench = Bench("32", cpl=3)
    bench.st.rax = KDATA | 3
    assert fault_of(bench, "8ed8") == (13, KDATA)


def test_null_selectors_by_vendor() -> None:
    for model, base in (("EPYC-Turin", 0), ("SapphireRapids", 0), ("EPYC-Turin,-null-sel-clr-base", 0x5000)):
        bench = Bench("64", model=model)
        bench.st.fs_base, bench.st.rax = 0x5000, 3
        bench.run("8ee0")  # mov fs, ax
        assert (bench.st.fs_selector, bench.st.fs_base) == (3, base)
        assert bench.st.fs_attributes & UNUSABLE


def test_null_stack_segment_in_64_bit_mode() -> None:
    bench = Bench("64")
    bench.st.rax = 0
    bench.run("8ed0")
    assert bench.st.ss_attributes == UNUSABLE
    assert (bench.st.shadow, bench.st.shadow_rip) == (2, bench.st.rip)
    bench.st.rax = 1
    assert fault_of(bench, "8ed0") == (13, 0)


def test_push_and_pop_of_segments() -> None:
    bench = Bench("64")
    bench.run("0fa0")  # push fs
    assert bench.words(bench.st.rsp, 1, 8) == [KDATA]
    bench.run("0fa9")  # pop gs
    assert bench.st.gs_selector == KDATA
    assert bench.st.rsp == 0x8000


def test_lss_loads_pointer_and_stack() -> None:
    bench = Bench("32")
    bench.ram.write(DATA, bytes.fromhex("78563412") + KDATA.to_bytes(2, "little"))
    bench.st.rbx = DATA
    bench.run("0fb223")  # lss esp, [ebx]
    assert (bench.st.rsp, bench.st.ss_selector, bench.st.shadow) == (0x12345678, KDATA, 0)


def test_expand_down_limits() -> None:
    bench = Bench("32")
    bench.st.rax = DOWN
    bench.run("8ed8")
    assert not bench.st.ds_attributes & (READABLE | WRITABLE)  # translated code must ask
    assert linear_address(bench.cpu, "ds", 0x1000, 4, True) == 0x1000
    for offset, size in ((0xFFF, 1), (0xFFFFFFFE, 4)):
        with pytest.raises(GuestFault) as caught:
            linear_address(bench.cpu, "ds", offset, size, False)
        assert (caught.value.vector, caught.value.error) == (13, 0)


def test_stack_segment_faults_are_stack_faults() -> None:
    bench = Bench("real")
    for name, vector in (("ss", 12), ("ds", 13)):
        with pytest.raises(GuestFault) as caught:
            linear_address(bench.cpu, name, 0xFFFF, 2, False)
        assert caught.value.vector == vector
    bench = Bench("64")
    for name, vector in (("ss", 12), ("ds", 13)):
        with pytest.raises(GuestFault) as caught:
            linear_address(bench.cpu, name, 0x7FFFFFFFFFFE, 4, False)
        assert caught.value.vector == vector


def test_execute_only_code_is_not_readable() -> None:
    bench = Bench("32")
    put_segment(bench.cpu, "cs", 0x10, 0, 0xFFFFFFFF, 0xC099)
    with pytest.raises(GuestFault):
        linear_address(bench.cpu, "cs", 0, 1, False)


def test_lgdt_and_sgdt() -> None:
    bench = Bench("32")
    bench.ram.write(DATA, bytes.fromhex("3412785634FF"))
    bench.st.rbx = DATA
    bench.run("0f0113")  # lgdt [ebx]
    assert (bench.st.gdt_limit, bench.st.gdt_base) == (0x1234, 0xFF345678)
    bench.run("660f0113")
    assert bench.st.gdt_base == 0x345678
    bench.st.rbx = DATA + 16
    bench.run("0f0103")  # sgdt [ebx]
    assert bench.ram.read(DATA + 16, 6) == bytes.fromhex("341278563400")


def test_lgdt_in_64_bit_mode_takes_a_canonical_base() -> None:
    bench = Bench("64")
    bench.st.rbx = DATA
    bench.ram.write(DATA, bytes.fromhex("ff00") + (0xFFFF800000001000).to_bytes(8, "little"))
    bench.run("0f0113")
    assert bench.st.gdt_base == 0xFFFF800000001000
    bench.ram.write(DATA, bytes.fromhex("ff00") + (0x800000000000).to_bytes(8, "little"))
    assert fault_of(bench, "0f0113") == (13, 0)
    assert fault_of(Bench("64", cpl=3), "0f0113") == (13, 0)


def test_ltr_marks_the_tss_busy() -> None:
    bench = Bench("64")
    bench.st.rax = TSS_SELECTOR
    bench.run("0f00d8")  # ltr ax
    assert bench.ram.read_int(GDT + TSS_SELECTOR + 5, 1) == 0x8B
    assert bench.st.tr_attributes & 0xF == 0xB
    assert fault_of(bench, "0f00d8") == (13, TSS_SELECTOR)  # busy now
    bench.st.rax = 0
    assert fault_of(bench, "0f00d8") == (13, 0)


def test_lldt_and_a_load_through_it() -> None:
    bench = Bench("32")
    bench.descriptor(0x80, base=LDT, limit=0xFF, type=2, s=0, db=0, granular=0)
    bench.ram.write(LDT + 8, bench.ram.read(GDT + KDATA, 8))
    bench.st.rax = 0x80
    bench.run("0f00d0")  # lldt ax
    bench.st.rax = 0xC
    bench.run("8ed8")
    assert bench.st.ds_selector == 0xC
    bench.st.rax = 0
    bench.run("0f00d0")
    bench.st.rax = 0xC
    assert fault_of(bench, "8ed8") == (13, 0xC)


def test_umip() -> None:
    bench = Bench("64", cpl=3)
    bench.run("0f00c8")  # str eax
    assert bench.st.rax == TSS_SELECTOR
    bench.st.cr4 |= 1 << 11
    assert fault_of(bench, "0f00c8") == (13, 0)
    assert fault_of(bench, "0f0103") == (13, 0)


def test_access_rights_and_limits() -> None:
    bench = Bench("32", cpl=3)
    bench.st.rbx = UDATA | 3
    bench.run("0f02c3")  # lar eax, ebx
    assert bench.st.rax == 0xCFF300
    assert bench.st.get_rflags() & 0x40
    bench.run("0f03c3")  # lsl eax, ebx
    assert bench.st.rax == 0xFFFFFFFF
    bench.st.rax, bench.st.rbx = 5, KDATA  # not visible from ring 3
    bench.run("0f02c3")
    assert bench.st.rax == 5
    assert not bench.st.get_rflags() & 0x40
    bench.st.rax = UDATA | 3
    bench.run("0f00e8")  # verw ax
    assert bench.st.get_rflags() & 0x40
    bench.st.rax = U32 | 3
    bench.run("0f00e8")
    assert not bench.st.get_rflags() & 0x40
    bench.run("0f00e0")  # verr ax: code 0xB is readable
    assert bench.st.get_rflags() & 0x40


def test_arpl() -> None:
    bench = Bench("32")
    bench.st.rax, bench.st.rcx = 0xFFFF0010, 3
    bench.run("63c8")
    assert bench.st.rax == 0xFFFF0013
    assert bench.st.get_rflags() & 0x40
    assert fault_of(Bench("real"), "63c8")[0] == 6


def test_reset() -> None:
    from trapgate.soft.reset import reset

    bench = Bench("64")
    reset(bench.cpu)
    st = bench.st
    assert (st.cs_base + st.rip, st.cs_selector, st.cr0, st.dr6, st.dr7) == (0xFFFFFFF0, 0xF000, 0x60000010, 0xFFFF0FF0, 0x400)
    assert (st.rdx, st.get_rflags(), st.efer, st.xcr0) == (bench.cpu.model.signature, 2, 0, 1)
    assert bench.cpu.msrs[0x277] == 0x0007040600070406
