"""Delivery of exceptions and interrupts, the double-fault rule, IRET back (SDM vol. 3, chapters 6 and 20)."""

import pytest

from trapgate.arch.segments import SystemType
from trapgate.exits import Halted
from trapgate.isa.state import UNUSABLE
from trapgate.soft.exact.interrupts import TripleFault, deliver
from trapgate.soft.state.fault import GuestFault
from trapgate.soft.state.story import story
from unit.soft.bench import (
    ABSENT,
    CODE,
    DATA,
    GDT,
    IDT,
    K16,
    K32,
    K64,
    KDATA,
    STACK0,
    STACK3,
    TSS,
    TSS_SELECTOR,
    U32,
    U64,
    UDATA,
    Bench,
)  # fmt: skip

IF, TF, NT, RF, VM, IOPL3 = 1 << 9, 1 << 8, 1 << 14, 1 << 16, 1 << 17, 3 << 12


def test_real_mode() -> None:
    bench = Bench("real")
    bench.ram.write_int(4 * 0x21, 4, 0x2000_0123)
    bench.st.set_rflags(2 | IF | TF | 1)
    bench.run("cd21")
    st = bench.st
    assert (st.cs_selector, st.cs_base, st.rip, st.rsp) == (0x2000, 0x20000, 0x123, STACK0 - 6)
    assert bench.words(st.rsp, 3, 2) == [0x42, 0x100, 2 | IF | TF | 1]
    assert st.get_rflags() == 2 | 1
    bench.run("cf")
    assert (st.cs_selector, st.rip, st.rsp, st.get_rflags()) == (0x100, 0x42, STACK0, 2 | IF | TF | 1)


def test_real_mode_pushes_no_error_code() -> None:
    bench = Bench("real")
    bench.ram.write_int(4 * 13, 4, 0x2000_0123)
    deliver(bench.cpu, 13, 0)
    assert bench.st.rsp == STACK0 - 6


@pytest.mark.parametrize("kind", [SystemType.INTERRUPT_GATE, SystemType.TRAP_GATE])
def test_long_mode_same_privilege(kind: SystemType) -> None:
    bench = Bench("64")
    st = bench.st
    bench.gate(14, K64, 0xFFFF800000001234, kind)
    st.rsp = STACK0 - 3
    st.set_rflags(2 | IF | NT | 1)
    deliver(bench.cpu, 14, 2, cr2=0xDEAD)
    assert (st.rip, st.cr2, st.rsp) == (0xFFFF800000001234, 0xDEAD, (STACK0 - 3 & ~15) - 48)
    assert bench.words(st.rsp, 6, 8) == [2, CODE, K64, 2 | IF | NT | RF | 1, STACK0 - 3, KDATA]
    assert st.get_rflags() == 2 | 1 | (IF if kind is SystemType.TRAP_GATE else 0)
    assert st.ss_selector == KDATA


def test_long_mode_from_ring_3_and_back() -> None:
    bench = Bench("64", cpl=3)
    st = bench.st
    bench.gate(0x40, K64, 0x5000)
    st.set_rflags(2 | IF)
    st.debugctl = 4
    bench.cpu.update_mode()
    assert st.bus_lock_trap
    deliver(bench.cpu, 0x40, external=True)
    assert (st.cs_selector, st.ss_selector, st.ss_attributes, bench.cpl, st.bus_lock_trap) == (K64, 0, UNUSABLE, 0, 0)
    assert bench.words(st.rsp, 5, 8) == [CODE, U64 | 3, 2 | IF, STACK3, UDATA | 3]
    bench.run("48cf")
    assert (st.cs_selector, st.ss_selector, st.rsp, st.rip, bench.cpl) == (U64 | 3, UDATA | 3, STACK3, CODE, 3)
    assert st.get_rflags() == 2 | IF
    assert st.bus_lock_trap


