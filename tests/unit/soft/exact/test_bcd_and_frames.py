"""Rare instructions (SDM vol. 2 under each name)."""

import pytest

from trapgate.soft.state.fault import GuestFault
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


def test_salc() -> None:
    bench = Bench("32")
    bench.st.set_rflags(3)
    bench.run("d6")
    assert bench.st.rax == 0xFF


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
