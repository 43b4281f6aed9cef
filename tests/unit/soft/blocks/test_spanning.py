"""Blocks in two pages: the dispatcher finds them without Python, as long as both pages are what and where they were."""

from collections.abc import Iterator
from itertools import count

import pytest

from silicon.assemble import assemble
from trapgate.exits import Halted, SoftwareBreakpoint
from trapgate.isa import state as s
from trapgate.isa.native.spanning import PLACES
from trapgate.soft.cpu import SoftVcpu
from unit.soft.bench import CODE, Bench

TABLE, LOWER, UPPER, OTHER, LINEAR = 0x103000, 0x50000, 0x30000, 0x60000, 0x200000
ACROSS = LINEAR + 0xFFD  # mov eax, 11223344h; ret: three bytes in one page, three in the other
ROUNDS = 300
# Each round forgets the user half of the jump cache, calls, and adds what came back.
LOOP = f"xor ebx, ebx\n1: mov rax, cr3\nmov cr3, rax\nmov edi, {ACROSS}\ncall rdi\nadd ebx, eax\ndec ecx\njnz 1b\nhlt"


class Spanning:
    """A guest whose function lies in two pages, which are two pages of RAM as well."""

    def __init__(self) -> None:
        self.made = made = Bench("64")
        made.ram.write_int(0x102008, 8, TABLE | 7)
        self.map(LOWER, UPPER)
        made.ram.write(CODE, assemble(LOOP))
        self.function(LOWER, UPPER, 7)
        self.translated = count()
        translate = made.cpu._reasons[s.EXIT_TRANSLATE]

        def counted(cpu: SoftVcpu) -> None:
            next(self.translated)
            assert translate(cpu) is None

        made.cpu._reasons[s.EXIT_TRANSLATE] = counted

    def map(self, lower: int, upper: int) -> None:
        """Where the two pages are."""
        for n, page in enumerate((lower, upper)):
            self.made.ram.write_int(TABLE + 8 * n, 8, page | 7)

    def function(self, lower: int, upper: int, value: int) -> None:
        """What it returns, in these pages of RAM."""
        code = b"\xb8" + value.to_bytes(4, "little") + b"\xc3"
        self.made.ram.write(lower + 0xFFD, code[:3])
        self.made.ram.write(upper, code[3:])

    def run(self, rounds: int = ROUNDS) -> int:
        """The sum of so many calls."""
        made = self.made
        made.st.rip, made.st.rcx, made.st.rbx = CODE, rounds, 0
        assert made.cpu.run() == Halted()
        return int(made.st.rbx)

    def asked(self) -> int:
        """How often Python was asked since the last time."""
        before = next(self.translated)
        self.translated = count()
        return before


@pytest.fixture
def guest() -> Iterator[Spanning]:
    one = Spanning()
    assert one.run() == 7 * ROUNDS
    assert one.asked() < 12
    yield one
    one.made.cpu.close()


def test_python_is_asked_no_more(guest: Spanning) -> None:
    assert guest.run() == 7 * ROUNDS
    assert guest.asked() == 0


@pytest.mark.parametrize("value", [9, 0x20000, 0x9000000])  # bytes of the first page, of the second
def test_either_page_is_written_by_the_host(guest: Spanning, value: int) -> None:
    guest.function(LOWER, UPPER, value)
    assert guest.run() == value * ROUNDS & 0xFFFFFFFF


@pytest.mark.parametrize(("at", "value"), [(LOWER + 0xFFE, 5), (UPPER, 7 + (1 << 16)), (UPPER + 1, 7 + (1 << 24))])
def test_either_page_is_written_by_the_guest(guest: Spanning, at: int, value: int) -> None:
    store = f"mov byte ptr [{at}], {1 if at >= UPPER and at < LOWER else 5}\n"
    guest.made.ram.write(CODE + 0x100, assemble(store + LOOP))
    guest.made.st.rip, guest.made.st.rcx = CODE + 0x100, ROUNDS
    assert guest.made.cpu.run() == Halted()
    assert guest.made.st.rbx == value * ROUNDS & 0xFFFFFFFF


@pytest.mark.parametrize("flush", ["mov rax, cr3\nmov cr3, rax\n", f"invlpg [{LINEAR + 0x1000}]\n", f"invlpg [{LINEAR}]\n"])
def test_either_page_is_another(guest: Spanning, flush: str) -> None:
    second = f"invlpg [{LINEAR}]" not in flush
    other = 7 + (1 << 24) if second else 3
    guest.function(LOWER if second else OTHER, OTHER if second else UPPER, other)
    # a call fills the jump cache, the mapping changes amid the run, and only `flush` tells of it
    change = f"mov qword ptr [{TABLE + 8 * second}], {OTHER | 7}\n{flush}"
    program = f"mov edi, {ACROSS}\ncall rdi\nmov ebx, eax\n{change}call rdi\nadd ebx, eax\nhlt"
    guest.made.ram.write(CODE + 0x200, assemble(program))
    guest.made.st.rip = CODE + 0x200
    assert guest.made.cpu.run() == Halted()
    assert guest.made.st.rbx == 7 + other


def test_the_second_page_goes_and_comes_back(guest: Spanning) -> None:
    for lower, upper, value in ((LOWER, UPPER, 7), (LOWER, OTHER, 1 << 16), (LOWER, UPPER, 7), (LOWER, OTHER, 1 << 16)):
        guest.function(lower, upper, value + (7 if value > 7 else 0))
        guest.map(lower, upper)
        guest.made.cpu.flush_all()
        assert guest.run() == (value + (7 if value > 7 else 0)) * ROUNDS


def test_a_breakpoint_behind_the_border(guest: Spanning) -> None:
    made = guest.made
    made.cpu.arm([], [ACROSS + 5])
    made.st.rip, made.st.rcx = CODE, 2
    assert made.cpu.run() == SoftwareBreakpoint(ACROSS + 5)
    made.cpu.arm([], [ACROSS])
    assert made.cpu.run() == SoftwareBreakpoint(ACROSS)


def test_two_blocks_of_one_place_take_turns(guest: Spanning) -> None:
    """Their RIPs differ by as many pages as the table has room for."""
    made, away = guest.made, PLACES << 8
    assert away % (2 << 20) == 0
    entry = 0x102000 + 8 * ((ACROSS + away) >> 21)
    made.ram.write_int(entry, 8, TABLE | 7)
    loop = LOOP.replace("call rdi\n", f"call rdi\nadd rdi, {away}\ncall rdi\n")
    made.ram.write(CODE + 0x300, assemble(loop))
    made.st.rip, made.st.rcx = CODE + 0x300, ROUNDS
    assert made.cpu.run() == Halted()
    assert made.st.rbx == 7 * ROUNDS
    assert guest.asked() >= ROUNDS
