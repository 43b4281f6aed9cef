"""Compiled loops: what a guest sees of them is nothing, and whatever changes their code or wants to see them ends them."""

import gc
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from trapgate.exits import DebugException, Halted, Interrupted, SoftwareBreakpoint
from trapgate.isa.native.placing import ENTRY
from trapgate.soft.loops import hot
from trapgate.soft.loops.graph import graph, placed
from trapgate.soft.loops.hot import HotLoops
from trapgate.soft.loops.installed import Installed, LoopBlock, install
from trapgate.soft.loops.kept import KnownLoops
from trapgate.stencil.cache import Cache
from trapgate.stencil.graph import Loop, Node, NotALoop
from trapgate.stencil.loop import compile_loop
from trapgate.vcpu import Breakpoint, Kind, Owner
from unit.soft.bench import CODE, DATA, K64, Bench

HLT = "f4"
SUM = "4801c8 ffc9 75f9" + HLT  # 1: add rax, rcx; dec ecx; jnz 1b
ENDLESS = "48ffc0 ebfb"  # 1: inc rax; jmp 1b


@dataclass
class Looped:
    """A bench whose code has run once as blocks, then got the loop at its start compiled."""

    bench: Bench
    loop: Installed

    @property
    def entered(self) -> bool:
        """Whether the loop's first block still leads there."""
        core = self.bench.cpu
        return core.code.peek(self.loop.head, 1) == b"\xe9" and bool(self.loop.blocks)


def compiled(made: Bench, rip: int = CODE) -> Installed:
    """The loop through the block at `rip`, installed."""
    cpu = made.cpu
    block = placed(cpu, rip, rip, made.st.mode)
    assert block is not None
    around = graph(cpu, block)
    if around is None:
        raise NotALoop
    installed = install(cpu, around, compile_loop(around.nodes))
    assert installed is not None
    return installed


def looped(code: str, **registers: int) -> Looped:
    """Run some code to HLT from CODE, compile its loop, and go back to CODE with the same registers."""
    made = Bench("64")
    made.ram.write(CODE, bytes.fromhex(code))
    begin(made, **registers)
    assert made.cpu.run() == Halted()
    loop = compiled(made)
    begin(made, **registers)
    return Looped(made, loop)


def begin(made: Bench, **registers: int) -> None:
    """Back to CODE."""
    made.cpu.abandon()
    made.st.rip = CODE
    for name in ("rax", "rbx", "rcx", "rdx", "rdi"):
        setattr(made.st, name, registers.get(name, 0))


def test_a_loop_does_what_its_blocks_do() -> None:
    made = looped(SUM, rcx=1000)
    dispatches = made.bench.st.count_dispatch
    assert made.bench.cpu.run() == Halted()
    assert (made.bench.st.rax, made.bench.st.rcx, made.bench.st.get_rflags() & 0x8D5) == (500_500, 0, 0x44)
    assert made.entered and made.bench.st.count_dispatch - dispatches < 5


def test_what_is_no_loop_is_refused() -> None:
    made = Bench("64")
    made.ram.write(CODE, bytes.fromhex("4801c8 ffc9 7500" + HLT))  # add rax, rcx; dec ecx; jnz to what follows; hlt
    made.st.rcx = 5
    assert made.cpu.run() == Halted()
    with pytest.raises(NotALoop):
        compiled(made)


def test_a_kick_ends_an_endless_loop_between_two_instructions() -> None:
    made = Bench("64")
    made.ram.write(CODE, bytes.fromhex(ENDLESS))
    for turn in range(2):  # as a block, then as a loop
        threading.Timer(0.05, made.cpu.kick).start()
        assert made.cpu.run() == Interrupted()
        assert made.st.rip == CODE
        if not turn:
            compiled(made)
            made.st.rax = 0
    assert made.st.rax > 1000


def test_a_fault_amid_a_loop_shows_the_registers_of_its_instruction() -> None:
    """1: inc rbx; mov [rdi], al; add rdi, 8; dec ecx; jnz 1b; hlt: from the mapped 4 MiB into nothing."""
    made = looped("48ffc3 8807 4883c708 ffc9 75f3" + HLT, rcx=4, rdi=DATA)
    bench = made.bench
    bench.gate(14, K64, 0x18000)
    bench.ram.write(0x18000, b"\xf4")
    begin(bench, rcx=100, rdi=(4 << 20) - 24)
    assert bench.cpu.run() == Halted()
    assert (bench.st.cr2, bench.st.rdi, bench.st.rbx, bench.st.rcx) == (4 << 20, 4 << 20, 4, 97)
    frame = bench.words(bench.st.rsp, 4, 8)
    assert (frame[0], frame[1], frame[3] & 1) == (2, CODE + 3, 0)
    assert made.entered


