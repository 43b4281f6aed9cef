"""Bus locks that native code settles: no exit to Python in the plain case, the same end as Python's rules in every case."""

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import pytest

from trapgate.arch import debugregs, dr6
from trapgate.arch.debugregs import DR6_BLD, DR6_INIT, DR7_GD
from trapgate.exits import BusLock, DebugException, Halted
from trapgate.isa import state as s
from trapgate.soft.cpu import SoftVcpu
from unit.soft.bench import CODE, DATA, K64, STACK0, Bench

SPLIT = DATA + 61
PAGE_EDGE = DATA + 0xFFE
LOCK_INC = bytes.fromhex("f0ff07")  # lock inc dword [rdi]
NO_WRITE_BACK = 1 << 4  # PCD of a page-table entry

T = TypeVar("T")


class Locking:
    """CPL 3, RDI on an operand, `lock inc` at RIP, a handler for #DB that halts; every exit of native code is counted."""

    def __init__(self, at: int = SPLIT, code: bytes = LOCK_INC, model: str = "EPYC-Turin", cpl: int = 3) -> None:
        self.bench = Bench("64", cpl=cpl, model=model)
        self.cpu, self.st, ram = self.bench.cpu, self.bench.st, self.bench.ram
        ram.write(CODE, code + b"\x0f\x0b")
        ram.write(CODE + 0x100, b"\xf4")
        self.bench.gate(1, K64, CODE + 0x100)
        self.st.rdi, self.st.debugctl = at, 4
        self.cpu.update_mode()
        self.exits: Counter[int] = Counter()
        reasons = self.cpu._reasons
        self.cpu._reasons = {reason: self._counted(reason, answer) for reason, answer in reasons.items()}

    def _counted(self, reason: int, answer: Callable[[SoftVcpu], T]) -> Callable[[SoftVcpu], T]:
        def counted(cpu: SoftVcpu) -> T:
            self.exits[reason] += 1
            return answer(cpu)

        return counted

    def left_for_python(self) -> set[int]:
        """Why native code left, but for translation and the HLT of the handler."""
        return set(self.exits) - {s.EXIT_TRANSLATE, s.EXIT_INSTRUCTION}


@pytest.mark.parametrize("model", ["EPYC-Turin", "SapphireRapids"])
@pytest.mark.parametrize("before", [DR6_INIT, DR6_INIT ^ DR6_BLD, DR6_INIT | 0xE00F, 0])
def test_a_split_lock_is_trapped_without_python(before: int, model: str) -> None:
    guest = Locking(model=model)
    guest.st.dr6, guest.st.dr7, guest.st.rflags = before, 0x400 | DR7_GD, guest.st.rflags | 1 << 9
    assert guest.cpu.run() == Halted()
    assert not guest.left_for_python()
    st, ram = guest.st, guest.bench.ram
    assert ram.read_int(SPLIT, 4) == 1
    assert st.dr6 == dr6.deliver(before, DR6_BLD, 0, amd=model == "EPYC-Turin")
    assert (st.dr7, st.debugctl, st.pending_debug) == (0x400, 4, 0)
    rip, _, flags = guest.bench.words(st.rsp, 3, 8)
    assert (rip, flags & ~0xD5, st.rsp, guest.bench.cpl) == (CODE + 3, 0x202, STACK0 - 40, 0)


@pytest.mark.parametrize("at", [DATA + 8, SPLIT])
def test_uncached_memory_too(at: int) -> None:
    guest = Locking(at)
    guest.bench.ram.write_int(0x102000, 8, 0x87 | NO_WRITE_BACK)
    assert guest.cpu.run() == Halted()
    assert (guest.st.dr6, guest.bench.ram.read_int(at, 4)) == (DR6_INIT ^ DR6_BLD, 1)
    assert not guest.left_for_python()


