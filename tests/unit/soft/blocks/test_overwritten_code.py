"""Stores into translated code: what was made of the old bytes goes in native code where nothing but native code has it."""

import random

import pytest

from trapgate.exits import Halted
from trapgate.isa import state as s
from trapgate.isa.native import placing as p
from trapgate.soft.running import RunningCpu
from unit.soft.bench import CODE, Bench

TARGET = 0x30000
CALL = "8917 ffd6 f4"  # mov [rdi], edx; call rsi; hlt
FUNCTION = "b8{} c3"  # mov eax, imm32; ret


def bench(code: str = CALL) -> tuple[Bench, list[int]]:
    """64-bit code at CODE, and RIP of each access that came to Python."""
    made, left = Bench("64"), list[int]()
    made.ram.write(CODE, bytes.fromhex(code))

    def access(cpu: RunningCpu) -> int:
        left.append(made.st.rip)
        return 0

    made.cpu._answers[s.EXIT_ACCESS] = access
    return made, left


def function(made: Bench, at: int, value: int) -> None:
    made.ram.write(at, bytes.fromhex(FUNCTION.format(value.to_bytes(4, "little").hex())))


def call(made: Bench, at: int, store_at: int, value: int, rip: int = CODE) -> int:
    """RAX after the driver at `rip` has stored `value` and called `at`."""
    made.st.rip, made.st.rsi, made.st.rdi, made.st.rdx = rip, at, store_at, value
    assert made.cpu.run() == Halted()
    return int(made.st.rax)


def lines_of(made: Bench) -> dict[int, int]:
    """By page number: the lines that blocks of the table lie in."""
    table, lines = made.cpu.blocks._table.view.cast("Q"), dict[int, int]()
    for at in range(0, len(table), 4):
        mode, code = table[at + 2] & 0xFFFFFFFF, table[at + 3] & 0xFFFFFFFF
        if code and mode != p.GONE:
            physical, length = table[at + 1], made.cpu.translator.known_blocks.length(table[at + 3] >> 32)
            for byte in range(physical, physical + length):
                lines[byte >> 12] = lines.get(byte >> 12, 0) | 1 << (byte >> 6 & 63)
    return lines


def test_any_of_many_functions_many_times() -> None:
    made, left = bench()
    chance = random.Random(1)
    places = [TARGET + 0x1000 * page + at for page in range(3) for at in sorted(chance.sample(range(0, 4090, 6), 40))]
    values = {at: n for n, at in enumerate(places)}
    for at, value in values.items():
        function(made, at, value)
    for _ in range(2000):
        changed, called, value = chance.choice(places), chance.choice(places), chance.getrandbits(32)
        values[changed] = value
        assert call(made, called, changed + 1, value) == values[called]
    assert not left
    marked = {page: made.cpu.blocks.lines[page] for page in lines_of(made)}
    assert marked == lines_of(made)
    assert sum(bits.bit_count() for bits in marked.values()) > 50


def test_only_what_was_overwritten_is_made_again() -> None:
    made, left = bench()
    for n in range(4):
        function(made, TARGET + 6 * n, n)  # in one line
        call(made, TARGET + 6 * n, TARGET + 0x800, 0)
    before = made.st.count_placed
    assert call(made, TARGET + 6, TARGET + 7, 99) == 99
    assert [call(made, TARGET + 6 * n, TARGET + 0x800, 0) for n in range(4)] == [0, 99, 2, 3]
    assert made.st.count_placed == before + 1
    assert not left


def test_branches_of_the_page_no_longer_lead_there() -> None:
    made, left = bench()
    made.ram.write(TARGET, bytes.fromhex("eb3e"))  # jmp +3Eh, to the next line
    function(made, TARGET + 0x40, 1)
    for value in range(5):
        assert call(made, TARGET, TARGET + 0x41, value) == value
    assert not left


def test_the_page_that_runs_is_left_to_python() -> None:
    made, left = bench()
    function(made, CODE + 0x800, 1)
    made.ram.write(CODE + 0x900, bytes.fromhex("8917 b801000000 f4"))  # mov [rdi], edx; mov eax, 1; hlt
    assert call(made, 0, TARGET, 0, CODE + 0x900) == 1
    assert call(made, 0, CODE + 0x903, 7, CODE + 0x900) == 7  # the very next instruction
    assert call(made, CODE + 0x800, TARGET, 0) == 1
    assert call(made, CODE + 0x800, CODE + 0x801, 8) == 8
    assert set(left) == {CODE + 0x900, CODE}


def test_the_page_that_runs_at_another_address() -> None:
    made, left = bench()
    made.ram.write_int(0x102008, 8, 0x103007)
    made.ram.write_int(0x103000, 8, CODE | 7)
    alias = 2 << 20
    made.ram.write(CODE + 0x900, bytes.fromhex("8917 b801000000 f4"))
    assert call(made, 0, TARGET, 0, alias + 0x900) == 1
    assert call(made, 0, CODE + 0x903, 7, alias + 0x900) == 7
    assert set(left) == {alias + 0x900}


def test_a_block_in_two_pages_is_left_to_python() -> None:
    made, left = bench()
    function(made, TARGET + 0xFFE, 1)
    function(made, TARGET + 0x1100, 2)
    assert call(made, TARGET + 0xFFE, TARGET + 0x800, 0) == 1
    assert call(made, TARGET + 0x1100, TARGET + 0x1101, 3) == 3  # another line of its second page
    assert not left
    assert call(made, TARGET + 0xFFE, TARGET + 0x1000, 0xC3000055) == 0x5501
    assert left
    left.clear()
    made.ram.write(TARGET + 0x1000, b"\x90" * 4)  # gone: nothing is kept in the page any more
    function(made, TARGET + 0x1002, 4)
    assert call(made, TARGET + 0x1002, TARGET + 0x1003, 5) == 5
    assert not left


@pytest.mark.parametrize(
    "store",
    ["c6470102", "83470101", "48871f", "f0480fb11f", "66480f6ed3 0f2917", "4889e5 488d6708 53 4889ec"],
    ids=["mov", "add", "xchg", "cmpxchg", "movaps", "push"],
)
def test_every_kind_of_store(store: str) -> None:
    made, left = bench(store + "ffd6 f4")
    function(made, TARGET, 1)
    made.ram.write(CODE + 0x100, bytes.fromhex(CALL))
    assert call(made, TARGET, TARGET + 0x800, 0, CODE + 0x100) == 1
    made.st.rax, made.st.rbx = made.ram.read_int(TARGET, 8), 0xC3_00000002B8  # mov eax, 2; ret
    assert call(made, TARGET, TARGET, 0) == 2
    assert not left


def test_a_page_cleared_element_by_element() -> None:
    made, left = bench("f3 48ab f4")  # rep stosq; hlt
    made.ram.write(CODE + 0x100, bytes.fromhex("ffd6 f4"))
    for at in range(TARGET, TARGET + 0x1000, 32):
        function(made, at, at)
        assert call(made, at, CODE + 0x900, 0, CODE + 0x100) == at
    made.st.rip, made.st.rax, made.st.rdi, made.st.rcx = CODE, 0xC3C0FF48_C3C0FF48, TARGET, 512
    assert made.cpu.run() == Halted()
    assert not left
    assert made.cpu.blocks.lines[TARGET >> 12] == 0
    assert call(made, TARGET + 0x804, 0, 0, CODE + 0x100) == 0xC3C0FF48_C3C0FF48 + 1
