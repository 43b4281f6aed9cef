"""The 16550A as Linux's 8250 driver and small polling guests use it."""

from collections.abc import Callable
from typing import Protocol

import pytest

from trapgate.clock import InstructionClock
from trapgate.devices import uart as u
from trapgate.devices.uart import Uart

Advance = Callable[[int], None]


class Wire(Protocol):
    """The line of the conftest."""

    level: bool

    def __call__(self, level: bool) -> None: ...
    def rises(self) -> int: ...


@pytest.fixture
def out() -> bytearray:
    return bytearray()


@pytest.fixture
def uart(clock: InstructionClock, wire: Wire, out: bytearray) -> Uart:
    return Uart(out.extend, clock, wire)


def test_detected_as_16550a(uart: Uart) -> None:
    """The probes that tell 8250, 16450, 16550A and its relatives apart."""
    uart.write8(u.IER, 0)
    assert uart.read8(u.IER) & 0x0F == 0
    uart.write8(u.IER, 0xFF)
    assert uart.read8(u.IER) == 0x0F  # no sleep or DMA enable bits of other types
    uart.write8(u.IER, 0)
    uart.write8(u.MCR, u.MCR_LOOP | u.MCR_OUT2 | u.MCR_RTS)
    assert uart.read8(u.MSR) & 0xF0 == 0x90
    uart.write8(u.MCR, 0)
    uart.write8(u.LCR, 0xBF)
    uart.write8(2, 0)
    uart.write8(u.LCR, 0)
    uart.write8(2, 1)
    assert uart.read8(u.IIR) >> 6 == 3
    uart.write8(u.LCR, 0xBF)
    assert uart.read8(2) != 0  # no EFR: not a 16650
    uart.write8(u.LCR, 0)
    uart.write8(2, 1 | 0x20)
    first = uart.read8(u.IIR) >> 5
    uart.write8(u.LCR, 0x80)
    uart.write8(2, 1 | 0x20)
    assert (first, uart.read8(u.IIR) >> 5) == (6, 6)  # no 64-byte FIFO: not a 16750
    uart.write8(u.SCR, 0x5A)
    assert uart.read8(u.SCR) == 0x5A


def test_divisor_latch_hides_data_and_ier(uart: Uart, out: bytearray) -> None:
    uart.write8(u.LCR, u.LCR_DLAB | 3)
    uart.write8(0, 0x34)
    uart.write8(1, 0x12)
    assert (uart.read8(0), uart.read8(1)) == (0x34, 0x12)
    uart.write8(u.LCR, 3)
    assert not out
    assert uart.read8(u.IER) == 0


def test_modem_status_says_ready(uart: Uart) -> None:
    assert uart.read8(u.MSR) == 0xB0
    assert uart.read8(u.LSR) == 0x60


def test_enabling_the_transmit_interrupt_raises_it_each_time(uart: Uart, wire: Wire) -> None:
    """Linux's start-up test for transmitters that do not re-assert."""
    for _ in range(2):
        uart.write8(u.IER, u.IER_TRANSMIT)
        assert wire.level
        assert uart.read8(u.IIR) == u.IIR_TRANSMIT
        assert not wire.level
        assert uart.read8(u.IIR) == u.IIR_NONE
        uart.write8(u.IER, 0)


def test_transmit_interrupt_comes_back_after_the_data_went(uart: Uart, wire: Wire, out: bytearray, advance: Advance) -> None:
    uart.write8(2, 1)
    uart.write8(u.IER, u.IER_TRANSMIT)
    for byte in b"0123456789abcdef":
        uart.write8(u.DATA, byte)
    assert not wire.level
    assert uart.read8(u.LSR) & 0x60 == 0x60
    advance(u.TRANSMIT_NS)
    assert wire.level
    assert out == b"0123456789abcdef"
    uart.write8(u.DATA, ord("!"))
    assert not wire.level  # writing THR clears it


