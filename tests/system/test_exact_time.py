"""The instruction clock is exact: a guest is at the same place after as many instructions, however its run is cut and watched."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from programs import build
from programs.debug import cases
from system.test_at_rest import Make, debugging, devices, program
from trapgate.cpustate import CpuState
from trapgate.machine import Machine
from trapgate.soft.resting import SoftState
from trapgate.stops import CountDone, MachineExit, Stop
from trapgate.vcpu import Breakpoint, Kind, Owner

pytestmark = pytest.mark.skipif(bool(build.missing_tools()), reason=f"not installed: {build.missing_tools()}")
PROGRAMS = [
    "long_exceptions", "long_interrupts", "long_selfmod", "virtual_8086",
    *(pytest.param(name, marks=pytest.mark.long)
        for name in ("long_paging", "long_xsave", "protected_segments", "real_mode", "long_user")),
]  # fmt: skip
MEMORY = 64 << 20
PLACES = 6  # in one run at which it is looked at
Run = Callable[[Machine, int, random.Random], Stop]


def at_once(machine: Machine, count: int, source: random.Random) -> Stop:
    return machine.resume(instructions=count)


def in_slices(machine: Machine, count: int, source: random.Random) -> Stop:
    stop: Stop = CountDone()
    while count and isinstance(stop, CountDone):
        some = min(count, source.choice((1, 2, 3, 7, 50, 1000, 20000, 1_000_000)))
        stop = machine.resume(instructions=some)
        count -= some
    return stop


def one_by_one(machine: Machine, count: int, source: random.Random) -> Stop:
    machine.vcpu.translator.configure(block_limit=1)  # type: ignore[attr-defined]
    return machine.resume(instructions=count)


def unchained(machine: Machine, count: int, source: random.Random) -> Stop:
    machine.vcpu.translator.configure(block_limit=3, chaining=False)  # type: ignore[attr-defined]
    return machine.resume(instructions=count)


def with_breakpoints(machine: Machine, count: int, source: random.Random) -> Stop:
    """Breakpoints where it is at some moments, and watchpoints at what it uses as a stack and on the first page."""
    end = machine.vcpu.executed() + count
    while True:
        vcpu = machine.vcpu
        place = vcpu.get("rip") + vcpu.get("cs_base") * (not vcpu.get("efer") & 1 << 10)
        watched = [
            Breakpoint(Owner.DEBUGGER, n, kind, source.choice((vcpu.get("rsp") - 8, vcpu.get("rdi"), 0x5000)) & (1 << 47) - 8, 8)
            for n, kind in enumerate((Kind.WRITE, Kind.ACCESS))
        ]
        vcpu.arm([*watched, Breakpoint(Owner.DEBUGGER, 2, Kind.EXEC, place & (1 << 64) - 1, 1)], [place + 4 & (1 << 64) - 1])
        stop = machine.resume(instructions=min(end - vcpu.executed(), source.choice((100, 3000, 1_000_000))))
        if isinstance(stop, MachineExit) or machine.vcpu.executed() >= end:
            vcpu.arm([], [])
            return stop


WAYS: tuple[Run, ...] = (in_slices, one_by_one, unchained, with_breakpoints)


def state_of(machine: Machine) -> tuple[int, int, CpuState]:
    """Moment and CPU, but for what no guest sees: how the next instruction runs, which exceptions Python has delivered."""
    cpu = machine.vcpu.save()
    assert isinstance(cpu.underway, SoftState)
    cpu = replace(cpu, history=(), underway=replace(cpu.underway, stepping=False))
    return machine.vcpu.executed(), machine.clock.now(), cpu


def check(make: Make, seed: int, ways: tuple[Run, ...] = WAYS) -> None:
    source, written = random.Random(seed), list[bytes]()
    plain = make(written)
    assert isinstance(plain.resume(), MachineExit)
    total = plain.vcpu.executed()
    end = total, plain.clock.now(), plain.ram.read(0, plain.ram.size), b"".join(written)
    plain.close()
    places = sorted(source.sample(range(1, total), min(PLACES, total - 1)))
    wanted = []
    for place in places:
        machine = make([])
        assert isinstance(machine.resume(instructions=place), CountDone)
        wanted.append(state_of(machine))
        assert wanted[-1][0] == place
        machine.close()
    for way in ways:
        written.clear()
        machine = make(written)
        before = 0
        for place, state in zip(places, wanted, strict=True):
            way(machine, place - before, source)
            assert state_of(machine) == state, f"{way.__name__} at {place} of {total}"
            before = place
        assert isinstance(way(machine, 1 << 40, source), MachineExit)
        assert (
            machine.vcpu.executed(), machine.clock.now(), machine.ram.read(0, machine.ram.size), b"".join(written)
        ) == end, way.__name__  # fmt: skip
        machine.close()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program(name: str, tmp_path: Path) -> None:
    check(program(name, tmp_path, MEMORY), 0)


@pytest.mark.long
def test_amid_repeated_instructions(tmp_path: Path) -> None:
    check(program("long_rep_clock", tmp_path, MEMORY), 0)


def test_amid_what_devices_answer() -> None:
    check(devices, 1)


def test_a_guest_that_debugs_itself() -> None:
    for number, case in enumerate(random.Random(2).sample(cases.CASES, 12)):
        check(debugging(case), number, (in_slices, one_by_one, unchained))


@pytest.mark.long
@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_every_guest_that_debugs_itself(case: cases.Case) -> None:
    check(debugging(case), 3, (in_slices, one_by_one, unchained))
