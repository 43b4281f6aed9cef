"""ACPI fixed hardware: timer and overflow event, power button, power-off."""

from collections.abc import Callable

import pytest

from trapgate.arch.layout import PM_TIMER_HZ
from trapgate.clock import InstructionClock
from trapgate.devices.pmtimer import CONTROL, ENABLE, STATUS, TIMER, AcpiPm

Advance = Callable[[int], None]


class Bench:
    """The block with its line and power switch."""

    def __init__(self, clock: InstructionClock, bits: int = 32) -> None:
        self.level, self.offs = False, 0
        self.pm = AcpiPm(clock, self.off, self.drive, bits)

    def drive(self, level: bool) -> None:
        self.level = level

    def off(self) -> None:
        self.offs += 1


def test_timer_counts_at_its_frequency(clock: InstructionClock, advance: Advance) -> None:
    bench = Bench(clock)
    advance(1_000_000_000)
    assert bench.pm.read(TIMER, 4) == PM_TIMER_HZ
    assert bench.pm.read(TIMER + 1, 2) == PM_TIMER_HZ >> 8 & 0xFFFF


@pytest.mark.parametrize("bits", [24, 32])
def test_overflow_event(clock: InstructionClock, advance: Advance, bits: int) -> None:
    bench = Bench(clock, bits)
    bench.pm.write(ENABLE, 2, 1)
    half = -(-(1 << bits - 1) * 1_000_000_000 // PM_TIMER_HZ)
    advance(half - 1)
    assert not bench.level
    advance(1)
    assert bench.level
    assert bench.pm.read(STATUS, 2) == 1
    bench.pm.write(STATUS, 2, 1)
    assert not bench.level
    advance(half)
    assert bench.level
    assert bench.pm.read(TIMER, 4) <= 1


def test_other_widths_are_refused(clock: InstructionClock) -> None:
    with pytest.raises(ValueError, match="24 or 32"):
        Bench(clock, 16)


def test_power_button(clock: InstructionClock) -> None:
    bench = Bench(clock)
    bench.pm.press_power_button()
    assert not bench.level
    assert bench.pm.read(STATUS, 4) == 0x0100
    bench.pm.write(STATUS, 4, 0x0100_0000)  # enable alone: zeros leave the status
    assert bench.level
    bench.pm.write(STATUS + 1, 1, 0x01)
    assert not bench.level
    assert bench.pm.read(STATUS, 4) == 0x0100_0000


def test_acpi_mode_is_always_on_and_sleep_enable_reads_zero(clock: InstructionClock) -> None:
    bench = Bench(clock)
    bench.pm.write(CONTROL, 2, 0x2000 | 5 << 10)
    assert bench.pm.read(CONTROL, 2) == 5 << 10 | 1
    assert bench.offs == 0  # type 5 is no sleep state of this machine
    bench.pm.write(CONTROL, 2, 0x2000)
    assert bench.offs == 1


def test_high_byte_alone_powers_off(clock: InstructionClock) -> None:
    bench = Bench(clock)
    bench.pm.write(CONTROL + 1, 1, 0x20)
    assert bench.offs == 1
