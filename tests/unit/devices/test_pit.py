"""The 8254's modes, reading and latching, gates, and port 61h."""

from collections.abc import Callable

import pytest

from trapgate.arch.layout import PIT_HZ
from trapgate.clock import InstructionClock
from trapgate.devices.pit import SHORTEST_NS, Pit, SystemControl

Advance = Callable[[int], None]


class Line:
    """The moments of rising edges."""

    def __init__(self, clock: InstructionClock) -> None:
        self.clock, self.level, self.rises = clock, False, list[int]()

    def __call__(self, level: bool) -> None:
        if level and not self.level:
            self.rises.append(self.clock.now())
        self.level = level


@pytest.fixture
def line(clock: InstructionClock) -> Line:
    return Line(clock)


@pytest.fixture
def pit(clock: InstructionClock, line: Line) -> Pit:
    return Pit(clock, line)


def program(pit: Pit, channel: int, mode: int, count: int, *, bcd: int = 0) -> None:
    pit.write8(3, channel << 6 | 0x30 | mode << 1 | bcd)
    pit.write8(channel, count & 0xFF)
    pit.write8(channel, count >> 8)


def ticks(count: int) -> int:
    """The ns after which `count` ticks have passed."""
    return -(-count * 1_000_000_000 // PIT_HZ)


@pytest.mark.parametrize("mode", [2, 3, 6, 7])
def test_rate_generators_raise_the_line_each_period(pit: Pit, line: Line, advance: Advance, mode: int) -> None:
    program(pit, 0, mode, 1193)
    line.rises.clear()
    advance(1_000_000_000)
    assert len(line.rises) == PIT_HZ // 1193
    assert line.rises[:3] == [ticks(1193), ticks(2 * 1193), ticks(3 * 1193)]


def test_count_zero_is_65536(pit: Pit, line: Line, advance: Advance) -> None:
    program(pit, 0, 2, 0)
    line.rises.clear()
    advance(ticks(65536))
    assert line.rises == [ticks(65536)]


@pytest.mark.parametrize(("mode", "moment"), [(0, 5000), (4, 5001)])
def test_one_shots_rise_once(pit: Pit, line: Line, advance: Advance, mode: int, moment: int) -> None:
    program(pit, 0, mode, 5000)
    line.rises.clear()
    advance(1_000_000_000)
    assert line.rises == [ticks(moment)]


def test_a_tiny_count_makes_no_storm(pit: Pit, line: Line, advance: Advance) -> None:
    program(pit, 0, 2, 1)
    line.rises.clear()
    advance(1_000_000)
    assert 0 < len(line.rises) <= 1_000_000 // SHORTEST_NS


def test_counts_down_and_latches(pit: Pit, advance: Advance) -> None:
    program(pit, 0, 2, 1000)
    advance(ticks(300))
    pit.write8(3, 0x00)
    advance(ticks(100))
    assert pit.read8(0) | pit.read8(0) << 8 == 700
    assert pit.read8(0) | pit.read8(0) << 8 == 600
    advance(ticks(600))
    assert pit.read8(0) | pit.read8(0) << 8 == 1000


def test_square_wave_counts_by_two(pit: Pit, advance: Advance) -> None:
    program(pit, 2, 3, 1000)
    pit.system_control.write8(0, 1)
    advance(ticks(100))
    assert pit.channels[2].count() == 800
    assert pit.channels[2].output()
    advance(ticks(500))
    assert not pit.channels[2].output()


def test_mode_0_wraps_and_keeps_its_output(pit: Pit, advance: Advance) -> None:
    program(pit, 1, 0, 100)
    assert not pit.channels[1].output()
    advance(ticks(101))
    assert pit.channels[1].output()
    assert pit.channels[1].count() == 0xFFFF


def test_first_byte_of_two_stops_a_mode_0_count(pit: Pit, advance: Advance) -> None:
    program(pit, 1, 0, 100)
    advance(ticks(10))
    pit.write8(1, 0x10)
    advance(ticks(1000))
    assert pit.channels[1].count() == 90
    assert not pit.channels[1].output()


def test_bcd(pit: Pit, advance: Advance) -> None:
    program(pit, 1, 2, 0x1000, bcd=1)
    advance(ticks(1))
    assert pit.channels[1].count() == 0x0999


def test_byte_accesses(pit: Pit, advance: Advance) -> None:
    pit.write8(3, 0x40 | 0x20 | 4)  # high byte only, mode 2
    pit.write8(1, 0x12)
    advance(ticks(1))
    assert pit.read8(1) == 0x11
    pit.write8(3, 0x40 | 0x10 | 4)  # low byte only
    pit.write8(1, 0x34)
    assert pit.read8(1) == 0x34
    assert pit.read8(3) == 0


def test_read_back_status_before_count(pit: Pit, advance: Advance) -> None:
    pit.write8(3, 0x34)
    pit.write8(3, 0xC0 | 0x20 | 2)
    assert pit.read8(0) == 0x80 | 0x40 | 0x34  # null count until one is written
    program(pit, 0, 2, 1000)
    advance(ticks(1))
    pit.write8(3, 0xC0 | 2)
    advance(ticks(1))
    pit.write8(3, 0xC0 | 0x10 | 2)  # a held count stands
    assert [pit.read8(0) for _ in range(3)] == [0xB4, 999 & 0xFF, 999 >> 8]


def test_gate_pauses_mode_0(pit: Pit, advance: Advance) -> None:
    channel = pit.channels[2]
    program(pit, 2, 0, 100)
    advance(ticks(500))
    assert channel.count() == 100
    assert not channel.output()
    channel.set_gate(True)
    advance(ticks(40))
    channel.set_gate(False)
    advance(ticks(500))
    assert channel.count() == 60
    channel.set_gate(True)
    advance(ticks(60))
    assert channel.output()


def test_gate_triggers_mode_1(pit: Pit, advance: Advance) -> None:
    channel = pit.channels[2]
    program(pit, 2, 1, 100)
    assert channel.output()
    channel.set_gate(True)
    assert not channel.output()
    advance(ticks(100))
    assert channel.output()


def test_gate_restarts_mode_2(pit: Pit, advance: Advance) -> None:
    channel = pit.channels[2]
    channel.set_gate(True)
    program(pit, 2, 2, 100)
    advance(ticks(50))
    channel.set_gate(False)
    assert channel.output()
    channel.set_gate(True)
    assert channel.count() == 100


def test_system_control_port(pit: Pit, clock: InstructionClock, advance: Advance) -> None:
    """The way TSC calibration times 10 ms: mode 0 on channel 2, output at bit 5."""
    port = pit.system_control
    port.write8(0, 0xF1)
    assert port.read8(0) & 0x0F == 1
    program(pit, 2, 0, 11931)
    assert port.read8(0) & 0x20 == 0
    advance(10_000_000)
    assert port.read8(0) & 0x20
    seen = set[int]()
    for _ in range(10):
        seen.add(port.read8(0) & 0x10)
        advance(SystemControl.REFRESH_NS)
    assert seen == {0, 0x10}


def test_a_status_that_has_not_been_read_stands(pit: Pit, advance: Advance) -> None:
    """Latched again, it changes nothing, however often (8254 data sheet, read-back command): the count comes after it."""
    for byte in (0x70, 0x00, 0x10):  # channel 1, mode 0
        pit.write8(3 if byte == 0x70 else 1, byte)
    for _ in range(1000):
        pit.write8(3, 0xC4)  # count and status of channel 1
    advance(10**9)
    pit.write8(3, 0xC4)
    assert [pit.read8(1) for _ in range(3)] == [0x30, 0x00, 0x10]
    pit.write8(3, 0xE4)
    assert pit.read8(1) == 0xB0