def test_interrupt_priorities(uart: Uart, wire: Wire) -> None:
    uart.write8(2, 1)
    uart.write8(u.IER, 0x0F)
    uart.write8(u.MCR, u.MCR_LOOP)  # CTS, DSR and DCD fall
    uart.write8(u.DATA, 7)
    uart.write8(u.MCR, 0)
    uart.feed_break()
    uart.write8(u.IER, 0)
    uart.write8(u.IER, 0x0F)
    assert uart.read8(u.IIR) == 0xC0 | u.IIR_RECEIVED
    assert uart.read8(u.DATA) == 7
    assert uart.read8(u.IIR) == 0xC0 | u.IIR_LINE
    assert uart.read8(u.LSR) == 0x60 | u.LSR_BREAK | u.LSR_DATA | u.LSR_FIFO_ERROR
    assert uart.read8(u.IIR) == 0xC0 | u.IIR_RECEIVED
    assert uart.read8(u.DATA) == 0
    assert uart.read8(u.IIR) == 0xC0 | u.IIR_TRANSMIT
    assert uart.read8(u.IIR) == 0xC0 | u.IIR_MODEM
    assert uart.read8(u.MSR) & 0x0F == 0x0B
    assert uart.read8(u.IIR) == 0xC0 | u.IIR_NONE
    assert not wire.level


def test_ring_indicator_tells_its_trailing_edge(uart: Uart) -> None:
    uart.write8(u.MCR, u.MCR_LOOP | u.MCR_OUT1)
    assert uart.read8(u.MSR) & 0x44 == 0x40
    uart.write8(u.MCR, u.MCR_LOOP)
    assert uart.read8(u.MSR) & 0x44 == 0x04


def test_loopback_overrun(uart: Uart, out: bytearray) -> None:
    uart.write8(u.MCR, u.MCR_LOOP)
    uart.write8(u.DATA, 1)
    uart.write8(u.DATA, 2)
    assert uart.read8(u.LSR) & u.LSR_OVERRUN
    assert uart.read8(u.LSR) & u.LSR_OVERRUN == 0
    assert uart.read8(u.DATA) == 1
    assert not out


def test_trigger_level_and_timeout(uart: Uart) -> None:
    uart.write8(2, 1 | 0x80)  # trigger at 8
    uart.write8(u.IER, u.IER_RECEIVED)
    uart.feed(b"12345678")
    assert uart.read8(u.IIR) & 0x0F == u.IIR_RECEIVED
    uart.read8(u.DATA)
    assert uart.read8(u.IIR) & 0x0F == u.IIR_TIMEOUT


@pytest.mark.parametrize("fifos", [0, 1])
def test_nothing_typed_is_lost_and_it_comes_at_line_speed(uart: Uart, wire: Wire, advance: Advance, fifos: int) -> None:
    uart.write8(2, fifos)
    uart.write8(u.IER, u.IER_RECEIVED)
    data = bytes(range(256)) * 4
    uart.feed(data)
    got, spent = bytearray(), 0
    while len(got) < len(data):
        batch = 0
        while uart.read8(u.LSR) & u.LSR_DATA:
            assert wire.level
            got.append(uart.read8(u.DATA))
            batch += 1
        assert batch <= 16
        assert not wire.level
        advance(u.CHARACTER_NS)
        spent += u.CHARACTER_NS
    assert got == data
    assert spent >= (len(data) - 16) * u.CHARACTER_NS


def test_clearing_drops_loopback_bytes_but_nothing_typed(uart: Uart, advance: Advance) -> None:
    uart.write8(2, 1)
    uart.feed(b"early")
    uart.write8(u.MCR, u.MCR_LOOP)
    uart.write8(u.DATA, ord("?"))
    uart.write8(u.MCR, 0)
    uart.write8(2, 1 | u.FCR_CLEAR_RECEIVE)
    assert uart.read8(u.LSR) & 1 == 0
    advance(u.FIFO_SIZE * u.CHARACTER_NS)
    assert bytes(uart.read8(u.DATA) for _ in range(5)) == b"early"
    assert uart.read8(u.LSR) & 1 == 0


def test_reading_an_empty_fifo_and_clearing_it(uart: Uart, wire: Wire) -> None:
    assert uart.read8(u.DATA) == 0
    uart.write8(2, 1)
    uart.write8(u.IER, u.IER_RECEIVED)
    uart.feed(b"x")
    uart.write8(2, 1 | u.FCR_CLEAR_RECEIVE)
    assert uart.read8(u.LSR) & 1 == 0
    assert not wire.level
