"""Models the I/O APIC: 24 pins, each with a redirection entry that makes it a message (82093AA, here version 20h with EOIR)."""

from typing import Annotated

from trapgate.arch.layout import GSI_COUNT, IOAPIC_ID
from trapgate.devices.apic_bus import BROADCAST, ApicBus, Delivery, Message
from trapgate.state import U8, Bits, Length, Mask, State
from trapgate.values import dataclass

SELECT, WINDOW, EOI = 0x00, 0x10, 0x40  # offsets of the memory-mapped registers
ID, VERSION, ARBITRATION, ENTRIES = 0x00, 0x01, 0x02, 0x10  # indexed registers
VERSION_VALUE = 0x20 | GSI_COUNT - 1 << 16
LOGICAL, REMOTE_IRR, LEVEL, MASKED = 1 << 11, 1 << 14, 1 << 15, 1 << 16  # redirection entry
WRITABLE = 0xFF00_0000_0001_AFFF  # all but delivery status, remote IRR and reserved bits


@dataclass(frozen=True, slots=True)
class IoApicState(State):
    """The selected index, the identifier, the redirection entries and the levels of the pins."""

    select: U8
    identifier: Annotated[int, Bits(4)]
    entries: Annotated[tuple[Annotated[int, Mask(WRITABLE | REMOTE_IRR)], ...], Length(GSI_COUNT)]
    lines: Annotated[int, Bits(GSI_COUNT)]


class IoApic:
    """Pins 0-23. Polarity is ignored: lines carry "asserted", not a voltage."""

    def __init__(self, bus: ApicBus) -> None:
        self._bus = bus
        bus.ioapic_eoi = self.end
        self._select = 0
        self._id = IOAPIC_ID
        self._entries = [MASKED] * GSI_COUNT
        self._lines = 0

    def save(self) -> IoApicState:
        """All of it."""
        return IoApicState(self._select, self._id, tuple(self._entries), self._lines)

    def load(self, state: IoApicState) -> None:
        """All of it."""
        self._select, self._id = state.select, state.identifier
        self._entries, self._lines = list(state.entries), state.lines

    def set_line(self, pin: int, level: bool) -> None:
        """Drive a pin. An edge on a masked pin is lost; a level waits."""
        bit = 1 << pin
        rising = level and not self._lines & bit
        self._lines = self._lines | bit if level else self._lines & ~bit
        if self._entries[pin] & LEVEL:
            self._serve_level(pin)
        elif rising:
            self._deliver(pin)

    def _serve_level(self, pin: int) -> None:
        if self._lines >> pin & 1 and not self._entries[pin] & REMOTE_IRR:
            self._deliver(pin)

    def _deliver(self, pin: int) -> None:
        entry = self._entries[pin]
        if entry & MASKED:
            return
        destination, logical = entry >> 56, bool(entry & LOGICAL)
        if destination == 0xFF and not logical:
            destination = BROADCAST
        delivery = entry >> 8 & 7
        level = bool(entry & LEVEL)
        # Set before sending: the message may be ended before `send` returns
        if level and delivery in (Delivery.FIXED, Delivery.LOWEST):
            self._entries[pin] |= REMOTE_IRR
        if not self._bus.send(Message(entry & 0xFF, delivery, destination, logical, level)):
            self._entries[pin] &= ~REMOTE_IRR

    def end(self, vector: int) -> None:
        """EOI: level-triggered entries with this vector may interrupt again, and do when their line still is asserted."""
        for pin, entry in enumerate(self._entries):
            if entry & 0xFF == vector and entry & REMOTE_IRR:
                self._entries[pin] &= ~REMOTE_IRR
                if entry & LEVEL:
                    self._serve_level(pin)

    # Registers

    def read(self, offset: int, size: int) -> int:
        """The index or the indexed register."""
        if offset == SELECT:
            return self._select
        return self._indexed() if offset == WINDOW else 0

    def _indexed(self) -> int:
        index = self._select
        if index in (ID, ARBITRATION):
            return self._id << 24
        if index == VERSION:
            return VERSION_VALUE
        pin, high = divmod(index - ENTRIES, 2)
        return self._entries[pin] >> 32 * high & 0xFFFF_FFFF if 0 <= pin < GSI_COUNT else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Select an index, store the indexed register, or end a vector."""
        if offset == SELECT:
            self._select = value & 0xFF
        elif offset == EOI:
            self.end(value & 0xFF)
        elif offset == WINDOW:
            pin, high = divmod(self._select - ENTRIES, 2)
            if self._select == ID:
                self._id = value >> 24 & 0xF
            elif 0 <= pin < GSI_COUNT:
                self._set_entry(pin, high, value & 0xFFFF_FFFF)

    def _set_entry(self, pin: int, high: int, value: int) -> None:
        shift = 32 * high
        reach = WRITABLE & 0xFFFF_FFFF << shift
        entry = self._entries[pin] & ~reach | value << shift & reach
        if not entry & LEVEL:
            entry &= ~REMOTE_IRR  # drivers without an EOI register clear it so
        self._entries[pin] = entry
        if entry & LEVEL:
            self._serve_level(pin)