def test_a_page_walk_from_before_does_not_count() -> None:
    """The operand's page holds translated code: it is found without a walk, after a walk that met uncached memory."""
    guest = Locking(CODE + 0x808, bytes.fromhex("ff07 8b06") + LOCK_INC)  # inc dword [rdi]; mov eax, [rsi]; the lock
    guest.bench.ram.write_int(0x102008, 8, 2 << 20 | 0x87 | NO_WRITE_BACK)
    guest.st.rsi = 2 << 20
    guest.bench.gate(6, K64, CODE + 0x100)
    assert guest.cpu.run() == Halted()
    assert (guest.st.dr6, guest.bench.ram.read_int(CODE + 0x808, 4)) == (DR6_INIT, 2)
    assert guest.bench.words(guest.st.rsp, 1, 8) == [CODE + 7]  # UD2 behind it


def test_without_a_trap_nothing_is_left() -> None:
    guest = Locking()
    guest.st.debugctl = 0
    guest.cpu.update_mode()
    guest.bench.gate(6, K64, CODE + 0x100)
    assert guest.cpu.run() == Halted()
    assert (guest.st.dr6, guest.st.pending_debug, guest.bench.ram.read_int(SPLIT, 4)) == (DR6_INIT, 0, 1)
    assert not guest.left_for_python()


def test_a_lock_across_two_pages_is_native() -> None:
    crossing = Locking(PAGE_EDGE)
    assert crossing.cpu.run() == Halted()
    assert (crossing.left_for_python(), crossing.st.dr6) == (set(), DR6_INIT ^ DR6_BLD)
    assert crossing.bench.ram.read_int(PAGE_EDGE, 4) == 1


def test_what_is_not_plain_is_pythons() -> None:
    """A report, a #DB that clears BTF, an IDT that is too short: each ends as the rules in Python say."""
    reported = Locking()
    reported.st.bus_lock_report = 1
    assert reported.cpu.run() == BusLock(CODE, SPLIT, 4, 3)
    assert reported.cpu.run() == DebugException(DR6_BLD, 0, False, fault=False)
    branches = Locking()
    branches.st.debugctl = 4 | 2
    assert branches.cpu.run() == DebugException(DR6_BLD, 0, False, fault=False)
    short = Locking()
    short.bench.gate(13, K64, CODE + 0x100)
    short.bench.gate(1, K64, CODE + 0x100, kind=12)  # no gate of 64-bit mode: #GP(1 * 8 + IDT + EXT), RIP behind the lock
    assert short.cpu.run() == Halted()
    assert short.bench.words(short.st.rsp, 2, 8) == [0xB, CODE + 3]
    assert short.st.dr6 == DR6_INIT ^ DR6_BLD


@pytest.mark.parametrize(
    "model", ["EPYC-Turin", "SapphireRapids", "EPYC-Turin,-bus-lock-detect", "SapphireRapids,-bus-lock-detect"]
)
@pytest.mark.parametrize("control", [0, 4])
@pytest.mark.parametrize("value", [0, DR6_INIT ^ DR6_BLD, DR6_INIT, 0x1E80F, 0xFFFFFFFF])
def test_dr6_in_native_code_is_what_the_rules_say(model: str, control: int, value: int) -> None:
    bench = Bench("64", model=model)
    known = bench.cpu.model.has("bus-lock-detect")
    st, amd, debugctl = bench.st, bench.cpu.model.amd, control if known else 0
    bench.ram.write(CODE, bytes.fromhex("0f23f0 0f21f3 f4"))  # mov dr6, rax; mov rbx, dr6; hlt
    st.rax, st.rbx, st.debugctl = value, 0xBAD << 40, debugctl
    assert bench.cpu.run() == Halted()
    assert st.dr6 == debugregs.store_dr6(value, amd=amd, bus_lock=known, debugctl=debugctl)
    assert st.rbx == debugregs.read_dr6(st.dr6, amd=amd, bus_lock=known, debugctl=debugctl)