def test_outer_return_clears_kernel_segments_and_keeps_the_fs_base() -> None:
    bench = Bench("64")
    st = bench.st
    st.fs_base = 0x7000
    st.rsp -= 40
    for n, value in enumerate((CODE, U64 | 3, 2, STACK3, UDATA | 3)):
        bench.ram.write_int(st.rsp + 8 * n, 8, value)
    bench.run("48cf")
    assert (st.ds_selector, st.ds_attributes, st.fs_base) == (0, UNUSABLE, 0x7000)


def test_ist() -> None:
    bench = Bench("64")
    bench.gate(2, K64, 0x5000, ist=1)
    deliver(bench.cpu, 2, external=True)
    assert bench.st.rsp == STACK0 - 0x800 - 40
    assert bench.st.ss_selector == KDATA


def test_compatibility_mode_source_and_return() -> None:
    bench = Bench("compat", cpl=3)
    st = bench.st
    bench.gate(3, K64, 0x5000, dpl=3)
    bench.run("cc")
    assert bench.words(st.rsp, 5, 8) == [CODE + 1, U32 | 3, 2, STACK3, UDATA | 3]
    bench.bits = 64
    bench.run("48cf")
    assert (st.cs_selector, st.rip, bench.cpl, st.mode & 3) == (U32 | 3, CODE + 1, 3, 1)


def test_resume_flag_by_class() -> None:
    for vector, external, expected in ((6, False, RF), (1, False, 0), (4, False, 0), (8, False, 0), (0x30, True, 0)):
        bench = Bench("64")
        bench.gate(vector, K64, 0x5000)
        deliver(bench.cpu, vector, 0 if vector == 8 else None, external=external)
        assert bench.ram.read_int(bench.st.rsp + (24 if vector == 8 else 16), 8) & RF == expected, vector
    bench = Bench("64")
    bench.gate(0x30, K64, 0x5000)
    bench.st.rflags |= RF  # an interrupt right behind an IRET that set it
    deliver(bench.cpu, 0x30, external=True)
    assert bench.ram.read_int(bench.st.rsp + 16, 8) & RF


def test_protected_mode_to_the_stack_of_the_tss_and_back() -> None:
    bench = Bench("32", cpl=3)
    st = bench.st
    bench.gate(0x80, K32, 0x12345, SystemType.TRAP_GATE, dpl=3)
    st.set_rflags(2 | IF)
    bench.run("cd80")
    assert (st.cs_selector, st.ss_selector, st.rip, bench.cpl, st.rsp) == (K32, KDATA, 0x12345, 0, STACK0 - 20)
    assert bench.words(st.rsp, 5, 4) == [CODE + 2, U32 | 3, 2 | IF, STACK3, UDATA | 3]
    bench.run("cf")
    assert (st.cs_selector, st.ss_selector, st.rsp, st.rip, bench.cpl) == (U32 | 3, UDATA | 3, STACK3, CODE + 2, 3)


def test_16_bit_gate() -> None:
    bench = Bench("32")
    bench.gate(0x20, K16, 0x1234, SystemType.INTERRUPT_GATE16)
    deliver(bench.cpu, 0x20, external=True)
    assert bench.words(bench.st.rsp, 3, 2) == [CODE & 0xFFFF, K32, 2]
    assert bench.st.mode & 3 == 0


def test_virtual_8086_and_back() -> None:
    bench = Bench("v86")
    st = bench.st
    bench.gate(13, K32, 0x12345)
    st.ds_selector = 0x1111
    deliver(bench.cpu, 13, 0)
    assert (bench.cpl, st.get_rflags() & VM, st.ds_attributes, st.rsp) == (0, 0, UNUSABLE, STACK0 - 40)
    frame = bench.words(st.rsp, 10, 4)
    assert frame == [0, 0x40, 0x100, 2 | VM | RF, STACK0, 0, 0, 0x1111, 0, 0]
    bench.bits = 32
    st.rsp += 4
    bench.run("cf")
    assert (st.cs_selector, st.cs_base, st.rip, st.ds_selector, st.ds_base, bench.cpl) == (0x100, 0x1000, 0x40, 0x1111, 0x11110, 3)
    assert st.rflags & VM


