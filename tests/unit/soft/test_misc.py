"""Rare instructions (SDM vol. 2 under each name)."""

import pytest

from trapgate.exits import BusLock
from trapgate.soft.fault import GuestFault
from unit.soft.bench import DATA, STACK0, Bench

CF, PF, AF, ZF, SF = 1, 4, 16, 64, 128


@pytest.mark.parametrize(
    ("code", "al", "flags", "result", "after"),
    [
        ("27", 0xAE, PF | SF, 0x14, CF | AF | PF),  # the manual's own example: 79h + 35h
        ("2f", 0x4E, CF | AF, 0xE8, CF | AF | PF | SF),
        ("27", 0x99, 0, 0x99, SF | PF),
        ("27", 0x9A, 0, 0x00, CF | AF | ZF | PF),
        ("2f", 0xEE, CF | AF, 0x88, CF | AF | SF | PF),  # the manual's: 35h - 47h
        ("2f", 0x05, AF, 0xFF, CF | AF | SF | PF),
    ],
)
def test_decimal_adjust(code: str, al: int, flags: int, result: int, after: int) -> None:
    bench = Bench("32")
    bench.st.rax = 0x12340000 | al
    bench.st.set_rflags(2 | flags)
    bench.run(code)
    assert bench.st.rax == 0x12340000 | result
    assert bench.st.get_rflags() & (CF | PF | AF | ZF | SF) == after


def test_ascii_adjust() -> None:
    bench = Bench("32")
    bench.st.rax = 0x000B
    bench.run("37")
    assert (bench.st.rax, bench.st.get_rflags() & (CF | AF)) == (0x0101, CF | AF)
    bench.st.rax = 0x0205
    bench.st.set_rflags(2 | AF)
    bench.run("3f")
    assert (bench.st.rax, bench.st.get_rflags() & (CF | AF)) == (0x000F, CF | AF)
    bench.st.rax = 79
    bench.run("d40a")
    assert bench.st.rax == 0x0709
    bench.run("d50a")
    assert bench.st.rax == 79
    with pytest.raises(GuestFault) as caught:
        bench.run("d400")
    assert caught.value.vector == 0


def test_salc_and_xlat() -> None:
    bench = Bench("32")
    bench.st.set_rflags(3)
    bench.run("d6")
    assert bench.st.rax == 0xFF
    bench.st.rbx, bench.st.rax = DATA, 5
    bench.ram.write(DATA + 5, b"\x42")
    bench.run("d7")
    assert bench.st.rax == 0x42


def test_pusha_and_popa() -> None:
    bench = Bench("32")
    names = ("rdi", "rsi", "rbp", "rsp", "rbx", "rdx", "rcx", "rax")
    for n, name in enumerate(names):
        if name != "rsp":
            setattr(bench.st, name, n + 1)
    bench.run("60")
    assert bench.words(bench.st.rsp, 8, 4) == [1, 2, 3, STACK0, 5, 6, 7, 8]
    bench.ram.write_int(bench.st.rsp, 4, 0x99)
    bench.run("61")
    assert (bench.st.rdi, bench.st.rsi, bench.st.rsp) == (0x99, 2, STACK0)


def test_enter_with_levels() -> None:
    bench = Bench("64")
    st = bench.st
    st.rbp = DATA + 0x100
    bench.ram.write_int(DATA + 0xF8, 8, 0x1111)
    bench.ram.write_int(DATA + 0xF0, 8, 0x2222)
    bench.run("c8200003")
    assert st.rbp == STACK0 - 8
    assert bench.words(STACK0 - 32, 4, 8) == [STACK0 - 8, 0x2222, 0x1111, DATA + 0x100]
    assert st.rsp == STACK0 - 32 - 0x20


def test_compare_exchange() -> None:
    bench = Bench("64")
    st = bench.st
    st.rdi, st.rdx, st.rax, st.rcx, st.rbx = DATA, 2, 1, 4, 3
    bench.ram.write_int(DATA, 8, 2 << 32 | 1)
    bench.run("0fc70f")
    assert bench.ram.read_int(DATA, 8) == 4 << 32 | 3
    assert st.get_rflags() & ZF
    bench.run("0fc70f")
    assert (st.rdx, st.rax, st.get_rflags() & ZF) == (4, 3, 0)
    st.rdi = DATA + 8
    with pytest.raises(GuestFault) as caught:
        bench.run("480fc70f")
    assert (caught.value.vector, caught.value.error) == (13, 0)


def test_a_locked_one_across_a_line_locks_the_bus() -> None:
    bench = Bench("64", cpl=3)
    st = bench.st
    st.debugctl, st.bus_lock_report = 4, 1
    bench.cpu.update_mode()
    st.rdi = DATA + 56
    bench.run("f00fc70f")
    assert not st.pending_debug
    st.rdi = DATA + 60
    bench.run("0fc70f")  # no LOCK, no bus lock
    assert not st.pending_debug
    bench.run("f00fc70f")
    assert st.pending_debug & 1 << 11
    assert isinstance(bench.cpu.bus_lock, BusLock)
    assert (bench.cpu.bus_lock.address, bench.cpu.bus_lock.size) == (DATA + 60, 8)
    st.split_lock_ac = 1
    with pytest.raises(GuestFault) as caught:
        bench.run("f00fc70f")
    assert (caught.value.vector, caught.value.error) == (17, 0)


def test_random_numbers_repeat_when_asked() -> None:
    runs = []
    for _ in range(2):
        bench = Bench("64")
        bench.cpu.deterministic = True
        numbers = []
        for _ in range(3):
            bench.run("480fc7f0")
            assert bench.st.get_rflags() & CF
            numbers.append(bench.st.rax)
        assert len(set(numbers)) == 3
        runs.append(numbers)
    assert runs[0] == runs[1]
    bench.cpu.deterministic = False
    bench.run("480fc7f8")
    assert bench.st.rax not in runs[0]
