"""The run loop: interrupts, HLT, timers."""

import os
import threading
import time

from trapgate.devices.uart import Uart
from trapgate.exits import (
    Exit,
    Halted,
    PortRead,
    PortWrite,
)
from trapgate.machine import ClockKind
from trapgate.stops import (
    ExitKind,
)

from .rig import IF, POWER_OFF, Make, ScriptedVcpu, lapic_timer


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
        threading.Timer(0.05, lambda: one.machine.post(lambda: one.machine.feed(b"k"))).start()
        one.machine.run()
        assert one.vcpu.log == ["interrupt 0x24"]
        assert one.vcpu.completed == [ord("k")]

    def test_nmi_wakes_even_with_interrupts_disabled(self, rig: Make) -> None:
        one = rig(Halted(), POWER_OFF, stop_when_dead=False)
        one.vcpu.registers["rflags"] = 0
        one.machine.post(lambda: one.machine.lapic.nmi_line(True))

        def pulse() -> None:
            one.machine.lapic.nmi_line(False)
            one.machine.lapic.nmi_line(True)

        threading.Timer(0.05, lambda: one.machine.post(pulse)).start()
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
            if not one.machine.board.part(Uart).read8(5) & 1:
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
