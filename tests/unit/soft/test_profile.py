"""The profile of a run: every ns is booked once, each exit under its reason, samples only of guest code, no kick lost."""

import itertools
from collections.abc import Iterator

import pytest

from trapgate.exits import DebugException, Halted, Interrupted, MmioRead
from trapgate.isa import state as s
from trapgate.profile import Profile, Spent
from trapgate.soft.observing import REASONS, SAMPLE
from trapgate.vcpu import SAMPLED, Place
from unit.soft.bench import CODE, Bench
from unit.soft.test_answers import PHYSICAL, Recorder
from unit.soft.test_answers import bench as with_devices

NEVER = 1e6  # s between samples: the tests take them themselves


@pytest.fixture
def profiled() -> Iterator[tuple[Bench, Profile]]:
    made = Bench("64")
    ticks = itertools.count(0, 10)  # each look at the clock is 10 ns later
    profile = Profile([made.cpu], lambda: next(ticks), NEVER)
    yield made, profile
    profile.close()


def test_every_exit_has_words() -> None:
    known = set(REASONS) | {s.EXIT_INSTRUCTION, s.EXIT_PORT}
    assert known == set(Bench("64").cpu._reasons)


def test_every_ns_is_booked_once(profiled: tuple[Bench, Profile]) -> None:
    made, profile = profiled
    made.ram.write(CODE, bytes.fromhex("90 0fc7f0 0fc7f0 f4"))  # nop; rdrand eax; rdrand eax; hlt
    profile.resumed()
    assert made.cpu.run() == Halted()
    profile.paused()
    profile.resumed()  # what a debugger does in between counts for nothing
    profile.paused()
    figures = profile.figures
    assert figures.exits["RDRAND in Python"].count == 2
    assert (
        figures.exits[REASONS[s.EXIT_TRANSLATE]].count == figures.translation.count == 2
    )  # of its third block native code knows all
    assert figures.asleep == Spent(1, 10)
    entries = 2 + 2 + 1  # stays in native code: each begins with a look at the clock and ends with one
    assert figures.native == 10 * entries
    assert figures.translation.time == 2 * 10
    assert figures.total == figures.native + figures.translation.time + figures.python + 10
    until_native_code, under_the_debugger = 10, 3 * 10
    assert figures.total == profile._now() - until_native_code - under_the_debugger


@pytest.mark.parametrize(("place", "noted"), [(CODE, CODE + 4), (CODE + 2, CODE + 4), (CODE + 4, CODE + 7)])
def test_samples_name_blocks_or_exits(profiled: tuple[Bench, Profile], place: int, noted: int) -> None:
    """A sample asked for as native code begins at `place` is taken at the block there, if there is one, or at the next exit."""
    made, profile = profiled
    made.ram.write(CODE, bytes.fromhex("9090 eb00 0fc7f0 0fc7f0 f4"))  # nop; nop; jmp; 1: rdrand eax; rdrand eax; hlt
    assert made.cpu.run() == Halted()
    left = profile.left

    def sampled() -> None:  # as the thread does while native code runs, between a block's head and its end
        if made.st.rip == noted and not profile.figures.samples:
            made.st.request = SAMPLE
        left()

    profile.left = sampled  # type: ignore[method-assign]
    made.st.rip = place
    profile.resumed()
    assert made.cpu.run() == Halted()
    assert profile.figures.samples == {Place(noted, 0): 1}


def test_a_request_to_leave_is_met_at_the_head_of_a_block(profiled: tuple[Bench, Profile]) -> None:
    made, profile = profiled
    made.ram.write(CODE, bytes.fromhex("90 f4"))
    assert made.cpu.run() == Halted()
    entering, asked = profile.entering, [True]

    def sampled() -> None:
        entering()
        if asked and asked.pop():
            made.st.request = SAMPLE

    profile.entering = sampled  # type: ignore[method-assign]
    made.st.rip = CODE
    profile.resumed()
    assert made.cpu.run() == Halted()
    assert profile.figures.samples == {Place(CODE, 0): 1}
    assert profile.figures.exits[SAMPLED].count == 1


def test_a_sample_that_comes_while_python_runs_is_none(profiled: tuple[Bench, Profile]) -> None:
    made, profile = profiled
    made.ram.write(CODE, bytes.fromhex("ec ec f4"))  # in al, dx; in al, dx; hlt
    devices = Recorder()

    def late() -> None:
        made.st.request = SAMPLE

    devices.also, made.cpu.devices = late, devices
    made.st.rdx = 0x3F8
    profile.resumed()
    assert made.cpu.run() == Halted()
    assert not profile.figures.samples
    assert profile.figures.exits["IN from port 3F8h"].count == len(devices.seen) == 2


def test_a_kick_under_a_sample_is_not_lost(profiled: tuple[Bench, Profile]) -> None:
    made, profile = profiled
    made.ram.write(CODE, bytes.fromhex("ec f4"))
    devices = Recorder()

    def both() -> None:
        made.cpu.kick()
        made.st.request = SAMPLE

    devices.also, made.cpu.devices = both, devices
    profile.resumed()
    assert made.cpu.run() == Interrupted()
    assert (made.st.rip, len(devices.seen)) == (CODE + 1, 1)


def test_devices_have_their_own_lines() -> None:
    made, _ = with_devices("b90a000000 8b07 90 ffc9 75f9 f4")  # mov ecx, 10; 1: mov eax, [rdi]; nop; dec ecx; jnz 1b; hlt
    profile = Profile([made.cpu], interval=NEVER)
    profile.resumed()
    while isinstance(made.cpu.run(), MmioRead):
        made.cpu.complete(0)
    assert profile.figures.exits[f"memory-mapped device at {PHYSICAL:X}h"].count == 8
    assert profile.figures.exits[REASONS[s.EXIT_ACCESS]].count == 2 * 2  # in the block, and in the step
    profile.close()


def test_steps_run_as_ever() -> None:
    made = Bench("64")
    made.ram.write(CODE, b"\x90\x90\xf4")
    profile = Profile([made.cpu], interval=NEVER)
    made.cpu.step(True)
    profile.resumed()
    assert made.cpu.run() == DebugException(1 << 14, 0, False, fault=False)
    profile.paused()
    assert made.st.rip == CODE + 1
    assert profile.figures.exits[REASONS[s.EXIT_STEPPED]].count == 1
    assert profile.figures.translation.count == 1
    profile.close()


def test_the_thread_takes_samples_of_a_loop() -> None:
    made = Bench("64")
    made.ram.write(CODE, bytes.fromhex("ffc8 75fc f4"))  # 1: dec eax; jnz 1b; hlt
    made.st.rax = 300_000_000
    profile = Profile([made.cpu])
    profile.resumed()
    assert made.cpu.run() == Halted()
    profile.paused()
    profile.close()
    assert profile.figures.samples[Place(CODE, 0)] > 5
    assert not profile._thread.is_alive()


def test_the_instruction_clock_is_left_alone() -> None:
    made = Bench("64", counting=True)
    made.cpu.budget(1 << 40)
    profile = Profile([made.cpu], interval=0.0001)
    profile.resumed()
    profile._thread.join(10)
    assert not profile._thread.is_alive()
    assert not made.st.request
    profile.close()
