"""A power cycle: what a guest did to the machine is gone, whatever it was; what belongs to the run is there still."""

import os
import random
import time

from trapgate.answering import Accesses
from trapgate.arch import layout
from trapgate.debug.buslock import BusLockLog, Mode
from trapgate.devices.board import Board
from trapgate.devices.lapic import LocalApic
from trapgate.devices.uart import LSR, LSR_DATA, Uart
from trapgate.exits import BusLock, Halted, Shutdown
from trapgate.machine import ClockKind
from trapgate.stops import ExitKind, MachineExit, Paused, StepDone
from unit.devices.every_value import every_value

from .rig import Make, Rig, ScriptedVcpu, lapic_timer


def devices(rig: Rig) -> list[str]:
    machine = rig.machine
    timers = sorted(timer.deadline for timer in machine.clock._timers if not timer.cancelled)
    return [*every_value(machine.board, {}, "board"), f"now = {machine.clock.now()}", f"timers = {timers}"]


def scribble(rig: Rig, chance: random.Random) -> None:
    """Writes and reads all over the devices."""
    machine = rig.machine
    board, lapic = machine.board, machine.lapic
    accesses = Accesses(board, lapic, machine.added)
    ports = [port for port in (*range(0x20, 0x800), *range(0xCF8, 0xD00), *range(0x2000, 0x2018)) if board.ports.find(port)]
    for _ in range(4000):
        rig.vcpu.count += chance.randrange(1000)
        match chance.randrange(4):
            case 0 | 1:
                accesses.port_write(chance.choice(ports), 1, chance.randrange(256))
            case 2:
                accesses.port_read(chance.choice(ports), chance.choice([1, 2, 4]))
            case _:
                base = chance.choice([layout.LAPIC_BASE, layout.IOAPIC_BASE, layout.TEST_MEMORY_BASE])
                accesses.memory_write(base + 16 * chance.randrange(0x40), 4, chance.randrange(1 << 32))
        machine.clock.run_due()
    board.part(Uart).feed(b"typed")


def test_every_device_is_as_at_the_start(rig: Make) -> None:
    untouched, used = rig(clock=ClockKind.INSTRUCTIONS), rig(clock=ClockKind.INSTRUCTIONS)
    assert len(devices(untouched)) > 150
    scribble(used, random.Random(1))
    assert len(set(devices(used)) ^ set(devices(untouched))) > 40
    used.machine.power_cycle()
    assert devices(used) == devices(untouched)
    assert isinstance(used.machine.board, Board)
    assert isinstance(used.machine.lapic, LocalApic)


def test_ram_is_zero_and_guest_time_begins_anew(rig: Make) -> None:
    one = rig(*lapic_timer(1_000_000), Halted(), clock=ClockKind.INSTRUCTIONS)
    one.machine.ram.write(0x5000, b"here")
    one.machine.ram.write((1 << 20) - 4, b"last")
    one.machine.pause()
    assert isinstance(one.machine.resume(), Paused)
    one.machine.clock.at(5_000_000, one.machine.pause)
    assert isinstance(one.machine.resume(), Paused)
    assert one.machine.clock.now() >= 1_000_000
    one.machine.power_cycle()
    assert not any(one.machine.ram.read(0, 1 << 20))
    assert one.machine.clock.now() == 0
    assert one.machine.clock.next_deadline() is None


def test_an_end_a_stop_and_a_halt_are_forgotten(rig: Make) -> None:
    one = rig(Shutdown("a triple fault"))
    assert isinstance(one.machine.resume(), MachineExit)
    one.machine.power_cycle()
    vcpu = one.machine.vcpu
    assert isinstance(vcpu, ScriptedVcpu)
    assert vcpu is not one.vcpu
    vcpu.script.append(Halted())
    assert isinstance(one.machine.resume(step=True), StepDone)
    one.machine.power_cycle()
    vcpu = one.machine.vcpu
    assert isinstance(vcpu, ScriptedVcpu)
    vcpu.script.append(Shutdown("another"))
    end = one.machine.resume()
    assert isinstance(end, MachineExit)
    assert (end.kind, end.story) == (ExitKind.SHUTDOWN, "another")


def test_input_goes_to_the_new_port_and_kicks_the_new_cpu(rig: Make) -> None:
    one = rig()
    reader, writer = os.pipe()
    one.machine.attach_input(reader)
    one.machine.power_cycle()
    os.write(writer, b"x")
    one.machine.post(lambda: None)
    vcpu = one.machine.vcpu
    assert isinstance(vcpu, ScriptedVcpu)
    assert vcpu.kicked.wait(5)
    end = time.monotonic() + 10
    while not one.machine.board.part(Uart).read8(LSR) & LSR_DATA:
        assert time.monotonic() < end
        one.machine.pause()
        assert isinstance(one.machine.resume(), Paused)
    assert one.machine.board.part(Uart).read8(0) == ord("x")
    os.close(writer)
    os.close(reader)


def test_bus_locks_of_before_are_counted_and_hold_nobody() -> None:
    moment = 100_000_000_000
    log = BusLockLog(Mode.LIMIT, lambda: moment, limit=1)
    lock = BusLock(rip=0x1000, address=0x103F, size=4, cpl=3)
    assert log.record(lock).hold is None
    moment = 0
    log.restart()
    outcome = log.record(lock)
    assert outcome.hold is None
    assert outcome.line is not None
    assert log.total == 2