def test_int_n_in_virtual_8086_mode() -> None:
    bench = Bench("v86")
    with pytest.raises(GuestFault) as caught:
        bench.run("cd21")
    assert (caught.value.vector, caught.value.error) == (13, 0)
    # with VME, the redirection bitmap may send it to the program's own table
    bench.st.cr4 |= 1
    bench.ram.write_int(TSS + 0x66, 2, 0x80)
    bench.ram.write_int(4 * 0x21, 4, 0x2000_0123)
    bench.st.rflags |= IF | 1 << 19
    bench.run("cd21")
    assert (bench.st.cs_selector, bench.st.rip) == (0x2000, 0x123)
    assert bench.st.rflags & (IF | 1 << 19) == IF
    assert bench.ram.read_int(STACK0 - 2, 2) == 2 | IF | IOPL3


def test_gate_privilege_counts_for_software_only() -> None:
    bench = Bench("64", cpl=3)
    bench.gate(0x20, K64, 0x5000)
    with pytest.raises(GuestFault) as caught:
        bench.run("cd20")
    assert (caught.value.vector, caught.value.error) == (13, 0x20 * 8 + 2)
    deliver(bench.cpu, 0x20, external=True)
    assert bench.cpl == 0


@pytest.mark.parametrize(
    ("selector", "kind", "expected"),
    [
        (0, 14, (13, 1)),
        (ABSENT, 14, (13, ABSENT | 1)),  # data
        (U64, 14, (13, U64 | 1)),  # less privilege
        (K32, 14, (13, K32 | 1)),  # not 64-bit code
        (K64, 12, (13, 0x21 * 8 + 3)),
        (K64, 5, (13, 0x21 * 8 + 3)),
    ],
)
def test_bad_gates_name_themselves_and_ext(selector: int, kind: int, expected: tuple[int, int]) -> None:
    bench = Bench("64")
    bench.gate(13, K64, 0x6000)
    bench.ram.write(IDT + 16 * 0x21, bytes(16))
    bench.gate(0x21, selector, 0x5000, kind)
    deliver(bench.cpu, 0x21, external=True)
    assert (bench.st.rip, bench.ram.read_int(bench.st.rsp, 8)) == (0x6000, expected[1])


def test_double_fault() -> None:
    bench = Bench("64")
    bench.gate(8, K64, 0x8888)
    deliver(bench.cpu, 13, 0)  # its gate is not there
    assert bench.st.rip == 0x8888
    assert bench.ram.read_int(bench.st.rsp, 8) == 0
    assert [one.vector for one in bench.cpu.history] == [13, 8]
    assert not bench.st.fault_delivering


def test_benign_then_contributory_is_served() -> None:
    bench = Bench("64")
    bench.gate(13, K64, 0xDDDD)
    deliver(bench.cpu, 6)
    assert bench.st.rip == 0xDDDD
    assert bench.ram.read_int(bench.st.rsp, 8) == 6 * 8 + 3


def test_page_fault_while_pushing() -> None:
    bench = Bench("64")
    bench.gate(14, K64, 0xEEEE, ist=1)
    bench.gate(6, K64, 0x5000)
    bench.st.rsp = 0x40000000
    deliver(bench.cpu, 6)
    st = bench.st
    assert (st.rip, st.cr2, bench.ram.read_int(st.rsp, 8)) == (0xEEEE, 0x3FFFFFF8, 2)
    assert bench.ram.read_int(st.rsp + 8, 8) == CODE


def test_triple_fault_tells_its_story() -> None:
    bench = Bench("64")
    with pytest.raises(TripleFault) as caught:
        deliver(bench.cpu, 14, 2, cr2=0x1234)
    assert bench.st.rip == CODE
    text = story(bench.cpu, str(caught.value))
    assert text.splitlines()[0] == f"exception #PF(0x2) at RIP {CODE:#x}, CR2 0x1234"
    assert "#DF(0x0)" in text
    assert "RIP=0000000000010000" in text


