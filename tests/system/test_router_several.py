"""Whose #DB it is, with several CPUs: each guest CPU counts its own #DBs (`cases/smp.c`) while a debugger watches, stops and steps.

The guest finds each #DB that it has armed, and no other, whatever the debugger does to this CPU or to another.
"""

import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import cache

import pytest

from cases import kit
from system.test_several_cpus import PASSED, Several, guest
from trapgate.stops import BreakpointHit, CountDone, MachineExit, SoftwareHit, StepDone
from trapgate.vcpu import Breakpoint, Kind, Owner

pytestmark = pytest.mark.skipif(bool(kit.LACKING), reason=kit.LACKING)
CPUS, ROUNDS = 3, 30


@cache
def image() -> str:
    return guest("debug", CPUS, f"-DROUNDS={ROUNDS}")


@cache
def symbols() -> dict[str, int]:
    listed = subprocess.run(["nm", image()], capture_output=True, text=True, check=True).stdout
    return {name: int(address, 16) for address, _, name in (line.split() for line in listed.splitlines())}


def watch(slot: int, address: int, kind: Kind = Kind.WRITE) -> Breakpoint:
    return Breakpoint(Owner.DEBUGGER, slot, kind, address, 1 if kind is Kind.EXEC else 4)


@pytest.fixture
def several() -> Iterator[Several]:
    made = Several(image(), CPUS)
    yield made
    made.machine.close()


def test_without_a_debugger() -> None:
    assert Several(image(), CPUS).end()[0] == PASSED


def test_a_watchpoint_of_each_cpus_variable(several: Several) -> None:
    machine, own = several.machine, symbols()["own"]
    machine.arm([watch(cpu, own + 4 * cpu) for cpu in range(CPUS)], [])
    hits: Counter[tuple[int, int]] = Counter()
    while isinstance(stop := machine.resume(), BreakpointHit):
        (hit,) = stop.hits
        hits[machine.turns.running.number, hit.slot] += 1
    assert stop == PASSED, several.said.decode()
    writers = [(cpu, slot) for cpu in range(CPUS) for slot in (cpu, (cpu + 1) % CPUS)]
    assert hits == dict.fromkeys(writers, ROUNDS)


@pytest.mark.parametrize("seed", range(4))
def test_steps_of_one_leave_the_others_whole(several: Several, seed: int) -> None:
    machine, own, chance = several.machine, symbols()["own"], random.Random(seed)
    machine.arm([watch(0, own + 4), watch(1, symbols()["pause_here"], Kind.EXEC)], [])
    hits, steps = Counter[int](), 0
    stop = machine.resume()
    while not isinstance(stop, MachineExit):
        assert isinstance(stop, BreakpointHit | SoftwareHit | StepDone | CountDone), stop
        if isinstance(stop, BreakpointHit):
            hits.update(hit.slot for hit in stop.hits)
        if chance.random() < 0.5:
            which = chance.randrange(CPUS)
            before = [one.vcpu.get("rip") for one in machine.processors]
            stop = machine.resume(step=True, only=[which])
            after = [one.vcpu.get("rip") for one in machine.processors]
            assert [cpu for cpu in range(CPUS) if before[cpu] != after[cpu]] in ([], [which])
            steps += 1
        else:
            stop = machine.resume(instructions=chance.randrange(1, 200))
    assert stop == PASSED, several.said.decode()
    assert hits == {0: 2 * ROUNDS, 1: CPUS * ROUNDS}
    assert steps > 100


def test_a_queued_db_waits_for_its_own_cpu(several: Several) -> None:
    """The debugger's watchpoint and the guest's hit at one store: the guest's #DB comes when its CPU goes on, not another's."""
    machine = several.machine
    machine.arm([watch(0, symbols()["own"] + 4)], [])
    assert isinstance(machine.resume(), BreakpointHit)
    while machine.turns.running.number != 1:
        assert isinstance(machine.resume(), BreakpointHit)
    one = machine.processors[1]
    queued = one.save().queued
    assert queued is not None
    assert queued.hits == 1
    rip = one.vcpu.get("rip")
    for _ in range(200):
        machine.resume(step=True, only=[0])
        assert (one.save().queued, one.vcpu.get("rip")) == (queued, rip)
    machine.arm([], [])
    assert machine.resume() == PASSED, several.said.decode()
