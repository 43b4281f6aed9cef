"""Far jumps, calls, returns and system calls (SDM vol. 3, 5.8; vol. 2 and APM vol. 3 under each name)."""

import pytest

from trapgate.arch.segments import Gate, SystemType
from trapgate.isa.state import UNUSABLE
from trapgate.soft.exact.segments import put_segment
from trapgate.soft.state.fault import GuestFault
from unit.soft.bench import (
    ABSENT,
    CODE,
    CONFORMING,
    GATE,
    GDT,
    K32,
    K64,
    KDATA,
    STACK0,
    STACK3,
    TSS_SELECTOR,
    U32,
    U64,
    UDATA,
    Bench,
)  # fmt: skip

CODE32, CODE64 = 1, 2
LSTAR, CSTAR = 0xFFFF800000100000, 0xFFFF800000200000


def fault_of(bench: Bench, code: str) -> tuple[int, int | None]:
    """(vector, error code) of the fault that an instruction raises, RSP and CS unmoved."""
    before = (bench.st.rsp, bench.st.cs_selector, bench.st.rip)
    with pytest.raises(GuestFault) as caught:
        bench.run(code)
    assert (bench.st.rsp, bench.st.cs_selector, bench.st.rip) == before
    return caught.value.vector, caught.value.error


def far(offset: int, selector: int, opcode: str = "ea") -> str:
    """A far JMP or CALL in 32-bit code."""
    return opcode + offset.to_bytes(4, "little").hex() + selector.to_bytes(2, "little").hex()


def test_real_mode_jump_and_call() -> None:
    bench = Bench("real")
    bench.run("ea34120010")
    assert (bench.st.cs_selector, bench.st.cs_base, bench.st.rip) == (0x1000, 0x10000, 0x1234)
    bench.run("9a78560020")
    assert (bench.st.cs_base, bench.st.rip) == (0x20000, 0x5678)
    assert bench.words(bench.st.rsp, 2, 2) == [0x1239, 0x1000]
    bench.run("ca0200")
    assert (bench.st.cs_base, bench.st.rip, bench.st.rsp) == (0x10000, 0x1239, STACK0 + 2)


def test_real_to_protected_mode() -> None:
    bench = Bench("real")
    st = bench.st
    bench.descriptor(K32, type=0xB)
    st.gdt_base, st.gdt_limit, st.rax = 0x1000, 0xFF, 0x11
    bench.run("0f22c0")
    assert (st.mode & 3, bench.cpl) == (0, 0)
    bench.run("66ea004001001000")
    assert (st.cs_selector, st.rip, st.mode & 3, st.cs_limit) == (K32, 0x14000, CODE32, 0xFFFFFFFF)


def test_jump_between_32_and_64_bit_code() -> None:
    bench = Bench("compat")
    bench.run(far(0x5000, K64))
    assert (bench.st.cs_selector, bench.st.mode & 3) == (K64, CODE64)
    bench.bits = 64
    bench.ram.write(0x20000, (0x6000).to_bytes(4, "little") + K32.to_bytes(2, "little"))
    bench.st.rbx = 0x20000
    bench.run("ff2b")  # jmp far [rbx]
    assert (bench.st.cs_selector, bench.st.rip, bench.st.mode & 3) == (K32, 0x6000, CODE32)


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (0, (13, 0)), (0x1F8, (13, 0x1F8)), (KDATA, (13, KDATA)), (ABSENT, (13, ABSENT)), (TSS_SELECTOR, (13, TSS_SELECTOR)),
        (U32, (13, U32)), (K32 | 1, (13, K32)),
    ],
)  # fmt: skip
def test_bad_targets(selector: int, expected: tuple[int, int]) -> None:
    for opcode in ("ea", "9a"):
        assert fault_of(Bench("32"), far(0x5000, selector, opcode)) == expected


def test_conforming_code_keeps_the_cpl() -> None:
    bench = Bench("32", cpl=3)
    bench.run(far(0x5000, CONFORMING, "9a"))
    assert (bench.st.cs_selector, bench.cpl) == (CONFORMING | 3, 3)
    assert bench.words(bench.st.rsp, 2, 4) == [CODE + 7, U32 | 3]
    bench.run("cb")
    assert (bench.st.cs_selector, bench.st.rip, bench.st.rsp) == (U32 | 3, CODE + 7, STACK3)


def call_gate(bench: Bench, selector: int, parameters: int = 0) -> None:
    """A call gate that ring 3 may use."""
    raw = bytearray(Gate(selector, 0x7000, SystemType.CALL_GATE, 3).to_bytes(16 if bench.mode in ("64", "compat") else 8))
    raw[4] = parameters
    bench.ram.write(GDT + GATE, bytes(raw))


def test_call_gate_with_parameters_and_back() -> None:
    bench = Bench("32", cpl=3)
    st = bench.st
    call_gate(bench, K32, parameters=2)
    bench.ram.write_int(STACK3, 8, 0x2222222211111111)
    bench.run(far(0, GATE | 3, "9a"))
    assert (st.cs_selector, st.rip, st.ss_selector, bench.cpl) == (K32, 0x7000, KDATA, 0)
    assert bench.words(st.rsp, 6, 4) == [CODE + 7, U32 | 3, 0x11111111, 0x22222222, STACK3, UDATA | 3]
    bench.run("ca0800")
    assert (st.cs_selector, st.rip, st.ss_selector, st.rsp, bench.cpl) == (U32 | 3, CODE + 7, UDATA | 3, STACK3 + 8, 3)


