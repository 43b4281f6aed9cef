"""The run loop, driven by a vCPU that plays a script: exits, interrupts, HLT, debug stops, faults, ends."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import pytest

from trapgate.arch import layout
from trapgate.arch.debugregs import DR6_BLD, DR6_BS
from trapgate.bus import Device
from trapgate.clock import Clock
from trapgate.debug.buslock import Mode
from trapgate.devices.lapic import APIC_BASE, LVT_TIMER, SVR, TIMER_DIVIDE, TIMER_INITIAL, VERSION, LocalApic
from trapgate.exits import (
    BusLock,
    DebugException,
    Exit,
    Halted,
    Interrupted,
    MmioRead,
    MmioWrite,
    PortRead,
    PortWrite,
    Shutdown,
    SoftwareBreakpoint,
)
from trapgate.machine import FIXED_WALL_START, ClockKind, Machine, MachineConfig
from trapgate.memory import Ram
from trapgate.stops import (
    BreakpointHit,
    BusLocked,
    DeviceFault,
    ExitKind,
    MachineExit,
    Paused,
    SoftwareHit,
    StepDone,
)
from trapgate.vcpu import Breakpoint, GuestDebug, Kind, Owner

IF = 1 << 9
POWER_OFF = PortWrite(layout.PM1_CONTROL_PORT, 2, 0x2000)
Step = Exit | Callable[["ScriptedVcpu"], Exit | None]


class ScriptedVcpu:
    """Plays exits in order; an empty script is a guest that computes until kicked. Each step counts as 100 instructions."""

    def __init__(self, ram: Ram, *, model: str, tsc_hz: int, clock: Clock, lapic: LocalApic) -> None:
        self.ram, self.model, self.lapic = ram, model, lapic
        self.script: deque[Step] = deque()
        self.registers = {"rip": 0x1000, "rflags": IF}
        self.completed: list[int] = []
        self.log: list[str] = []
        self.kicked = threading.Event()
        self.wanted = False
        self.stepping = False
        self.count = 0
        self.limit: int | None = None
        self.breakpoints: list[Breakpoint] = []
        self.guest = GuestDebug(tf=False, gd=False, task_trap=False, bus_lock=False)

    def run(self) -> Exit:
        if self.kicked.is_set():
            self.kicked.clear()
            return Interrupted()
        if self.wanted and self.can_interrupt():
            return Interrupted()
        if not self.script:
            if self.limit is not None:
                self.count = self.limit
            else:
                assert self.kicked.wait(10), "the machine forgot its guest"
                self.kicked.clear()
            return Interrupted()
        self.count += 100
        step = self.script.popleft()
        if callable(step):
            return step(self) or Interrupted()
        return step

    def kick(self) -> None:
        self.kicked.set()

    def complete(self, value: int) -> None:
        self.completed.append(value)

    def can_interrupt(self) -> bool:
        return bool(self.registers["rflags"] & IF)

    def interrupt(self, vector: int) -> None:
        assert self.can_interrupt()
        self.log.append(f"interrupt {vector:#x}")

    def want_interrupt(self, waiting: bool) -> None:
        self.wanted = waiting

    def nmi(self) -> None:
        self.log.append("nmi")

    def get(self, register: str) -> int:
        return self.registers[register]

    def set(self, register: str, value: int) -> None:
        self.registers[register] = value

    def read_msr(self, index: int) -> int:
        return self.lapic.read_msr(index)

    def write_msr(self, index: int, value: int) -> None:
        self.lapic.write_msr(index, value)

    def read_virtual(self, address: int, length: int) -> bytes:
        return self.ram.read(address, length)

    def write_virtual(self, address: int, data: bytes) -> bool:
        self.ram.write(address, data)
        return True

    def translate(self, address: int) -> int | None:
        return address

    def arm(self, breakpoints: Sequence[Breakpoint], software: Sequence[int]) -> None:
        self.breakpoints = list(breakpoints)

    def armed(self) -> Sequence[Breakpoint]:
        return self.breakpoints

    def step(self, on: bool) -> None:
        self.stepping = on

    def resume_over(self) -> None:
        self.log.append("resume over")

    def guest_debug(self) -> GuestDebug:
        return self.guest

    def deliver_debug(self, causes: int, hits: int, icebp: bool) -> None:
        self.log.append(f"#DB causes={causes:#x} hits={hits:#x} icebp={icebp}")

    def executed(self) -> int:
        return self.count

    def budget(self, instructions: int) -> None:
        self.limit = self.count + instructions


class Rig:
    """A machine with its scripted vCPU."""

    def __init__(self, *script: Step, **config: object) -> None:
        self.serial, self.lines = bytearray(), list[str]()
        settings: dict[str, object] = {"memory": 1 << 20, "serial": self.serial.extend, "report": self.lines.append} | config
        self.machine = Machine(MachineConfig(**settings), ScriptedVcpu)  # type: ignore[arg-type]
        vcpu = self.machine.vcpu
        assert isinstance(vcpu, ScriptedVcpu)
        self.vcpu = vcpu
        self.vcpu.script.extend(script)


Make = Callable[..., Rig]


@pytest.fixture
def rig() -> Iterator[Make]:
    rigs: list[Rig] = []

    def make(*script: Step, **config: object) -> Rig:
        rigs.append(Rig(*script, **config))
        return rigs[-1]

    yield make
    for one in rigs:
        one.machine.close()


def lapic_timer(count: int, mode: int = 0) -> list[Step]:
    """Program the local APIC timer with vector 40h, to expire after `count` ns (cut to its 40 ns)."""
    base = layout.LAPIC_BASE
    values = ((SVR, 0x1FF), (TIMER_DIVIDE, 0b1011), (LVT_TIMER, mode | 0x40), (TIMER_INITIAL, count // 40))
    return [MmioWrite(base + 16 * index, 4, value) for index, value in values]


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
            (Shutdown("triple fault"), ExitKind.SHUTDOWN, 1),
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
        assert one.vcpu.completed == [0x50014, 0xFFFF_FFFF, 0x50014, 0xFFFF_FFFF]

    def test_io_apic_is_there(self, rig: Make) -> None:
        one = rig(MmioWrite(layout.IOAPIC_BASE, 4, 1), MmioRead(layout.IOAPIC_BASE + 0x10, 4), POWER_OFF)
        one.machine.run()
        assert one.vcpu.completed == [0x0017_0020]

    def test_the_vcpu_is_made_from_the_configuration(self, rig: Make) -> None:
        one = rig(POWER_OFF, cpu="SapphireRapids", memory=2 << 20)
        assert (one.vcpu.model, one.vcpu.ram.size) == ("SapphireRapids", 2 << 20)
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


class TestInterrupts:
    """From lines to the vCPU."""

    def test_timer_wakes_a_halted_guest_on_the_host_clock(self, rig: Make) -> None:
        one = rig(*lapic_timer(20_000_000), Halted(), POWER_OFF)
        start = time.monotonic()
        assert one.machine.run().kind is ExitKind.POWER_OFF
        assert one.vcpu.log == ["interrupt 0x40"]
        assert 0.02 <= time.monotonic() - start < 5

    def test_halting_burns_no_cpu(self, rig: Make) -> None:
        one = rig(*lapic_timer(200_000_000), Halted(), POWER_OFF)
        start = time.thread_time()
        one.machine.run()
        assert time.thread_time() - start < 0.1

    def test_timer_interrupts_a_busy_guest_on_the_host_clock(self, rig: Make) -> None:
        one = rig(*lapic_timer(20_000_000))
        one.machine.vcpu.interrupt = lambda vector: one.vcpu.script.append(POWER_OFF)  # type: ignore[method-assign]
        assert one.machine.run().kind is ExitKind.POWER_OFF

    def test_instruction_clock_skips_the_sleep_and_repeats_exactly(self, rig: Make) -> None:
        times = set[int]()
        for _ in range(2):
            one = rig(*lapic_timer(3_600_000_000), Halted(), POWER_OFF, clock=ClockKind.INSTRUCTIONS)
            start = time.monotonic()
            one.machine.run()
            assert time.monotonic() - start < 2
            assert one.vcpu.log == ["interrupt 0x40"]
            times.add(one.machine.clock.now())
        assert times == {3_600_000_000 + 500}  # four stores and the power-off, 100 each; the count starts with the fourth

    def test_instruction_budget_ends_at_the_deadline(self, rig: Make) -> None:
        one = rig(*lapic_timer(5_000), clock=ClockKind.INSTRUCTIONS)
        moments: list[int] = []

        def taken(vector: int) -> None:
            moments.append(one.vcpu.count)
            one.vcpu.script.append(POWER_OFF)

        one.vcpu.interrupt = taken  # type: ignore[method-assign]
        one.machine.run()
        assert moments == [5_400]

    def test_waits_for_the_interrupt_flag(self, rig: Make) -> None:
        def enable(vcpu: ScriptedVcpu) -> None:
            assert vcpu.wanted
            assert not vcpu.log
            vcpu.registers["rflags"] = IF

        one = rig(lambda vcpu: vcpu.registers.update(rflags=0), *lapic_timer(100), PortRead(0x80, 1), enable, PortRead(0x80, 1),
                  POWER_OFF, clock=ClockKind.INSTRUCTIONS)  # fmt: skip
        one.machine.run()
        assert one.vcpu.log == ["interrupt 0x40"]

    def test_a_lowered_task_priority_is_heard_within_a_run(self, rig: Make) -> None:
        def lower(vcpu: ScriptedVcpu) -> None:
            assert not vcpu.wanted
            vcpu.lapic.cr8 = 0
            assert vcpu.wanted

        one = rig(lambda vcpu: setattr(vcpu.lapic, "cr8", 15), *lapic_timer(100), PortRead(0x80, 1), lower, POWER_OFF,
                  clock=ClockKind.INSTRUCTIONS)  # fmt: skip
        one.machine.run()
        assert one.vcpu.log == ["interrupt 0x40"]

    def test_serial_interrupt_through_the_8259(self, rig: Make) -> None:
        init = [PortWrite(port, 1, value) for port, value in ((0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xEF))]
        one = rig(*init, PortWrite(0x3F9, 1, 1), Halted(), PortRead(0x3F8, 1), POWER_OFF)
        threading.Timer(0.05, lambda: one.machine.post(lambda: one.machine.board.uart.feed(b"k"))).start()
        one.machine.run()
        assert one.vcpu.log == ["interrupt 0x24"]
        assert one.vcpu.completed == [ord("k")]

    def test_nmi_wakes_even_with_interrupts_disabled(self, rig: Make) -> None:
        one = rig(Halted(), POWER_OFF, stop_when_dead=False)
        one.vcpu.registers["rflags"] = 0
        one.machine.post(lambda: one.machine.lapic.nmi_line(True))
        threading.Timer(
            0.05, lambda: one.machine.post(lambda: (one.machine.lapic.nmi_line(False), one.machine.lapic.nmi_line(True)))
        ).start()
        assert one.machine.run().kind is ExitKind.POWER_OFF
        assert one.vcpu.log == ["nmi", "nmi"]

    def test_input_from_a_descriptor(self, rig: Make) -> None:
        reader, writer = os.pipe()
        one = rig(Halted(), stop_when_dead=False)
        got: list[int] = []

        def receive(vcpu: ScriptedVcpu) -> Exit | None:
            got.extend(vcpu.completed)
            vcpu.completed.clear()
            if bytes(got[1::2]).endswith(b"!"):
                return POWER_OFF
            if not one.machine.board.uart.read8(5) & 1:
                vcpu.script.append(receive)
                time.sleep(0.001)
                return None
            vcpu.script.extend([PortRead(0x3FD, 1), PortRead(0x3F8, 1), receive])
            return None

        one.vcpu.script.clear()
        one.vcpu.script.append(receive)
        one.machine.attach_input(reader)
        os.write(writer, b"typed early, and nothing is lost!")
        os.close(writer)
        assert one.machine.run().kind is ExitKind.POWER_OFF
        assert bytes(got[1::2]) == b"typed early, and nothing is lost!"
        one.machine.close()
        os.close(reader)


class TestDebugger:
    """Stops, and who gets which #DB."""

    MINE = Breakpoint(Owner.DEBUGGER, 5, Kind.EXEC, 0x1000, 1)
    GUESTS = Breakpoint(Owner.GUEST, 2, Kind.WRITE, 0x2000, 4)

    def test_step(self, rig: Make) -> None:
        one = rig(PortRead(0xE9, 1), DebugException(DR6_BS, 0, icebp=False, fault=False), POWER_OFF)
        assert one.machine.resume(step=True) == StepDone()
        assert one.vcpu.completed == [0xE9]  # an access amid the step is finished first
        assert one.vcpu.stepping
        assert one.machine.resume() == MachineExit(ExitKind.POWER_OFF)
        assert not one.vcpu.stepping
        assert not one.vcpu.log

    def test_no_interrupt_is_taken_before_the_step(self, rig: Make) -> None:
        step = DebugException(DR6_BS, 0, icebp=False, fault=False)
        one = rig(*lapic_timer(100), PortRead(0x80, 1), step, POWER_OFF, clock=ClockKind.INSTRUCTIONS)
        assert one.machine.resume(step=True) == StepDone()
        assert not one.vcpu.log
        assert not one.vcpu.wanted
        one.machine.resume()
        assert one.vcpu.log == ["interrupt 0x40"]

    def test_step_onto_halt_then_wakes_with_the_interrupt(self, rig: Make) -> None:
        step = DebugException(DR6_BS, 0, icebp=False, fault=False)
        one = rig(*lapic_timer(5000), Halted(), step, clock=ClockKind.INSTRUCTIONS)
        assert one.machine.resume(step=True) == StepDone()
        assert not one.vcpu.log
        assert one.machine.resume(step=True) == StepDone()
        assert one.vcpu.log == ["interrupt 0x40"]

    def test_execution_breakpoint_is_stepped_over_once(self, rig: Make) -> None:
        one = rig(DebugException(0, 1, icebp=False, fault=True), POWER_OFF)
        one.vcpu.arm([self.MINE], [])
        assert one.machine.resume() == BreakpointHit((self.MINE,), fault=True)
        one.machine.resume()
        assert one.vcpu.log == ["resume over"]

    def test_a_moved_rip_meets_its_breakpoint(self, rig: Make) -> None:
        one = rig(SoftwareBreakpoint(0x1000), POWER_OFF)
        assert one.machine.resume() == SoftwareHit(0x1000)
        one.vcpu.set("rip", 0x3000)
        one.machine.resume()
        assert not one.vcpu.log

    def test_the_guests_own_goes_to_the_guest(self, rig: Make) -> None:
        one = rig(
            DebugException(DR6_BLD | DR6_BS, 1, icebp=False, fault=False), DebugException(0, 0, icebp=True, fault=False), POWER_OFF
        )
        one.vcpu.arm([self.GUESTS], [])
        one.vcpu.guest = GuestDebug(tf=True, gd=False, task_trap=False, bus_lock=True)
        assert one.machine.run().kind is ExitKind.POWER_OFF
        assert one.vcpu.log == [
            f"#DB causes={DR6_BLD | DR6_BS:#x} hits=0x4 icebp=False",
            "#DB causes=0x0 hits=0x0 icebp=True",
        ]

    def test_mixed_causes_are_split(self, rig: Make) -> None:
        watch = Breakpoint(Owner.DEBUGGER, 0, Kind.WRITE, 0x2000, 8)
        one = rig(DebugException(DR6_BLD | DR6_BS, 0b11, icebp=False, fault=False))
        one.vcpu.arm([self.GUESTS, watch], [])
        one.vcpu.guest = GuestDebug(tf=False, gd=False, task_trap=False, bus_lock=True)
        assert one.machine.resume(step=True) == BreakpointHit((watch,), fault=False)
        assert one.vcpu.log == []  # the debugger sees the guest before its own #DB is delivered
        assert one.machine.resume(step=True) == StepDone()
        assert one.vcpu.log == [f"#DB causes={DR6_BLD:#x} hits=0x4 icebp=False"]

    def test_nobodys_fault_does_not_come_again_for_ever(self, rig: Make) -> None:
        one = rig(DebugException(0, 1 << 7, icebp=False, fault=True), POWER_OFF)
        assert one.machine.run().kind is ExitKind.POWER_OFF
        assert one.vcpu.log == ["resume over"]

    def test_pause_from_another_thread(self, rig: Make) -> None:
        one = rig()
        threading.Timer(0.05, one.machine.pause).start()
        assert one.machine.resume() == Paused()
        one.machine.pause()  # while nothing runs: the next resume stops at once
        assert one.machine.resume() == Paused()
        one.vcpu.script.append(POWER_OFF)
        assert one.machine.run().kind is ExitKind.POWER_OFF

    @pytest.mark.parametrize("clock", list(ClockKind))
    @pytest.mark.parametrize(
        "access", [PortWrite(0x3F8, 1, 0), PortRead(0x1234, 4), MmioRead(layout.LAPIC_BASE, 4), MmioWrite(0, 8, 0)]
    )
    def test_a_storm_of_accesses_can_be_paused(self, rig: Make, clock: ClockKind, access: Exit) -> None:
        def again(vcpu: ScriptedVcpu) -> Exit:
            vcpu.script.append(again)
            vcpu.completed.clear()
            return access

        one = rig(again, clock=clock, serial=lambda data: None)
        threading.Timer(0.02, one.machine.pause).start()
        assert one.machine.resume() == Paused()

    def test_guest_time_stands_still_while_stopped(self, rig: Make) -> None:
        one = rig()
        one.machine.pause()
        one.machine.resume()
        before = one.machine.clock.now()
        time.sleep(0.02)
        assert one.machine.clock.now() == before

    @pytest.mark.parametrize(("mode", "stops", "lines"), [(Mode.OFF, False, 0), (Mode.REPORT, False, 1), (Mode.STOP, True, 1)])
    def test_bus_locks(self, rig: Make, mode: Mode, stops: bool, lines: int) -> None:
        lock = BusLock(0x401000, 0x7FFC, 8, 3)
        one = rig(lock, POWER_OFF, bus_locks=mode)
        stop = one.machine.resume()
        assert isinstance(stop, BusLocked) is stops
        assert len(one.lines) == lines
        assert all("0x401000" in line for line in one.lines)


def test_wall_clock_of_repeatable_runs_is_fixed(rig: Make) -> None:
    script = [PortWrite(0x70, 1, 9), PortRead(0x71, 1), POWER_OFF]
    one = rig(*script, clock=ClockKind.INSTRUCTIONS)
    one.machine.run()
    assert one.vcpu.completed == [0x25]
    other = rig(*script, wall_start=FIXED_WALL_START - 2 * 366 * 86400 * 10**9)
    other.machine.run()
    assert other.vcpu.completed == [0x22]


def test_an_engine_that_cannot_count_is_refused() -> None:
    class Plain:
        """No executed(), no budget()."""

        kick = ScriptedVcpu.kick

    with pytest.raises(ValueError, match="does not count"):
        Machine(MachineConfig(memory=1 << 20, clock=ClockKind.INSTRUCTIONS), lambda ram, **rest: Plain())  # type: ignore[arg-type, return-value]


def test_an_unknown_cpu_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="unknown CPU 'EPYC-Turing'"):
        Machine(MachineConfig(memory=1 << 20, cpu="EPYC-Turing"), ScriptedVcpu)
