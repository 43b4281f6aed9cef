"""What the soak calls a failure, how it measures memory, and that interventions leave the guest running and unarmed."""

import mmap
import os
import random

import pytest

from tools.guests.interventions import Debugger, InterventionError
from tools.soak import ROUND, SLACK, WRONG, Outcome, own_memory
from trapgate.gdb.client import Client, ClientError
from trapgate.gdb.target import BreakKind, Exited, Stop, Stopped

MIB = 1 << 20


def outcome(*memory: int, rounds: int = 1) -> Outcome:
    return Outcome(rounds, memory=[(float(at), used) for at, used in enumerate(memory)])


def test_growth_counts_from_half_time_on() -> None:
    assert not outcome(10 * MIB, 500 * MIB, 500 * MIB, 510 * MIB).failures()
    grown = outcome(10 * MIB, 500 * MIB, 500 * MIB, 550 * MIB + SLACK + MIB)
    assert grown.failures() == [f"memory grew from 500 MiB at half time to {551 + (SLACK >> 20)} MiB"]


def test_no_round_and_wrong_results_are_failures() -> None:
    stall = "[ 1.0] rcu: INFO: rcu_preempt self-detected stall"
    text = f"soak: begins\nsoak: round 1 done\nsoak: WRONG xz: 'a', not 'b'\n{stall}\nsoak: round 2\n"
    assert len(ROUND.findall(text)) == 1
    assert WRONG.findall(text) == ["soak: WRONG xz: 'a', not 'b'", stall]
    assert outcome(MIB, rounds=0).failures() == ["the guest finished no round: give it more time"]
    assert Outcome(1, ["soak: WRONG"], [(0.0, MIB)], "it ended").failures() == ["soak: WRONG", "it ended"]


def test_the_guests_own_memory_is_left_out() -> None:
    size = 64 * MIB
    with mmap.mmap(-1, size) as guest:
        for at in range(0, size, mmap.PAGESIZE):
            guest[at] = 1
        without, whole = own_memory(os.getpid(), size), own_memory(os.getpid(), 1 << 40)
        assert whole - without >= size
        assert without > MIB


class PretendClient(Client):
    """A guest that stops whenever it is asked to; `hits` says whether breakpoints are ever reached."""

    def __init__(self, hits: bool) -> None:
        self.hits, self.running, self.armed, self.asked, self.steps = hits, True, set[object](), False, 0
        self.ends = False

    def interrupt(self) -> None:
        assert self.running
        self.asked = True

    def wait(self, timeout: float | None = None) -> Stop:
        assert self.running
        if self.ends:
            return Exited(0)
        if not self.asked and not (self.hits and self.armed):
            raise ClientError("the stub did not answer in time")
        self.running = self.asked = False
        return Stopped(1, 2)

    def resume(self, action: str = "c") -> None:
        assert not self.running
        self.running = True

    def go(self, action: str = "c", timeout: float | None = None) -> Stop:
        assert action == "s"
        assert not self.running
        self.steps += 1
        return Stopped(1, 5)

    def registers(self) -> dict[str, int]:
        assert not self.running
        return {"rsp": 0x7FF8, "rip": 0x1000}

    def register(self, name: str) -> int:
        return 0

    def read_memory(self, address: int, length: int) -> bytes:
        return bytes(length)

    def insert(self, kind: BreakKind, address: int, length: int = 1) -> None:
        self.armed.add((kind, address, length))

    def remove(self, kind: BreakKind, address: int, length: int = 1) -> None:
        assert not self.running
        self.armed.remove((kind, address, length))


@pytest.mark.parametrize("hits", [True, False])
def test_after_every_intervention_the_guest_runs_and_nothing_is_armed(hits: bool) -> None:
    client = PretendClient(hits)
    debugger = Debugger(client, random.Random(3))
    for _ in range(60):
        debugger.intervene()
        assert client.running
        assert not client.armed
    assert set(debugger.counts) == {"look", "step", "break", "watch"}
    assert sum(debugger.counts.values()) == 60
    assert client.steps


def test_a_guest_that_ends_under_the_debugger_is_told() -> None:
    client = PretendClient(True)
    client.ends = True
    with pytest.raises(InterventionError, match="ended under the debugger"):
        Debugger(client, random.Random(1)).intervene()