def test_call_gate_in_long_mode() -> None:
    bench = Bench("compat", cpl=3)
    st = bench.st
    call_gate(bench, K64)
    bench.run(far(0, GATE | 3, "9a"))
    assert (st.cs_selector, st.rip, st.ss_selector, st.ss_attributes, st.mode & 3) == (K64, 0x7000, 0, UNUSABLE, CODE64)
    assert bench.words(st.rsp, 4, 8) == [CODE + 7, U32 | 3, STACK3, UDATA | 3]
    bench.bits = 64
    bench.run("48cb")
    assert (st.cs_selector, st.rip, st.rsp, st.mode & 3) == (U32 | 3, CODE + 7, STACK3, CODE32)


def test_jump_through_a_gate_stays_at_its_level() -> None:
    bench = Bench("32", cpl=3)
    call_gate(bench, K32)
    assert fault_of(bench, far(0, GATE | 3)) == (13, K32)


def syscall_bench(mode: str, cpl: int, model: str = "EPYC-Turin") -> Bench:
    """A CPU whose system-call MSRs are set up."""
    bench = Bench(mode, cpl, model)
    st = bench.st
    st.efer |= 1
    st.star = (U32 - 0) << 48 | K64 << 32
    st.lstar, st.cstar, st.sfmask = LSTAR, CSTAR, 0x200
    return bench


@pytest.mark.parametrize("cpu", ["EPYC-Turin", "SapphireRapids"])
def test_syscall_and_sysret_64(cpu: str) -> None:
    bench = syscall_bench("64", 3, cpu)
    st = bench.st
    st.set_rflags(2 | 0x200 | 1)
    bench.run("0f05")
    assert (st.rip, st.rcx, st.r11, st.get_rflags(), bench.cpl) == (LSTAR, CODE + 2, 0x203, 3, 0)
    assert (st.cs_selector, st.ss_selector) == (K64, K64 + 8)
    put_segment(bench.cpu, "ss", 0, 0, 0, UNUSABLE)  # as an interrupt leaves it
    bench.run("480f07")
    assert (st.rip, st.cs_selector, st.get_rflags(), bench.cpl) == (CODE + 2, U64 | 3, 0x203, 3)
    attributes = st.ss_attributes & (0xF0FF | UNUSABLE)
    if bench.cpu.model.amd:  # the selector as STAR has it, and nothing else
        assert (st.ss_selector, st.ss_limit, attributes) == (UDATA, 0, UNUSABLE)
    else:
        assert (st.ss_selector, st.ss_limit, attributes) == (UDATA | 3, 0xFFFFFFFF, 0xC0F3)


def test_syscall_from_compatibility_mode_by_vendor() -> None:
    bench = syscall_bench("compat", 3)
    bench.run("0f05")
    assert (bench.st.rip, bench.st.mode & 3) == (CSTAR, CODE64)
    bench.bits = 64
    bench.run("0f07")
    assert (bench.st.cs_selector, bench.st.rip, bench.st.mode & 3) == (U32 | 3, CODE + 2, CODE32)
    assert fault_of(syscall_bench("compat", 3, "SapphireRapids"), "0f05") == (6, None)


def test_sysret_to_a_strange_address_by_vendor() -> None:
    bench = syscall_bench("64", 0, "SapphireRapids")
    bench.st.rcx = 1 << 47
    assert fault_of(bench, "480f07") == (13, 0)
    bench = syscall_bench("64", 0)
    bench.st.rcx = 1 << 47
    bench.run("480f07")
    assert (bench.cpl, bench.st.rip) == (3, 1 << 47)  # faults there, at CPL 3


def test_syscall_needs_sce() -> None:
    assert fault_of(Bench("real"), "0f05") == (6, None)
    bench = syscall_bench("64", 3)
    bench.st.efer &= ~1
    assert fault_of(bench, "0f05") == (6, None)
    bench = syscall_bench("64", 3)
    assert fault_of(bench, "480f07") == (13, 0)


def test_sysenter_and_sysexit() -> None:
    bench = Bench("32", 3, "SapphireRapids")
    st = bench.st
    assert fault_of(bench, "0f34") == (13, 0)  # SYSENTER_CS is null
    st.sysenter_cs, st.sysenter_eip, st.sysenter_esp = K32, 0x5000, 0x6000
    bench.run("0f34")
    assert (st.cs_selector, st.ss_selector, st.rip, st.rsp, bench.cpl) == (K32, K32 + 8, 0x5000, 0x6000, 0)
    st.rdx, st.rcx = 0x7000, STACK3
    bench.run("0f35")
    assert (st.cs_selector, st.ss_selector, st.rip, st.rsp, bench.cpl) == (K32 + 16 | 3, K32 + 24 | 3, 0x7000, STACK3, 3)
    amd = Bench("64", 3)
    amd.st.sysenter_cs = K64
    assert fault_of(amd, "0f34") == (6, None)


def test_stack_fault_leaves_all_as_it_was() -> None:
    bench = Bench("real")
    bench.st.rsp = 3
    assert fault_of(bench, "9a78560020")[0] == 12
