"""Devices that answer amid a run of the vCPU: when an answer is more than a value, the vCPU is kicked."""

import pytest

from trapgate.arch import layout
from trapgate.exits import Exit
from trapgate.machine import ClockKind
from trapgate.stops import DeviceFault, ExitKind, MachineExit

from .rig import POWER_OFF, Make, ScriptedVcpu, lapic_timer


class Broken:
    def read(self, offset: int, size: int) -> int:
        raise RuntimeError("out of order")

    def write(self, offset: int, size: int, value: int) -> None:
        raise RuntimeError("out of order")


def test_plain_answers_kick_nobody(rig: Make) -> None:
    one = rig()
    machine = one.machine
    machine.clock.fresh = False
    machine.processors[0].port_write(layout.TEST_SCRATCH_PORT, 4, 0x12345678)
    assert machine.processors[0].port_read(layout.TEST_SCRATCH_PORT, 2) == 0x5678
    machine.processors[0].memory_write(layout.TEST_MEMORY_BASE, 1, 0x5A)
    assert machine.processors[0].memory_read(layout.TEST_MEMORY_BASE, 1) == 0x5A
    assert machine.processors[0].memory_read(layout.LAPIC_BASE + 0x30, 4) & 0xFF  # the version of the local APIC
    assert (machine.processors[0].port_read(0x999, 2), machine.processors[0].memory_read(0xE000_0000, 8)) == (0xFFFF, (1 << 64) - 1)
    assert not one.vcpu.kicked.is_set()


def test_a_timer_that_is_set_amid_a_run_is_kept(rig: Make) -> None:
    def guest(vcpu: ScriptedVcpu) -> Exit | None:
        for step in lapic_timer(4000):
            one.machine.processors[0].memory_write(step.address, step.size, step.value)  # type: ignore[union-attr, arg-type]
        assert vcpu.kicked.is_set()
        return None

    one = rig(guest, POWER_OFF, clock=ClockKind.INSTRUCTIONS)
    one.machine.run()
    assert one.vcpu.limit is not None
    assert one.vcpu.limit <= 100 + 4000  # the budget was granted anew, up to the timer


@pytest.mark.parametrize("access", ["port_read", "port_write", "memory_read", "memory_write"])
def test_a_device_that_breaks_stops_the_run(rig: Make, access: str) -> None:
    value = (0,) if access.endswith("write") else ()

    def guest(vcpu: ScriptedVcpu) -> Exit | None:
        getattr(one.machine.processors[0], access)(0x700 if access.startswith("port") else 0xD000_0000, 2, *value)
        assert vcpu.kicked.is_set()
        return None

    one = rig(guest, POWER_OFF)
    one.machine.board.ports.map(0x700, 4, Broken())
    one.machine.board.mmio.map(0xD000_0000, 4, Broken())
    stop = one.machine.resume()
    assert isinstance(stop, DeviceFault)
    assert "Broken" in stop.story
    assert "out of order" in stop.story


def test_the_exit_port_ends_the_run(rig: Make) -> None:
    def guest(vcpu: ScriptedVcpu) -> Exit | None:
        one.machine.processors[0].port_write(layout.EXIT_PORT, 1, 3)
        assert vcpu.kicked.is_set()
        return None

    one = rig(guest)
    assert one.machine.resume() == MachineExit(ExitKind.EXIT_PORT, 7)
