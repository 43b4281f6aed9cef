"""The run loop: how runs end, accesses of the vCPU, devices that fail."""

import threading

import pytest

from engine import TestEngine
from trapgate.arch import layout
from trapgate.bus import Device
from trapgate.devices.lapic_registers import APIC_BASE, VERSION
from trapgate.exits import (
    Exit,
    Halted,
    MmioRead,
    MmioWrite,
    PortRead,
    PortWrite,
    Shutdown,
)
from trapgate.machine import FIXED_WALL_START, ClockKind, Machine, MachineConfig
from trapgate.stops import (
    DeviceFault,
    ExitKind,
    MachineExit,
    Paused,
)

from .rig import POWER_OFF, Make, ScriptedVcpu, Step, lapic_timer


class TestEnds:
    """How a run ends."""

    @pytest.mark.parametrize(
        ("last", "kind", "status"),
        [
            (POWER_OFF, ExitKind.POWER_OFF, 0),
            (PortWrite(0xF4, 4, 0), ExitKind.EXIT_PORT, 1),
            (PortWrite(0x501, 1, 21), ExitKind.EXIT_PORT, 43),
            (PortWrite(0x64, 1, 0xFE), ExitKind.RESET, 0),
            (PortWrite(layout.RESET_PORT, 1, layout.RESET_VALUE), ExitKind.RESET, 0),
            (Shutdown("triple fault"), ExitKind.SHUTDOWN, 6),
        ],
    )
    def test_ends(self, rig: Make, last: Exit, kind: ExitKind, status: int) -> None:
        one = rig(last, PortWrite(0x3F8, 1, ord("x")))
        end = one.machine.run()
        assert (end.kind, end.status) == (kind, status)
        assert not one.serial  # nothing runs after the end
        assert one.machine.resume() == end

    def test_shutdown_tells_its_story(self, rig: Make) -> None:
        assert rig(Shutdown("#PF, #DF, gone")).machine.run().story == "#PF, #DF, gone"

    def test_halt_for_ever(self, rig: Make) -> None:
        one = rig(Halted())
        one.vcpu.registers["rflags"] = 0
        assert one.machine.run().kind is ExitKind.DEAD

    def test_halt_for_ever_may_be_waited_out(self, rig: Make) -> None:
        one = rig(Halted(), stop_when_dead=False)
        one.vcpu.registers["rflags"] = 0
        timer = threading.Timer(0.05, one.machine.pause)
        timer.start()
        assert one.machine.resume() == Paused()


class TestAccesses:
    """Ports and memory-mapped registers."""

    def test_output_and_input(self, rig: Make) -> None:
        one = rig(*[PortWrite(0x3F8, 1, byte) for byte in b"hello"], PortRead(0x3FD, 1), PortRead(0xE9, 1), POWER_OFF)
        one.machine.run()
        assert one.serial == b"hello"
        assert one.vcpu.completed == [0x60, 0xE9]

    @pytest.mark.parametrize(("size", "ones"), [(1, 0xFF), (2, 0xFFFF), (4, 0xFFFF_FFFF), (8, 2**64 - 1)])
    def test_nobody_there(self, rig: Make, size: int, ones: int) -> None:
        hole = MmioRead(0xD000_0000, size)
        one = rig(hole, MmioWrite(0xD000_0000, size, 1), PortWrite(0x1234, 1, 1), POWER_OFF)
        if size < 8:
            one.vcpu.script.appendleft(PortRead(0x1234, size))
        one.machine.run()
        assert set(one.vcpu.completed) == {ones}

    def test_the_apic_page_moves_and_vanishes(self, rig: Make) -> None:
        at = 16 * VERSION

        def move(base: int) -> Step:
            return lambda vcpu: vcpu.write_msr(APIC_BASE, base)

        old, new = MmioRead(layout.LAPIC_BASE + at, 4), MmioRead(0xD000_0000 + at, 4)
        one = rig(old, move(0xD000_0800), old, new, move(0xD000_0000), new, POWER_OFF)
        one.machine.run()
        assert one.vcpu.completed == [0x50010, 0xFFFF_FFFF, 0x50010, 0xFFFF_FFFF]  # AMD's

    def test_io_apic_is_there(self, rig: Make) -> None:
        one = rig(MmioWrite(layout.IOAPIC_BASE, 4, 1), MmioRead(layout.IOAPIC_BASE + 0x10, 4), POWER_OFF)
        one.machine.run()
        assert one.vcpu.completed == [0x0017_0020]

    def test_the_vcpu_is_made_from_the_configuration(self, rig: Make) -> None:
        one = rig(POWER_OFF, cpu="SapphireRapids", memory=2 << 20)
        assert (one.vcpu.model.name, one.vcpu.ram.size) == ("SapphireRapids", 2 << 20)
        assert one.vcpu.lapic is one.machine.lapic


