"""What a processor is about, taken from one and given to another: there it goes on so."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from trapgate.arch.debugregs import DR6_BS
from trapgate.debug.buslock import Mode
from trapgate.encoding import decode, encode
from trapgate.exits import BusLock, DebugException, Halted, SoftwareBreakpoint
from trapgate.machine import ClockKind
from trapgate.processor import ProcessorState, ShareState
from trapgate.state import StateError
from trapgate.stops import SoftwareHit, StepDone
from trapgate.vcpu import Breakpoint, GuestDebug, Kind, Owner

from .rig import POWER_OFF, Make, Rig


def halted(one: Rig) -> None:
    one.vcpu.script.append(Halted())
    assert one.machine.resume(step=True) == StepDone()


def stopped(one: Rig) -> None:
    one.vcpu.script.append(SoftwareBreakpoint(0x1000))
    assert one.machine.resume() == SoftwareHit(0x1000)


def queued(one: Rig) -> None:
    one.vcpu.guest = GuestDebug(tf=True, gd=False, task_trap=False, bus_lock=False)
    one.vcpu.breakpoints = [Breakpoint(Owner.GUEST, 2, Kind.WRITE, 0x2000, 4)]
    one.vcpu.script.append(DebugException(DR6_BS, 1, icebp=False, fault=False))
    assert one.machine.resume(step=True) == StepDone()


def held(one: Rig) -> None:
    for _ in range(2):
        one.machine.processors[0]._bus_lock(BusLock(0x1000, 0x103F, 2, 3))


CASES = [
    (halted, "halted", True), (stopped, "stopped_on", 0x1000), (queued, "queued", ShareState(DR6_BS, 4, False)),
    (held, "held", 10**9),
]  # fmt: skip


@pytest.mark.parametrize(("bring", "field", "value"), CASES, ids=[case[1] for case in CASES])
def test_it_goes_on_so(rig: Make, bring: Callable[[Rig], None], field: str, value: object) -> None:
    def make() -> Rig:
        return rig(bus_locks=Mode.LIMIT, bus_lock_limit=1, stop_when_dead=False, clock=ClockKind.INSTRUCTIONS)

    one, other = make(), make()
    bring(one)
    saved = one.machine.processors[0].save()
    assert getattr(saved, field) == value
    other.machine.processors[0].load(decode(encode(saved), ProcessorState))
    assert other.machine.processors[0].save() == saved
    for rigged in (one, other):
        rigged.machine.processors[0].held = None
        rigged.vcpu.log.clear()
        rigged.vcpu.script.append(POWER_OFF)
        if field == "halted":
            rigged.machine.post(rigged.machine.pause)
        rigged.machine.resume()
    assert other.vcpu.log == one.vcpu.log
    assert len(other.vcpu.script) == len(one.vcpu.script) == (field == "halted")
    wrong: dict[str, Any] = {field: "1"}
    with pytest.raises(StateError, match=f"ProcessorState.{field}"):
        replace(saved, **wrong)
