"""Models ACPI fixed hardware (ACPI 6.5, 4.8): PM1 events and control with power-off, the 3.579545 MHz power-management timer."""

from collections.abc import Callable
from typing import Annotated

from trapgate.arch.layout import (
    ACPI_PM_BASE,
    ACPI_PM_LENGTH,
    PM1_CONTROL_PORT,
    PM1_EVENT_PORT,
    PM_TIMER_BITS,
    PM_TIMER_HZ,
    PM_TIMER_PORT,
    S5_SLEEP_TYPE,
)
from trapgate.clock import Clock, Timer, TimerState
from trapgate.devices.lines import Line, unconnected
from trapgate.devices.parts import Part
from trapgate.state import U64, Mask, State
from trapgate.values import dataclass

STATUS, ENABLE = PM1_EVENT_PORT - ACPI_PM_BASE, PM1_EVENT_PORT - ACPI_PM_BASE + 2
CONTROL, TIMER = PM1_CONTROL_PORT - ACPI_PM_BASE, PM_TIMER_PORT - ACPI_PM_BASE
TIMER_STATUS, POWER_BUTTON = 1 << 0, 1 << 8  # PM1 status and enable
STATUS_BITS = 1 << 0 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 15
ENABLE_BITS = 1 << 0 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 10
SCI_ENABLED, SLEEP_TYPE_SHIFT, SLEEP_ENABLE = 1 << 0, 10, 1 << 13  # PM1 control
KEPT = 0b111 << SLEEP_TYPE_SHIFT | 1 << 1  # of PM1 control: SLP_TYP and BM_RLD stay, SLP_EN reads as zero
NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class AcpiPmState(State):
    """The PM1 registers, and how many half periods of the timer the status tells of."""

    status: Annotated[int, Mask(STATUS_BITS)]
    enable: Annotated[int, Mask(ENABLE_BITS)]
    control: Annotated[int, Mask(KEPT)]
    half_seen: U64
    timer: TimerState | None


class AcpiPm(Part[AcpiPmState]):
    """The block of ports at 600h; `sci` is the level-triggered system control interrupt. ACPI mode is on from the start."""

    def __init__(self, clock: Clock, power_off: Callable[[], None], sci: Line = unconnected, bits: int = PM_TIMER_BITS) -> None:
        if bits not in (24, 32):
            raise ValueError(f"a PM timer has 24 or 32 bits, not {bits}")
        self._clock, self._power_off, self._sci = clock, power_off, sci
        self._bits = bits
        self._status = self._enable = self._control = 0
        self._half_seen = 0  # half periods of the timer that status knows of
        self._timer: Timer | None = None

    def save(self) -> AcpiPmState:
        """Registers and timer."""
        timer = self._timer.save() if self._timer else None
        return AcpiPmState(self._status, self._enable, self._control, self._half_seen, timer)

    def load(self, state: AcpiPmState) -> None:
        """Registers and timer."""
        self._status, self._enable, self._control = state.status, state.enable, state.control
        self._half_seen = state.half_seen
        self._timer = self._clock.again(self._timer, state.timer, self._update)

    def _ticks(self) -> int:
        return self._clock.now() * PM_TIMER_HZ // NS

    def _catch_up(self) -> None:
        """TMR_STS is set each time the timer's highest bit changes."""
        half = self._ticks() >> self._bits - 1
        if half != self._half_seen:
            self._half_seen = half
            self._status |= TIMER_STATUS

    def _update(self) -> None:
        self._catch_up()
        self._sci(bool(self._status & self._enable))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._enable & ~self._status & TIMER_STATUS:
            tick = self._half_seen + 1 << self._bits - 1
            self._timer = self._clock.at(-(-tick * NS // PM_TIMER_HZ), self._update)

    def press_power_button(self) -> None:
        """Ask the guest to shut down (PWRBTN_STS)."""
        self._status |= POWER_BUTTON
        self._update()

    def _registers(self) -> bytes:
        self._catch_up()
        control = self._control | SCI_ENABLED
        block = bytearray(ACPI_PM_LENGTH + 8)
        for at, size, value in (
            (STATUS, 2, self._status),
            (ENABLE, 2, self._enable),
            (CONTROL, 2, control),
            (TIMER, 4, self._ticks() & (1 << self._bits) - 1),
        ):
            block[at : at + size] = value.to_bytes(size, "little")
        return bytes(block)

    def read(self, offset: int, size: int) -> int:
        """Registers by bytes, words or dwords; what lies between them is zero."""
        if offset == TIMER and size == 4:
            return self._ticks() & (1 << self._bits) - 1
        return int.from_bytes(self._registers()[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Status bits are cleared by writing ones; SLP_EN with the type of S5 powers the machine off."""
        data, mask = value << 8 * offset, (1 << 8 * size) - 1 << 8 * offset
        self._catch_up()
        self._status &= ~(data >> 8 * STATUS & STATUS_BITS)
        if mask >> 8 * ENABLE & 0xFFFF:
            reach = mask >> 8 * ENABLE & ENABLE_BITS
            self._enable = self._enable & ~reach | data >> 8 * ENABLE & reach
        if mask >> 8 * CONTROL & 0xFFFF:
            reach = mask >> 8 * CONTROL & KEPT
            written = data >> 8 * CONTROL & 0xFFFF
            self._control = self._control & ~reach | written & reach
            if written & SLEEP_ENABLE and self._control >> SLEEP_TYPE_SHIFT & 7 == S5_SLEEP_TYPE:
                self._power_off()
        self._update()
