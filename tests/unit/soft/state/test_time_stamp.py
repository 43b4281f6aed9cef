"""RDTSC and RDTSCP: native on the host's clock, with the value that Python has; Python's wherever that clock does not hold."""

import time

import pytest

from trapgate.arch import msrs
from trapgate.clock import HostClock, InstructionClock
from trapgate.exits import Halted, Interrupted
from trapgate.isa import state as s
from trapgate.soft import answers
from trapgate.soft.running import RunningCpu
from unit.soft.bench import CODE, Bench

RDTSC, RDTSCP, HLT = "0f31", "0f01f9", "f4"
WRITE_TSC, ADJUST_TSC = "b910000000 31d2 b800100000 0f30", "b93b000000 31d2 b800100000 0f30"  # wrmsr: 1000h


def bench(code: str, clock: HostClock | None = None, cpl: int = 0, model: str = "EPYC-Turin") -> tuple[Bench, list[int]]:
    """A CPU on the host's clock, and RIP of each RDTSC that Python executes."""
    made, left = Bench("64", cpl, model), list[int]()
    made.cpu.clock = clock or HostClock()
    made.ram.write(CODE, bytes.fromhex(code))

    def instruction(cpu: RunningCpu) -> int:
        answer = answers.instruction(cpu)
        if answer:
            left.append(made.st.rip)
        return answer

    made.cpu._answers[s.EXIT_INSTRUCTION] = instruction
    return made, left


def counter(made: Bench) -> int:
    assert max(made.st.rax, made.st.rdx) < 1 << 32
    return int(made.st.rax | made.st.rdx << 32)


@pytest.mark.parametrize("code", [RDTSC, RDTSCP])
def test_it_lies_between_two_looks_of_python(code: str) -> None:
    made, left = bench("4883c8ff 4883caff" + code + HLT)  # or rax, -1; or rdx, -1
    made.st.tsc_aux = 0x77
    for _ in range(100):
        made.st.rip, made.st.rcx = CODE, 1 << 40
        before = made.cpu.tsc()
        assert made.cpu.run() == Halted()
        assert before <= counter(made) <= made.cpu.tsc()
        assert made.st.rcx == (0x77 if code == RDTSCP else 1 << 40)
    assert not left


def test_the_same_moment_is_the_same_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded alike, however long the host has been up."""
    made, _ = bench(RDTSC + HLT)
    for zero in (0, 1, 123_456_789, -(1 << 55)):
        made.cpu.clock._origin = zero  # type: ignore[attr-defined]
        made.cpu.tsc_offset = -17
        made.st.rip = CODE
        made.cpu.run()
        host = bytes(made.st.host_time)
        moment = int.from_bytes(host[:8], "little") * 1_000_000_000 + int.from_bytes(host[8:], "little")
        with monkeypatch.context() as patch:
            patch.setattr(time, "monotonic_ns", lambda moment=moment: moment)
            assert counter(made) == made.cpu.tsc()


@pytest.mark.parametrize("write", [WRITE_TSC, ADJUST_TSC])
def test_it_jumps_as_the_guest_says(write: str) -> None:
    made, _ = bench(write + RDTSC + HLT, model="SapphireRapids")
    before = made.cpu.tsc()
    assert made.cpu.run() == Halted()
    moved = made.cpu.tsc_offset
    assert (moved == 0x1000) if write == ADJUST_TSC else (moved <= 0x1000 - before)
    assert made.cpu.msrs[msrs.TSC_ADJUST] == moved & (1 << 64) - 1
    assert 0x1000 <= counter(made) <= made.cpu.tsc()


def test_where_time_stands_still_python_reads_it() -> None:
    clock = HostClock()
    made, left = bench(RDTSC + HLT, clock)
    clock.pause()
    assert made.cpu.run() == Halted()
    assert counter(made) == made.cpu.tsc()
    assert left == [CODE + 2]
    before = made.cpu.tsc()
    time.sleep(0.05)
    clock.resume()
    made.st.rip = CODE
    assert made.cpu.run() == Halted()
    assert before <= counter(made) <= made.cpu.tsc()
    assert clock.stood() >= 50_000_000
    assert left == [CODE + 2]


@pytest.mark.parametrize(("tsd", "cpl", "faults"), [(1, 3, True), (0, 3, False), (1, 0, False)])
def test_cr4_tsd(tsd: int, cpl: int, faults: bool) -> None:
    made, _ = bench(RDTSC + "0f0b", cpl=cpl)  # ud2
    made.st.cr4 |= tsd << 2
    for vector in (6, 13):
        made.gate(vector, 0x08, CODE + 0x800 + vector)
        made.ram.write(CODE + 0x800 + vector, b"\xf4")
    assert made.cpu.run() == Halted()
    assert made.st.rip == CODE + 0x801 + (13 if faults else 6)


def test_who_looks_at_the_time_sees_a_timer_that_is_due() -> None:
    """Without anybody who wakes up for it."""
    clock, rung = HostClock(), list[int]()
    made, _ = bench("eb01 90 0f31 f390 ebfa", clock)  # 1: rdtsc; pause; jmp 1b
    for _ in range(3):
        clock.at(moment := clock.now() + 2_000_000, lambda: rung.append(clock.now()))
        assert made.cpu.run() == Interrupted()
        assert clock.now() >= moment
        assert not rung
        clock.run_due()
        assert rung.pop() >= moment


def test_a_single_step_is_one_instruction() -> None:
    made, _ = bench(RDTSC + RDTSCP + HLT)
    made.cpu.step(True)
    for length in (2, 5):
        made.cpu.run()
        assert made.st.rip == CODE + length


@pytest.mark.parametrize("native", [True, False])
def test_with_the_instruction_clock_it_counts_instructions(native: bool) -> None:
    """rdtsc; mov ebx, eax; nop; nop; nop; rdtsc; sub eax, ebx; hlt: as many of the clock's ns as instructions between."""
    made = Bench("64", counting=True)
    cpu = made.cpu
    cpu.clock = InstructionClock(cpu.executed)
    cpu.clock.skip_to(5_000)
    made.ram.write(CODE, bytes.fromhex(RDTSC + "89c3 909090" + RDTSC + "29d8" + HLT))
    left = list[int]()
    answer = cpu._answers[s.EXIT_INSTRUCTION]
    cpu._answers[s.EXIT_INSTRUCTION] = lambda cpu: left.append(made.st.rip) or answer(cpu)
    if not native:
        cpu.follow_clock = lambda: None  # type: ignore[method-assign]
    cpu.budget(1000)
    cpu.tsc_offset = 7
    assert cpu.run() == Halted()
    a_second, first = cpu.tsc_hz, 5_001
    assert made.st.rbx == first * a_second // 1_000_000_000 + 7
    assert made.st.rax == (first + 5) * a_second // 1_000_000_000 + 7 - made.st.rbx
    assert cpu.executed() == 8
    assert len(left) == (1 if native else 3)  # HLT is Python's
