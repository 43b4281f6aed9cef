"""The real-time clock: time in every format, setting it, flags and interrupts, CMOS."""

import calendar
from collections.abc import Callable

import pytest

from trapgate.clock import InstructionClock
from trapgate.devices.rtc import UIP_NS, Rtc

Advance = Callable[[int], None]
SECOND = 1_000_000_000
START = calendar.timegm((2024, 2, 29, 23, 59, 58)) * SECOND  # a Thursday
FIELDS = (0x32, 9, 8, 7, 4, 2, 0)


class Bench:
    """Access by index."""

    def __init__(self, clock: InstructionClock) -> None:
        self.level = False
        self.rtc = Rtc(clock, START, self.drive)

    def drive(self, level: bool) -> None:
        self.level = level

    def __getitem__(self, index: int) -> int:
        self.rtc.write8(0, index)
        return self.rtc.read8(1)

    def __setitem__(self, index: int, value: int) -> None:
        self.rtc.write(0, 2, value << 8 | index)

    def time(self) -> tuple[int, ...]:
        return tuple(self[index] for index in FIELDS)


@pytest.fixture
def bench(clock: InstructionClock) -> Bench:
    return Bench(clock)


def test_bcd_time_goes_on(bench: Bench, advance: Advance) -> None:
    assert bench.time() == (0x20, 0x24, 0x02, 0x29, 0x23, 0x59, 0x58)
    assert bench[6] == 5
    advance(2 * SECOND)
    assert bench.time() == (0x20, 0x24, 0x03, 0x01, 0x00, 0x00, 0x00)
    assert bench[6] == 6


def test_binary_and_twelve_hours(bench: Bench, advance: Advance) -> None:
    bench[11] = 0x04
    assert bench.time() == (20, 24, 2, 29, 0x8B, 59, 58)
    advance(2 * SECOND)
    assert bench[4] == 12  # midnight
    bench[11] = 0x00
    assert bench[4] == 0x12


def test_setting_the_time(bench: Bench, advance: Advance) -> None:
    bench[11] = 0x82
    for index, value in zip(FIELDS, (0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59), strict=True):
        bench[index] = value
    advance(5 * SECOND)
    assert bench[0] == 0x59  # SET holds the clock
    bench[11] = 0x02
    advance(SECOND)
    assert bench.time() == (0x20, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00)


def test_single_fields_and_nonsense(bench: Bench) -> None:
    bench[4] = 0x05
    assert bench.time() == (0x20, 0x24, 0x02, 0x29, 0x05, 0x59, 0x58)
    for index in FIELDS:
        bench[index] = 0xFF
        bench[index] = 0x00
    assert 0 <= bench[0] <= 0x59


def test_update_in_progress(bench: Bench, advance: Advance) -> None:
    assert bench[10] == 0x26
    advance(SECOND - UIP_NS)
    assert bench[10] == 0xA6
    advance(UIP_NS)
    assert bench[10] == 0x26


def test_flags_are_set_without_interrupts_and_cleared_by_reading(bench: Bench, advance: Advance) -> None:
    advance(SECOND)
    assert bench[12] == 0x50  # update and periodic flag, no IRQF
    assert bench[12] == 0x00
    assert not bench.level
    assert bench[13] == 0x80


def test_update_interrupt_waits_for_the_flag_to_be_read(bench: Bench, advance: Advance) -> None:
    bench[11] = 0x12
    bench[12]
    for _ in range(3):
        assert not bench.level
        advance(SECOND)
        assert bench.level
        assert bench[12] & 0x90 == 0x90


def test_periodic_interrupt_rate(bench: Bench, clock: InstructionClock, advance: Advance) -> None:
    bench[10] = 0x2F  # 2 Hz
    bench[12]
    bench[11] = 0x42
    advance(SECOND // 2)
    assert bench.level
    assert bench[12] & 0xC0 == 0xC0
    bench[10] = 0x20  # off
    advance(10 * SECOND)
    assert not bench.level


@pytest.mark.parametrize(
    ("hour", "minute", "second", "after"),
    [
        (0x00, 0x00, 0x05, 7),
        (0xFF, 0xFF, 0xFF, 1),
        (0xFF, 0xFF, 0x03, 5),
        (0xFF, 0x01, 0xFF, 62),
        (0x01, 0xFF, 0xFF, 3602),
        (0xFF, 0x01, 0x10, 72),
        (0x23, 0x59, 0x58, 86400),
    ],
)
def test_alarm(bench: Bench, advance: Advance, hour: int, minute: int, second: int, after: int) -> None:
    for index, value in ((5, hour), (3, minute), (1, second)):
        bench[index] = value
    bench[12]
    bench[11] = 0x22
    advance(after * SECOND - 1)
    assert not bench.level
    advance(1)
    assert bench.level
    assert bench[12] & 0xA0 == 0xA0


def test_impossible_alarm_never_comes(bench: Bench, advance: Advance) -> None:
    bench[5] = 0x77
    bench[11] = 0x22
    advance(90_000 * SECOND)
    assert not bench.level


def test_cmos_keeps_bytes_and_the_index_ignores_the_nmi_bit(bench: Bench) -> None:
    bench[0x40] = 0x12
    assert bench[0xC0] == 0x12
    assert bench.rtc.read8(0) == 0xFF
    bench[13] = 0
    assert bench[13] == 0x80


def test_set_turns_the_update_interrupt_off(bench: Bench) -> None:
    bench[11] = 0x92
    assert bench[11] == 0x82
