"""Times as far away as a guest can ask for: no wait of the host ever sees a number that it refuses, on either clock."""

import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trapgate.arch import layout
from trapgate.arch.msrs import TSC_DEADLINE
from trapgate.build import load_guest, make_machine
from trapgate.clock import FAR, InstructionClock
from trapgate.devices import lapic_registers as l
from trapgate.exits import Halted
from trapgate.machine import ClockKind, Machine, MachineConfig
from trapgate.stops import MachineExit, Paused
from unit.machine.rig import Rig

ALL_64 = (1 << 64) - 1
EXTREMES = st.one_of(
    st.sampled_from([0, 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, FAR - 1, FAR, (1 << 63) - 1, 1 << 63, ALL_64]),
    st.integers(0, ALL_64),
)
CASE = Path(__file__).parents[2] / "cases/tsc_deadline.S"
BUILD = "gcc -m64 -nostdlib -static -no-pie -Wl,-Ttext=0x100000,-e,start,--build-id=none -o"


def local_apic(machine: Machine, value: int, which: int) -> None:
    """One of the timer's registers, its mode (0-3) with the rest."""
    match which % 5:
        case 0:
            machine.lapic.write(place(l.LVT_TIMER), 4, value & 3 << 17 | 0x40)
        case 1:
            machine.lapic.write(place(l.TIMER_INITIAL), 4, value)
        case 2:
            machine.lapic.write(place(l.TIMER_DIVIDE), 4, value)
        case 3:
            machine.lapic.write_msr(TSC_DEADLINE, value)
        case _:
            machine.lapic.set_tsc_offset(value - (1 << 63))


def place(register: int) -> int:
    return register << 4


def ports(first: int, length: int) -> st.SearchStrategy[tuple[int, int, int]]:
    """(port, size, value) for a device that begins at a port."""
    return st.tuples(st.integers(first, first + length - 1), st.sampled_from([1, 2, 4]), EXTREMES)


WRITES = st.one_of(ports(0x40, 4), ports(0x61, 1), ports(layout.ACPI_PM_BASE, 4))
RTC = st.tuples(st.sampled_from([0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 0x32]), st.integers(0, 255))


@settings(max_examples=60)
@given(
    st.sampled_from(ClockKind),
    st.lists(st.tuples(EXTREMES, st.integers(0, 9)), max_size=8),
    st.lists(WRITES, max_size=6),
    st.lists(RTC, max_size=8),
    st.booleans(),
)
def test_no_timer_is_too_far(
    clock: ClockKind, apic: list[tuple[int, int]], writes: list[tuple[int, int, int]], rtc: list[tuple[int, int]], halts: bool
) -> None:
    one = Rig(clock=clock)
    machine = one.machine

    def program(vcpu: object) -> None:
        machine.lapic.write(place(l.SVR), 4, 0x1FF)
        for value, which in apic:
            local_apic(machine, value, which)
        for port, size, value in writes:
            machine.processors[0].port_write(port, size, value & (1 << 8 * size) - 1)
        for index, value in rtc:
            machine.processors[0].port_write(0x70, 1, index)
            machine.processors[0].port_write(0x71, 1, value)
            assert machine.processors[0].port_read(0x71, 1) < 256

    idle = halts or clock is ClockKind.INSTRUCTIONS  # the scripted vCPU would spin through its whole budget
    one.vcpu.script.extend([program, *([Halted()] * 4 if idle else [])])
    paused = threading.Timer(0.004, machine.pause)
    paused.start()
    try:
        assert isinstance(machine.resume(), Paused | MachineExit)  # the ACPI ports may power it off
        assert 0 <= machine.clock.now() < FAR
        deadline = machine.clock.next_deadline()
        assert deadline is None or deadline < FAR
    finally:
        paused.join()
        machine.close()


def test_a_timer_that_is_never_due_does_not_come() -> None:
    clock = InstructionClock(lambda: 0)
    for moment in (FAR, ALL_64, 1 << 100):
        clock.at(moment, lambda: pytest.fail("it came")).cancel()
        clock.at(moment, lambda: pytest.fail("it came"))
    assert clock.next_deadline() is None
    assert not clock.fresh
    clock.skip_to(FAR - 1)
    clock.run_due()


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.parametrize("spins", [False, True])
@pytest.mark.parametrize("clock", ClockKind)
def test_the_farthest_deadline_of_a_moved_tsc(tmp_path: Path, clock: ClockKind, spins: bool) -> None:
    image = str(tmp_path / "image")
    subprocess.run([*BUILD.split(), image, *(["-DSPINS"] if spins else []), str(CASE)], check=True, timeout=60)
    machine = make_machine(MachineConfig(memory=16 << 20, cpu="SapphireRapids", clock=clock), "soft")
    load_guest(machine, image)
    threading.Timer(0.4, machine.pause).start()
    assert isinstance(machine.resume(), Paused)
    assert machine.vcpu.read_msr(TSC_DEADLINE) == ALL_64
    assert machine.vcpu.read_msr(0x3B) == 0
    machine.close()
