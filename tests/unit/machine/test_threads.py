"""What other threads may ask of a machine: to wait for who reads the guest's output, and to end because one of them failed."""

import threading
import time

import pytest

from trapgate.clock import HostClock
from trapgate.stops import ExitKind, MachineExit, Paused
from unit.machine.rig import POWER_OFF, Make, ScriptedVcpu


def test_while_output_waits_the_guest_and_its_time_stand_still(rig: Make) -> None:
    one = rig()
    machine, ran = one.machine, list[int]()

    def step(vcpu: ScriptedVcpu) -> None:
        ran.append(machine.clock.now())
        machine.hold("serial", True)
        machine.hold("other", True)

    one.vcpu.script.extend([step, step, POWER_OFF])
    threading.Timer(0.05, machine.pause).start()
    assert isinstance(machine.resume(), Paused)  # the debugger is heard
    assert len(ran) == 1
    machine.hold("other", False)
    threading.Timer(0.3, machine.hold, ["serial", False]).start()
    before = time.monotonic()
    threading.Timer(0.6, machine.hold, ["serial", False]).start()
    threading.Timer(0.6, machine.hold, ["other", False]).start()
    assert machine.resume() == MachineExit(ExitKind.POWER_OFF)
    assert time.monotonic() - before >= 0.55
    assert len(ran) == 2
    assert isinstance(machine.clock, HostClock)
    assert machine.clock.now() < 0.3e9


def test_a_step_is_made_all_the_same(rig: Make) -> None:
    ran: list[bool] = []
    one = rig(lambda vcpu: ran.append(vcpu.stepping))
    one.machine.hold("serial", True)
    threading.Timer(0.1, one.machine.pause).start()
    assert isinstance(one.machine.resume(step=True), Paused)
    assert ran == [True]


@pytest.mark.parametrize("running", [True, False])
def test_a_thread_that_fails_ends_the_run(rig: Make, running: bool) -> None:
    machine, told = rig().machine, list[bool]()
    machine.on_failure = lambda: told.append(True)
    error = OSError(24, "Too many open files")
    if running:
        threading.Timer(0.05, machine.fail, [error]).start()
    else:
        machine.fail(error)
    with pytest.raises(OSError, match="Too many") as raised:
        machine.resume()
    assert raised.value is error
    assert told == [True]
    with pytest.raises(OSError, match="Too many"):
        machine.check()


def test_the_deadline_thread_fails(rig: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one = rig()

    def broken() -> None:
        raise MemoryError

    monkeypatch.setattr(one.machine._deadlines, "_fire", broken)
    one.machine.clock.at(10_000_000, lambda: None)
    with pytest.raises(MemoryError):
        one.machine.resume()
