"""A driver of virtio devices, in Python: it sets up a queue in guest RAM, offers chains, and looks at what came back."""

import copy
import struct
from typing import Any

from trapgate.devices.dma import Dma
from trapgate.devices.virtio.queue import EVENT_IDX, INDIRECT, INDIRECT_DESC, NEXT, WRITE
from trapgate.devices.virtio.transport import Function, Register, Transport
from trapgate.memory import Ram
from unit.devices.conftest import Wire

TABLE, AVAILABLE, USED, INDIRECT_TABLE, BUFFERS = 0x1000, 0x3000, 0x4000, 0x6000, 0x10000
ENTRIES = 16
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET = 1, 2, 4, 8, 64


class Driver:
    """One device and its first queue; `features` beside VERSION_1."""

    def __init__(self, function: Function[Any], features: int = 0, queue: int = 0, ram: Ram | None = None) -> None:
        self.ram = ram if ram is not None else Ram(1 << 20)
        self.line = Wire()
        self.device = Transport(function, Dma(self.ram), self.line)
        self.features, self.queue, self.base = features, queue, queue << 17
        self.start()

    def beside(self, queue: int) -> "Driver":
        """The same device's driver, for another queue."""
        other = copy.copy(self)
        other.queue, other.base = queue, queue << 17
        other.set_up()
        return other

    def put(self, register: int, value: int) -> None:
        self.device.write(register, 4, value)

    def get(self, register: int) -> int:
        return self.device.read(register, 4)

    def start(self) -> None:
        """Reset the device and set it up."""
        self.put(Register.STATUS, 0)
        for status in (ACKNOWLEDGE, ACKNOWLEDGE | DRIVER):
            self.put(Register.STATUS, status)
        for half, bits in ((0, self.features & 0xFFFF_FFFF), (1, 1 | self.features >> 32)):
            self.put(Register.DRIVER_FEATURES_SELECT, half)
            self.put(Register.DRIVER_FEATURES, bits)
        self.put(Register.STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK)
        assert self.get(Register.STATUS) & FEATURES_OK
        self.put(Register.STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)
        self.set_up()

    def set_up(self) -> None:
        """Make the queue ready, with nothing in it."""
        self.put(Register.QUEUE_SELECT, self.queue)
        self.put(Register.QUEUE_SIZE, ENTRIES)
        for register, address in ((Register.DESCRIPTORS_LOW, TABLE), (Register.DRIVER_LOW, AVAILABLE), (Register.DEVICE_LOW, USED)):
            self.put(register, self.base + address)
            self.put(register + 4, 0)
        self.put(Register.QUEUE_READY, 1)
        self.ram.write(self.base + AVAILABLE, bytes(6 + 2 * ENTRIES))
        self.ram.write(self.base + USED, bytes(6 + 8 * ENTRIES))
        self.offered = self.seen = 0

    def describe(self, at: int, address: int, length: int, flags: int, following: int = 0, table: int = TABLE) -> None:
        self.ram.write(self.base + table + 16 * at, struct.pack("<QIHH", address, length, flags, following))

    def offer(self, readable: list[bytes], room: list[int], first: int = 0, indirect: bool = False) -> list[int]:
        """Offer a chain, its descriptors from `first` on; the addresses of its room."""
        buffers = [(data, len(data), 0) for data in readable] + [(b"", size, WRITE) for size in room]
        table, start, address, places = (
            (INDIRECT_TABLE, 0, BUFFERS, []) if indirect else (TABLE, first, BUFFERS + 0x1000 * first, [])
        )
        address += self.base
        for number, (data, length, flags) in enumerate(buffers):
            more = NEXT if number + 1 < len(buffers) else 0
            self.ram.write(address, data or b"\xcc" * length)
            self.describe(start + number, address, length, flags | more, start + number + 1, table)
            if flags & WRITE:
                places.append(address)
            address += length + 16
        if indirect:
            self.describe(first, self.base + INDIRECT_TABLE, 16 * len(buffers), INDIRECT)
        self.available(first)
        return places

    def room(self, first: int) -> int:
        """Where the room of a chain of one buffer is."""
        return self.base + BUFFERS + 0x1000 * first

    def available(self, head: int) -> None:
        self.ram.write_int(self.base + AVAILABLE + 4 + 2 * (self.offered % ENTRIES), 2, head)
        self.offered += 1
        self.ram.write_int(self.base + AVAILABLE + 2, 2, self.offered & 0xFFFF)

    def notify(self) -> None:
        self.put(Register.QUEUE_NOTIFY, self.queue)

    def returned(self) -> list[tuple[int, int]]:
        """The (head, bytes written) of each chain that came back since this was asked."""
        end, found = self.ram.read_int(self.base + USED + 2, 2), []
        while self.seen & 0xFFFF != end:
            found.append(struct.unpack("<II", self.ram.read(self.base + USED + 4 + 8 * (self.seen % ENTRIES), 8)))
            self.seen += 1
        return found

    def interrupted(self) -> int:
        """The interrupt status, which is acknowledged."""
        status = self.get(Register.INTERRUPT_STATUS)
        assert self.line.level == bool(status)
        self.put(Register.INTERRUPT_ACKNOWLEDGE, status)
        assert not self.line.level
        return status


__all__ = ["EVENT_IDX", "INDIRECT_DESC", "Driver"]