class Broken:
    """A device with a bug."""

    def read(self, offset: int, size: int) -> int:
        raise IndexError("off by one")

    def write(self, offset: int, size: int, value: int) -> None:
        raise ZeroDivisionError("oops")


class TestFaults:
    """A device's code fails: the guest is kept."""

    @pytest.mark.parametrize(
        ("access", "words"),
        [
            (PortRead(0x700, 2), ("Broken", "port 0x700", "off by one")),
            (PortWrite(0x700, 2, 7), ("Broken", "port 0x700", "oops")),
            (MmioRead(0xD000_0000, 4), ("Broken", "address 0xd0000000", "off by one")),
            (MmioWrite(0xD000_0000, 4, 7), ("Broken", "address 0xd0000000", "oops")),
        ],
    )
    def test_named_and_resumable(self, rig: Make, access: Exit, words: tuple[str, ...]) -> None:
        one = rig(access, POWER_OFF)
        broken: Device = Broken()
        one.machine.board.ports.map(0x700, 4, broken)
        one.machine.board.mmio.map(0xD000_0000, 4, broken)
        stop = one.machine.resume()
        assert isinstance(stop, DeviceFault)
        assert all(word in stop.story for word in words)
        assert "\n" not in stop.story
        assert one.machine.resume() == MachineExit(ExitKind.POWER_OFF)
        assert one.vcpu.completed in ([], [0xFFFF], [0xFFFF_FFFF])

    def test_in_a_timer(self, rig: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        one = rig(*lapic_timer(1000), clock=ClockKind.INSTRUCTIONS)

        def fail(message: object) -> None:
            raise RuntimeError("broken wire")

        monkeypatch.setattr(one.machine.lapic, "accept", fail)
        end = one.machine.run()
        assert end.kind is ExitKind.FAULT
        assert "ApicTimer" in end.story
        assert "broken wire" in end.story

    def test_amid_a_run(self, rig: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(vector: int) -> None:
            raise RuntimeError("broken wire")

        def end(vcpu: ScriptedVcpu) -> None:
            vcpu.lapic.end()

        one = rig(end, POWER_OFF)
        monkeypatch.setattr(one.machine.lapic, "_isr", 1 << 0x40)
        monkeypatch.setattr(one.machine.lapic, "_tmr", 1 << 0x40)
        monkeypatch.setattr(one.machine.lapic.bus, "ioapic_eoi", fail)
        stop = one.machine.resume()
        assert isinstance(stop, DeviceFault)
        assert "LocalApic.end" in stop.story

    def test_a_failing_engine_is_no_device(self, rig: Make) -> None:
        def fail(vcpu: ScriptedVcpu) -> None:
            raise OSError("engine trouble")

        with pytest.raises(OSError, match="engine trouble"):
            rig(fail).machine.resume()

    def test_in_a_posted_call(self, rig: Make) -> None:
        one = rig(POWER_OFF)
        one.machine.post(lambda: [][1])
        stop = one.machine.resume()
        assert isinstance(stop, DeviceFault)
        assert isinstance(stop.error, IndexError)
        assert one.machine.run().kind is ExitKind.POWER_OFF


def test_wall_clock_of_repeatable_runs_is_fixed(rig: Make) -> None:
    script = [PortWrite(0x70, 1, 9), PortRead(0x71, 1), POWER_OFF]
    one = rig(*script, clock=ClockKind.INSTRUCTIONS)
    one.machine.run()
    assert one.vcpu.completed == [0x25]
    other = rig(*script, wall_start=FIXED_WALL_START - 2 * 366 * 86400 * 10**9)
    other.machine.run()
    assert other.vcpu.completed == [0x22]


def test_a_guest_begins_at_the_time_of_its_first_instruction(rig: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between making a machine and running it the CPU may be compiled, and a debugger be waited for."""
    moment = [FIXED_WALL_START]
    monkeypatch.setattr("trapgate.machine.time.time_ns", lambda: moment[0])
    index, year = PortWrite(0x70, 1, 9), PortRead(0x71, 1)
    one = rig(clock=ClockKind.HOST)
    one.vcpu.script.extend((index, year, lambda vcpu: one.machine.pause()))
    moment[0] -= 2 * 366 * 86400 * 10**9
    assert isinstance(one.machine.resume(), Paused)
    moment[0] -= 366 * 86400 * 10**9
    one.vcpu.script.extend((index, year, POWER_OFF))
    one.machine.run()
    assert one.vcpu.completed == [0x22, 0x22]


def test_an_unknown_cpu_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="unknown CPU 'EPYC-Turing'"):
        Machine(MachineConfig(memory=1 << 20, cpu="EPYC-Turing"), TestEngine(ScriptedVcpu))