@pytest.mark.parametrize("code", ["0f23f0", "0f21f0"])
def test_general_detect_comes_before_an_access_to_dr6(code: str) -> None:
    bench = Bench("64")
    bench.ram.write(CODE, bytes.fromhex(code + "f4"))
    bench.st.dr7 |= DR7_GD
    assert bench.cpu.run() == DebugException(debugregs.DR6_BD, 0, False, fault=True)
    assert (bench.st.rip, bench.st.dr6) == (CODE, DR6_INIT)


def test_dr6_has_32_bits_and_belongs_to_cpl_0() -> None:
    for cpl, value in ((0, 1 << 32), (3, 0)):
        bench = Bench("64", cpl=cpl)
        bench.ram.write(CODE, bytes.fromhex("0f23f0 f4"))
        bench.ram.write(CODE + 0x100, b"\xf4")
        bench.gate(13, K64, CODE + 0x100)
        bench.st.rax = value
        assert bench.cpu.run() == Halted()
        assert bench.words(bench.st.rsp, 2, 8) == [0, CODE]


COUNTDOWN = LOCK_INC + bytes.fromhex("ffc9 75f9")  # the lock; dec ecx; jnz to it
COUNTDOWN_RELOADING = LOCK_INC + bytes.fromhex("ffc9 0f22d8 75f6")  # mov cr3, rax in between


def reporting(code: bytes, cpl: int = 3) -> Locking:
    """A run that reports bus locks, of a loop of 100."""
    guest = Locking(code=code, cpl=cpl)
    guest.bench.gate(6, K64, CODE + 0x100)
    guest.cpu.report_bus_locks(True)
    guest.st.rcx, guest.st.rax, guest.st.debugctl = 100, guest.st.cr3, 0
    guest.cpu.update_mode()
    return guest


@pytest.mark.parametrize("at", [SPLIT, PAGE_EDGE])
def test_what_is_told_once_is_counted_without_python(at: int) -> None:
    guest, told = reporting(COUNTDOWN), list[int]()
    guest.st.rdi = at
    lock = BusLock(CODE, at, 4, 3)
    assert [guest.cpu.run(), guest.cpu.run()] == [lock, lock]
    guest.cpu.tally(CODE, told.append)
    guest.exits.clear()
    assert guest.cpu.run() == Halted()
    assert s.EXIT_ACCESS not in guest.exits
    assert not told
    guest.cpu.tell_tallies()
    guest.cpu.tell_tallies()
    assert (told, guest.bench.ram.read_int(at, 4)) == ([98], 100)


def test_another_address_space_is_told_of_anew() -> None:
    guest, told = reporting(COUNTDOWN_RELOADING, cpl=0), list[int]()
    for _ in range(100):
        assert guest.cpu.run() == BusLock(CODE, SPLIT, 4, 0)
        guest.cpu.tally(CODE, told.append)
    assert guest.cpu.run() == Halted()
    guest.cpu.tell_tallies()
    assert told == 100 * [0]


def test_another_instruction_is_told_of() -> None:
    guest, told = reporting(COUNTDOWN), list[int]()
    guest.cpu.tally(CODE + 64 * 65, told.append)
    guest.cpu.tally(CODE + 1, told.append)
    assert guest.cpu.run() == BusLock(CODE, SPLIT, 4, 3)
    guest.cpu.tally(CODE, told.append)
    guest.cpu.run()
    guest.cpu.tell_tallies()
    assert sorted(told) == [0, 0, 99]


def test_steps_are_told_of_each() -> None:
    guest, told = reporting(COUNTDOWN), list[int]()
    assert guest.cpu.run() == BusLock(CODE, SPLIT, 4, 3)
    guest.cpu.tally(CODE, told.append)
    guest.cpu.step(True)
    found = [guest.cpu.run() for _ in range(6)]
    assert BusLock(CODE, SPLIT, 4, 3) in found
    guest.cpu.tell_tallies()
    assert told == [0]
