"""Frames of exceptions wherever the stack lies, and RF beside breakpoints: native code alone, and as the exact path has it."""

import random
from collections import Counter
from collections.abc import Callable

import pytest

from silicon.assemble import assemble
from trapgate.exits import Exit, Halted, Shutdown
from trapgate.isa import state as s
from trapgate.soft.cpu import SoftVcpu
from trapgate.soft.state.armed import LAST, Watch
from trapgate.vcpu import Kind
from unit.soft.bench import CODE, K64, Bench

TABLE, LOWER, UPPER, STACK = 0x103000, 0x50000, 0x30000, 0x201000  # two pages below and above STACK, the upper one lower in RAM
BREAKPOINT, UNDEFINED, PAGE_FAULT, HANDLERS = 3, 6, 14, 0x18000
PROGRAM = "mov ecx, 20\n1: ud2\nint3\nmov eax, [0x600000]\ndec ecx\njnz 1b\nhlt"
RETURNS = {BREAKPOINT: "iretq", UNDEFINED: "add qword ptr [rsp], 2\niretq", PAGE_FAULT: "add rsp, 8\nadd qword ptr [rsp], 7\niretq"}


def _made(rsp: int, upper: bool = True, program: str = PROGRAM) -> Bench:
    made = Bench("64")
    made.ram.write_int(0x102008, 8, TABLE | 7)
    made.ram.write_int(TABLE, 8, LOWER | 7)
    made.ram.write_int(TABLE + 8, 8, UPPER | 7 if upper else 0)
    made.ram.write(CODE, assemble(program))
    for vector, code in RETURNS.items():
        made.gate(vector, K64, HANDLERS + 64 * vector)
        made.ram.write(HANDLERS + 64 * vector, assemble(code))
    made.st.rsp = rsp
    return made


def _all_in_python(made: Bench) -> None:
    st, everything = made.st, [Watch(0, LAST, Kind.ACCESS, 0)]
    st.watched_reads, st.watched_reads_end = made.cpu.watched_reads.put(everything)
    st.watched_writes, st.watched_writes_end = made.cpu.watched_writes.put(everything)
    made.cpu.flush_all()


def _run(made: Bench) -> tuple[Exit, Counter[int]]:
    """The end, and how often native code left for which reason."""
    left, reasons = Counter[int](), made.cpu._reasons

    def counted(reason: int, handle: Callable[[SoftVcpu], Exit | None]) -> Callable[[SoftVcpu], Exit | None]:
        def handled(cpu: SoftVcpu) -> Exit | None:
            left[reason] += 1
            return handle(cpu)

        return handled

    for reason, handle in list(reasons.items()):
        reasons[reason] = counted(reason, handle)
    return made.cpu.run(), left


@pytest.mark.parametrize("above", [*range(0, 64, 8), 4, 33])
def test_a_frame_in_two_pages_is_pushed_and_popped_by_native_code(above: int) -> None:
    made, exact = _made(STACK + above), _made(STACK + above)
    _all_in_python(exact)
    end, left = _run(made)
    assert (end, exact.cpu.run()) == (Halted(), Halted())
    assert left[s.EXIT_DELIVER] == 0
    assert (made.st.rsp, made.st.cr2) == (exact.st.rsp, exact.st.cr2) == (STACK + above, 0x600000)
    for page in (LOWER, UPPER):
        assert made.ram.read(page, 4096) == exact.ram.read(page, 4096)


def test_a_frame_whose_second_page_is_not_there_is_a_double_fault() -> None:
    ends = []
    for how in (lambda made: None, _all_in_python):
        made = _made(STACK + 16, upper=False)
        how(made)
        ends.append((made.cpu.run(), made.ram.read(LOWER, 4096)))
    assert isinstance(ends[0][0], Shutdown) and ends[0] == ends[1]


def test_returns_with_rf_need_no_step_for_breakpoints_in_other_pages() -> None:
    made = _made(STACK - 256)
    made.cpu.arm([], [CODE + 0x5000])
    end, left = _run(made)
    assert end == Halted()
    assert left[s.EXIT_INTERRUPTED] == left[s.EXIT_DELIVER] == 0


def test_frames_on_odd_stacks_at_random() -> None:
    chance = random.Random(5)
    for _ in range(20):
        rsp = STACK + chance.randrange(-80, 120)
        moves = "\n".join(chance.choice(("push rax", "ud2", "int3", "mov eax, [0x600000]", "sub rsp, 3")) for _ in range(12))
        made, exact = _made(rsp, program=f"{moves}\nhlt"), _made(rsp, program=f"{moves}\nhlt")
        _all_in_python(exact)
        assert made.cpu.run() == exact.cpu.run() == Halted()
        assert made.ram.read(0, 4 << 20) == exact.ram.read(0, 4 << 20)
        assert (made.st.rsp, made.st.get_rflags()) == (exact.st.rsp, exact.st.get_rflags())