def test_missing_inner_stack_is_an_invalid_tss() -> None:
    bench = Bench("32", cpl=3)
    bench.gate(10, 0x58, 0xAAAA)  # conforming: no stack needed
    bench.gate(0x30, K32, 0x5000)
    bench.ram.write_int(TSS + 8, 4, UDATA)  # a stack for ring 3
    deliver(bench.cpu, 0x30, external=True)
    assert bench.st.rip == 0xAAAA
    assert bench.ram.read_int(bench.st.rsp, 4) == UDATA | 1
    bench.st.tr_limit = 3
    deliver(bench.cpu, 0x30, external=True)
    assert bench.ram.read_int(bench.st.rsp, 4) == TSS_SELECTOR | 1


def test_iret_refuses_task_returns_and_inner_levels() -> None:
    bench = Bench("64")
    bench.st.rflags |= NT
    for code in ("48cf", "cf"):
        with pytest.raises(GuestFault) as caught:
            bench.run(code)
        assert (caught.value.vector, caught.value.error) == (13, 0)
    bench = Bench("64", cpl=3)
    for n, value in enumerate((CODE, K64, 2, STACK3, UDATA | 3)):
        bench.ram.write_int(STACK3 + 8 * n, 8, value)
    with pytest.raises(GuestFault) as caught:
        bench.run("48cf")
    assert (caught.value.vector, caught.value.error) == (13, K64)
    assert bench.st.rsp == STACK3


def test_iret_at_ring_3_cannot_change_if_and_iopl() -> None:
    bench = Bench("32", cpl=3)
    for n, value in enumerate((CODE + 8, U32 | 3, 2 | IF | IOPL3 | 1)):
        bench.ram.write_int(STACK3 + 4 * n, 4, value)
    bench.run("cf")
    assert (bench.st.rip, bench.st.get_rflags()) == (CODE + 8, 2 | 1)


def test_popf_and_pushf_in_virtual_8086_mode() -> None:
    bench = Bench("v86")
    for code in ("9c", "9d", "fa", "fb"):
        with pytest.raises(GuestFault) as caught:
            bench.run(code)
        assert (caught.value.vector, caught.value.error) == (13, 0)
    bench.st.rflags |= IOPL3
    bench.cpu.update_mode()
    bench.run("9c")
    assert bench.ram.read_int(bench.st.rsp, 2) == 2 | IOPL3
    bench.st.cr4, bench.st.rflags = 1, bench.st.rflags & ~IOPL3
    bench.cpu.update_mode()
    bench.run("fb")  # sti
    assert bench.st.rflags & (IF | 1 << 19) == 1 << 19
    bench.run("9c")
    assert bench.ram.read_int(bench.st.rsp, 2) == 2 | IOPL3 | IF


def test_into_and_bound() -> None:
    bench = Bench("32")
    bench.run("ce")
    bench.gate(4, K32, 0x4444)
    bench.st.set_rflags(2 | 1 << 11)
    bench.run("ce")
    assert bench.st.rip == 0x4444
    bench.st.rbx, bench.st.rax = DATA, 0xFFFFFFFF
    bench.ram.write_int(DATA, 8, 5 << 32 | 0xFFFFFFFE)  # -2..5
    bench.run("6203")
    bench.st.rax = 6
    with pytest.raises(GuestFault) as caught:
        bench.run("6203")
    assert (caught.value.vector, caught.value.error) == (5, None)


def test_halt() -> None:
    assert bench_halts(0) == Halted()
    with pytest.raises(GuestFault):
        bench_halts(3)


def bench_halts(cpl: int) -> object:
    """What HLT returns at a CPL."""
    return Bench("64", cpl=cpl).run("f4")


def test_accessed_bits_of_loaded_descriptors() -> None:
    bench = Bench("64", cpl=3)
    bench.descriptor(K64, type=0xA, long=1, db=0)
    bench.gate(0x40, K64, 0x5000)
    deliver(bench.cpu, 0x40, external=True)
    assert bench.ram.read_int(GDT + K64 + 5, 1) & 1
    assert bench.st.cs_attributes & 1
