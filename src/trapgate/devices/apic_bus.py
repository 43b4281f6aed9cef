"""Carries interrupt messages between I/O APIC and local APICs, and says which of these a destination means (SDM vol. 3, 11.6.2)."""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Protocol

from trapgate.values import dataclass

BROADCAST = 0xFFFF_FFFF  # the physical destination that means everybody


class Delivery(IntEnum):
    """Delivery mode, as encoded in ICR, LVT and redirection entries."""

    FIXED = 0
    LOWEST = 1
    SMI = 2
    NMI = 4
    INIT = 5
    STARTUP = 6
    EXTINT = 7


@dataclass(frozen=True, slots=True)
class Message:
    """One interrupt on its way. `level` is the trigger mode (True: level-triggered)."""

    vector: int
    delivery: int
    destination: int
    logical: bool
    level: bool = False


class Receiver(Protocol):
    """What the bus asks of a local APIC."""

    def matches(self, destination: int, logical: bool) -> bool:
        """Whether a destination means this one."""
        ...

    def ready(self) -> bool:
        """Whether it takes fixed interrupts (enabled in hardware and software)."""
        ...

    def priority(self) -> int:
        """Its processor priority (PPR): the lowest one gets a lowest-priority interrupt."""
        ...

    def accept(self, message: Message) -> None:
        """Take a message that means this one."""
        ...


class ApicBus:
    """The local APICs of a machine; `ioapic_eoi` hears every end of a level-triggered interrupt."""

    def __init__(self) -> None:
        self.receivers: list[Receiver] = []
        self.ioapic_eoi: Callable[[int], None] = lambda vector: None

    def send(self, message: Message, to: Sequence[Receiver] | None = None) -> bool:
        """Hand a message to whom it means (`to` when a shorthand named them); False when nobody is there to take it."""
        targets = [one for one in self.receivers if one.matches(message.destination, message.logical)] if to is None else to
        if message.delivery == Delivery.LOWEST:
            ready = [one for one in targets if one.ready()]
            targets = [min(ready, key=lambda one: one.priority())] if ready else []
        for one in targets:
            one.accept(message)
        return bool(targets)