def test_a_loop_that_writes_its_own_code_runs_what_it_wrote() -> None:
    """1: add eax, imm32; inc dword [1b + 1]; dec ecx; jnz 1b; hlt: adds 1, 2, 3, ..."""
    code = "0501000000 ff05f6ffffff ffc9 75f1" + HLT
    made = Bench("64")
    made.ram.write(CODE, bytes.fromhex(code))
    begin(made, rcx=3)
    assert made.cpu.run() == Halted()
    assert made.st.rax == 6
    begin(made, rcx=0)  # 2^32 turns, and no writing: only to have blocks there
    made.ram.write(CODE, bytes.fromhex(code.replace("ff05f6ffffff", "ff053a000000")))
    begin(made, rcx=2)
    assert made.cpu.run() == Halted()
    loop = compiled(made)
    made.ram.write(CODE, bytes.fromhex(code))
    assert not loop.blocks
    begin(made, rcx=4)
    assert made.cpu.run() == Halted()
    assert made.st.rax == 1 + 2 + 3 + 4


def test_writing_the_code_of_a_loop_puts_its_head_back() -> None:
    made = looped(SUM, rcx=10)
    bench = made.bench
    bench.ram.write(CODE + 1, b"\x29")  # sub rax, rcx
    assert not made.entered
    assert bench.cpu.code.peek(made.loop.head, len(made.loop.before)) == made.loop.before
    assert bench.cpu.run() == Halted()
    assert bench.st.rax == -55 & (1 << 64) - 1


@pytest.mark.parametrize("hardware", [False, True])
def test_a_breakpoint_in_a_loop(hardware: bool) -> None:
    made = looped(SUM, rcx=10)
    cpu = made.bench.cpu
    one = Breakpoint(Owner.DEBUGGER, 0, Kind.EXEC, CODE + 3, 1)
    cpu.arm([one] if hardware else [], [] if hardware else [CODE + 3])
    assert not made.entered
    for turn in range(3):
        stop = cpu.run()
        assert stop == SoftwareBreakpoint(CODE + 3) or (isinstance(stop, DebugException) and stop.hits == 1)
        assert (made.bench.st.rip, made.bench.st.rcx) == (CODE + 3, 10 - turn)
        cpu.resume_over()
    cpu.arm([], [])
    assert cpu.run() == Halted()
    assert made.bench.st.rax == 55


def test_a_watchpoint_stops_a_loop_behind_the_access() -> None:
    """1: mov [rdi], ecx; add rdi, 4; dec ecx; jnz 1b; hlt"""
    made = looped("890f 4883c704 ffc9 75f6" + HLT, rcx=10, rdi=DATA)
    cpu = made.bench.cpu
    cpu.arm([Breakpoint(Owner.DEBUGGER, 0, Kind.WRITE, DATA + 16, 4)], [])
    stop = cpu.run()
    assert isinstance(stop, DebugException) and stop.hits == 1
    assert (made.bench.st.rip, made.bench.st.rcx, made.bench.st.rdi) == (CODE + 2, 6, DATA + 16)


def test_single_steps_go_through_a_loop_one_by_one() -> None:
    made = looped(SUM, rcx=3)
    cpu, seen = made.bench.cpu, []
    cpu.step(True)
    for _ in range(5):
        cpu.run()
        seen.append((made.bench.st.rip - CODE, made.bench.st.rcx))
    assert seen == [(3, 3), (5, 2), (0, 2), (3, 2), (5, 1)]


def test_forgetting_everything_forgets_loops() -> None:
    made = looped(SUM, rcx=10)
    made.bench.cpu._start_over()
    assert made.bench.cpu.run() == Halted()
    assert made.bench.st.rax == 55


def test_a_loop_compiled_for_code_that_has_changed_is_not_installed() -> None:
    made = Bench("64")
    made.ram.write(CODE, bytes.fromhex(SUM))
    begin(made, rcx=10)
    made.cpu.run()
    block = placed(made.cpu, CODE, CODE, made.st.mode)
    assert block is not None
    around = graph(made.cpu, block)
    assert around is not None
    loop = compile_loop(around.nodes)
    made.ram.write(CODE + 1, b"\x29")
    assert install(made.cpu, around, loop) is None


def test_a_block_enters_one_loop_only() -> None:
    made = looped(SUM, rcx=10)
    cpu = made.bench.cpu
    block = placed(cpu, CODE, CODE, made.bench.st.mode)
    assert block is not None
    around = graph(cpu, block)
    assert around is not None and install(cpu, around, compile_loop(around.nodes), serial=1) is None


