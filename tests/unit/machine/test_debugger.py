"""The run loop under a debugger: stops, steps, whose #DB it is."""

import threading
import time

import pytest

from trapgate.arch import layout
from trapgate.arch.debugregs import DR6_BLD, DR6_BS
from trapgate.debug.buslock import Mode
from trapgate.exits import (
    BusLock,
    DebugException,
    Exit,
    Halted,
    MmioRead,
    MmioWrite,
    PortRead,
    PortWrite,
    SoftwareBreakpoint,
)
from trapgate.machine import ClockKind
from trapgate.stops import (
    BreakpointHit,
    BusLocked,
    ExitKind,
    MachineExit,
    Paused,
    SoftwareHit,
    StepDone,
)
from trapgate.vcpu import Breakpoint, GuestDebug, Kind, Owner

from .rig import POWER_OFF, Make, ScriptedVcpu, Step, lapic_timer


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

    def test_what_a_bus_lock_is_tallied_by_reaches_the_vcpu(self, rig: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        lock, asked, counts = BusLock(0x401000, 0x7FFC, 8, 3), list[tuple[int, object]](), list[int]()
        one = rig(lock, POWER_OFF, bus_locks=Mode.REPORT)
        monkeypatch.setattr(one.machine.vcpu, "tally", lambda rip, heard: asked.append((rip, heard)))
        hear = counts.append
        one.machine.bus_locks.heard = lambda lock, cpu: hear
        one.machine.resume()
        assert asked == [(0x401000, hear)]

    @pytest.mark.parametrize("clock", list(ClockKind))
    def test_bus_locks_beyond_the_limit_hold_the_guest_back(self, rig: Make, clock: ClockKind) -> None:
        """20 in a second: 41 of them take two, and timers go on meanwhile."""
        moments: list[int] = []
        script: list[Step] = [BusLock(0x401000, 0x7FFC, 8, 3)] * 41
        one = rig(*script, POWER_OFF, bus_locks=Mode.LIMIT, bus_lock_limit=20, clock=clock)
        for at in (300, 1300):
            one.machine.clock.at(at * 1_000_000, lambda: moments.append(one.machine.clock.now() // 1_000_000))
        assert one.machine.run().kind is ExitKind.POWER_OFF
        assert 2_000_000_000 <= one.machine.clock.now() < 4_000_000_000
        assert [moment // 1000 for moment in moments] == [0, 1]
        assert moments[0] < 900
        assert [line.partition("; ")[2] for line in one.lines] == ["", "20 more since the last line"]

    def test_a_guest_that_is_held_back_can_be_paused(self, rig: Make) -> None:
        script: list[Step] = [BusLock(0x401000, 0x7FFC, 8, 3)] * 2
        one = rig(*script, POWER_OFF, bus_locks=Mode.LIMIT, bus_lock_limit=1)
        threading.Timer(0.02, one.machine.pause).start()
        assert one.machine.resume() == Paused()
        assert one.machine.clock.now() < 900_000_000
        assert one.machine.resume() == MachineExit(ExitKind.POWER_OFF)
        assert one.machine.clock.now() >= 1_000_000_000