def test_a_loop_met_elsewhere_is_known(tmp_path: Path) -> None:
    """1: add rax, rcx; test edx, edx; jnz 1b; dec ecx; jnz 1b; hlt: the same bytes in two places, and another run."""
    code, elsewhere, known, cache = "4801c8 85d2 75f9 ffc9 75f5" + HLT, CODE + 0x1240, KnownLoops(), Cache(tmp_path)
    made = Bench("64")

    def never(nodes: Sequence[Node]) -> Loop:
        raise AssertionError("it is known")

    for place in (CODE, elsewhere, CODE):
        made.ram.write(place, bytes.fromhex(code))
        begin(made, rcx=10)
        made.st.rip = place
        assert made.cpu.run() == Halted()
        block = placed(made.cpu, place, place, made.st.mode)
        assert block is not None
        around = graph(made.cpu, block)
        assert around is not None
        loop = known.loop(around.nodes, compile_loop if place == CODE and not known.added else never)
        assert install(made.cpu, around, loop)
        begin(made, rcx=20)
        made.st.rip = place
        assert made.cpu.run() == Halted() and made.st.rax == 210
        if place == elsewhere:
            known.store(cache)
            known, made = KnownLoops(), Bench("64")
            known.load(cache)
            known.added = 1
    assert around is not None
    known.loop(around.nodes, never)
    for compile_ in (compile_loop, never):
        with pytest.raises(NotALoop):
            known.loop([Node([])], compile_)


def test_a_breakpoint_that_is_met_again_and_again_is_no_loop() -> None:
    """The block before it has no instructions, and where it leads is itself."""
    made = Bench("64")
    made.ram.write(CODE, bytes.fromhex(ENDLESS))
    made.cpu.arm((), (CODE, CODE + 3))
    made.cpu.hot = watching = HotLoops(made.cpu, 1e6)
    for _ in range(4 * hot.ENOUGH):
        assert isinstance(made.cpu.run(), SoftwareBreakpoint)
        watching.sampled()
        made.cpu.resume_over()
    assert max(watching._samples.values()) > hot.ENOUGH
    assert not watching._looked_at
    made.cpu.close()


def test_a_hot_loop_is_found_compiled_and_entered() -> None:
    made = Bench("64")
    made.ram.write(CODE, bytes.fromhex(ENDLESS))
    made.cpu.hot = HotLoops(made.cpu, 0.001)
    end = time.monotonic() + 60
    try:
        while not any(isinstance(block, LoopBlock) for block in made.cpu.blocks.by_key.values()) and time.monotonic() < end:
            threading.Timer(0.1, made.cpu.kick).start()
            assert made.cpu.run() == Interrupted()
        block = placed(made.cpu, CODE, CODE, made.st.mode)
        assert block is not None and made.cpu.code.peek(block.code + ENTRY, 1) == b"\xe9"
    finally:
        made.cpu.close()
    assert made.cpu.closed
    assert not {"code", "blocks", "translator"} & set(vars(made.cpu))


def test_the_threads_end_with_the_core() -> None:
    before = set(threading.enumerate())
    made = Bench("64")
    made.cpu.hot = HotLoops(made.cpu, 0.001)
    (thread,) = set(threading.enumerate()) - before
    del made
    gc.collect()
    thread.join(20)
    assert not thread.is_alive()


def test_a_compiler_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: Sequence[Node]) -> Loop:
        raise MemoryError

    made, failures = Bench("64"), list[BaseException]()
    made.ram.write(CODE, bytes.fromhex(ENDLESS))
    monkeypatch.setattr(hot, "_compiled", broken)
    made.cpu.hot = HotLoops(made.cpu, 0.001, failures.append)
    end = time.monotonic() + 60
    try:
        while not failures and time.monotonic() < end:
            threading.Timer(0.1, made.cpu.kick).start()
            assert made.cpu.run() == Interrupted()
    finally:
        made.cpu.close()
    assert [type(error) for error in failures] == [MemoryError]


def test_a_branch_that_is_never_taken_and_an_instruction_that_python_executes() -> None:
    """1: test eax, eax; jb 2f; dec ecx; jnz 1b; 2: hlt, and the same with RDRAND in it, which is no loop."""
    made = looped("85c0 7204 ffc9 75f8" + HLT, rcx=10)
    assert made.bench.cpu.run() == Halted() and made.bench.st.rcx == 0
    other = Bench("64")
    other.ram.write(CODE, bytes.fromhex("0fc7f0 ffce 75f9" + HLT))  # 1: rdrand eax; dec esi; jnz 1b
    other.st.rsi = 3
    assert other.cpu.run() == Halted()
    with pytest.raises(NotALoop):
        compiled(other)


def test_packed_and_x87_instructions_in_a_loop() -> None:
    """1: paddd xmm1, xmm0; movd mm3, ecx; paddd mm5, mm3; dec ecx; jnz 1b; movd eax, xmm1; movd ebx, mm5; hlt"""
    code = "660ffec8 0f6ed9 0ffeeb ffc9 75f2 660f7ec8 0f7eeb" + HLT
    made = Bench("64")
    made.st.cr4 |= 1 << 9
    made.cpu.update_mode()
    made.ram.write(CODE, bytes.fromhex(code))
    for turn in range(2):
        begin(made, rcx=10)
        made.st.xmm0[:], made.st.xmm1[:] = (3).to_bytes(16, "little"), bytes(16)
        assert made.cpu.run() == Halted()
        assert (made.st.rax & 0xFFFFFFFF, made.st.rbx & 0xFFFFFFFF) == (30, 55 * (turn + 1))
        if not turn:
            compiled(made)
