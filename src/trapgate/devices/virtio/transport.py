"""A virtio device behind memory-mapped registers, version 2 (virtio 1.2, 4.2); what it does is a `Function`."""

from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from trapgate.arch.layout import VIRTIO_LENGTH
from trapgate.devices.dma import Dma
from trapgate.devices.lines import Line
from trapgate.devices.parts import Maker, Part, Wiring
from trapgate.devices.virtio.queue import EVENT_IDX, INDIRECT_DESC, BrokenQueue, Queue, QueueState
from trapgate.state import U8, U32, U64, Bits, State, require
from trapgate.values import dataclass

CONFIGURATION = 0x100  # offset of the latter


class Register(IntEnum):
    """Offsets of the registers, each of 32 bits (4.2.2)."""

    MAGIC = 0x000
    VERSION = 0x004
    DEVICE_ID = 0x008
    VENDOR_ID = 0x00C
    DEVICE_FEATURES = 0x010
    DEVICE_FEATURES_SELECT = 0x014
    DRIVER_FEATURES = 0x020
    DRIVER_FEATURES_SELECT = 0x024
    QUEUE_SELECT = 0x030
    QUEUE_MOST = 0x034
    QUEUE_SIZE = 0x038
    QUEUE_READY = 0x044
    QUEUE_NOTIFY = 0x050
    INTERRUPT_STATUS = 0x060
    INTERRUPT_ACKNOWLEDGE = 0x064
    STATUS = 0x070
    DESCRIPTORS_LOW = 0x080
    DESCRIPTORS_HIGH = 0x084
    DRIVER_LOW = 0x090
    DRIVER_HIGH = 0x094
    DEVICE_LOW = 0x0A0
    DEVICE_HIGH = 0x0A4
    MEMORY_LENGTH_LOW = 0x0B0
    MEMORY_LENGTH_HIGH = 0x0B4
    MEMORY_BASE_LOW = 0x0B8
    MEMORY_BASE_HIGH = 0x0BC
    GENERATION = 0x0FC


PLACES: dict[int, tuple[str, int]] = {
    Register.DESCRIPTORS_LOW: ("descriptors", 0),
    Register.DESCRIPTORS_HIGH: ("descriptors", 32),
    Register.DRIVER_LOW: ("driver", 0),
    Register.DRIVER_HIGH: ("driver", 32),
    Register.DEVICE_LOW: ("device", 0),
    Register.DEVICE_HIGH: ("device", 32),
}
"""Halves of the addresses of the selected queue's table and rings."""
MAGIC_VALUE, VENDOR = 0x7472_6976, 0x5450_5254  # "virt", "TRPT"
DRIVER_OK, FEATURES_OK, NEEDS_RESET = 1 << 2, 1 << 3, 1 << 6  # status (2.1)
VERSION_1 = 1 << 32  # feature
EVERY = INDIRECT_DESC | EVENT_IDX | VERSION_1  # features that each device has
USED_BUFFER, CONFIGURATION_CHANGED = 1 << 0, 1 << 1  # interrupt status
F = TypeVar("F", bound=State)


class Function(Generic[F]):
    """What a device does behind its registers. A method may raise BrokenQueue, after which the driver has to reset it."""

    kind: ClassVar[int]
    """Its device ID (5)."""
    features: int = 0
    """Those of its kind."""
    queues: tuple[int, ...] = ()
    """The most entries of each of its queues."""
    transport: "Transport"
    """What it is behind, by which its queues are reached."""

    def configuration(self) -> bytes:
        """What the driver reads as its configuration."""
        return b""

    def notified(self, number: int, queue: Queue) -> None:
        """There is something in a queue, perhaps."""
        raise NotImplementedError

    def reset(self) -> None:
        """As at the start."""

    def save(self) -> F:
        """Its state."""
        raise NotImplementedError

    def load(self, state: F) -> None:
        """Its state. StateError, and nothing is changed: it cannot be so."""
        raise NotImplementedError

    def close(self) -> None:
        """Give back what it holds of the host."""


@dataclass(frozen=True, slots=True)
class TransportState(State):
    """The registers, and what is behind them."""

    device_select: U32
    driver_select: U32
    driver_features: U64
    queue_select: U32
    status: U8
    interrupt: Annotated[int, Bits(2)]
    queues: tuple[QueueState, ...]
    function: State


class Transport(Part[TransportState]):
    """The registers of one device. `line` is asserted while its interrupt status is not 0."""

    def __init__(self, function: Function[Any], ram: Dma, line: Line) -> None:
        self._function, self.ram, self._line = function, ram, line
        function.transport = self
        self._queues = [Queue(ram, most) for most in function.queues]
        self._interrupt = 0
        self._clear()

    @property
    def _features(self) -> int:
        return self._function.features | EVERY

    def _clear(self) -> None:
        self._device_select = self._driver_select = self._driver_features = self._queue_select = 0
        self._status = 0
        for queue in self._queues:
            queue.reset()
            queue.indirect = queue.by_event = False

    def save(self) -> TransportState:
        """All of it."""
        selects = self._device_select, self._driver_select, self._driver_features, self._queue_select
        queues = tuple(queue.save() for queue in self._queues)
        return TransportState(*selects, self._status, self._interrupt, queues, self._function.save())

    def load(self, state: TransportState) -> None:
        """All of it. StateError: features or queues that this device does not have, or its function cannot be so."""
        agreed = self._acceptable(state.driver_features) or not state.status & FEATURES_OK
        require(agreed, f"features {state.driver_features:#x} were never offered")
        require(len(state.queues) == len(self._queues), f"{len(state.queues)} queues are not {len(self._queues)}")
        for queue, one in zip(self._queues, state.queues, strict=True):
            queue.check(one)
        require(type(state.function) is type(self._function.save()), f"a {type(state.function).__name__} is another device's")
        self._function.load(state.function)
        self._device_select, self._driver_select = state.device_select, state.driver_select
        self._driver_features, self._queue_select = state.driver_features, state.queue_select
        self._status, self._interrupt = state.status, state.interrupt
        for queue, one in zip(self._queues, state.queues, strict=True):
            queue.load(one)
        self._settle_features()

    def close(self) -> None:
        """Give back what the function holds of the host."""
        self._function.close()

    # What the function asks for

    def queue(self, number: int) -> Queue | None:
        """A queue, while the driver has it and all of the device in use."""
        queue = self._queues[number]
        in_use = self._status & (DRIVER_OK | FEATURES_OK | NEEDS_RESET) == DRIVER_OK | FEATURES_OK
        return queue if queue.ready and in_use else None

    def agreed(self, features: int) -> bool:
        """Whether the driver has taken features that were offered."""
        return bool(self._status & FEATURES_OK) and not features & ~self._driver_features

    def work(self, call: Callable[[], None]) -> None:
        """Do something with queues that is no answer to a notification, and tell the driver of what it has brought."""
        try:
            call()
            if any([queue.interrupts() for queue in self._queues if queue.ready]):  # each is asked
                self._raise(USED_BUFFER)
        except BrokenQueue:
            self._status |= NEEDS_RESET
            if self._status & DRIVER_OK:
                self._raise(CONFIGURATION_CHANGED)

    def changed(self) -> None:
        """The configuration is another one."""
        if self._status & DRIVER_OK:
            self._raise(CONFIGURATION_CHANGED)

    def _raise(self, bits: int) -> None:
        self._interrupt |= bits
        self._line(True)

    # Registers

    @property
    def _selected(self) -> Queue | None:
        return self._queues[self._queue_select] if self._queue_select < len(self._queues) else None

    def read(self, offset: int, size: int) -> int:
        """A register as a whole; the configuration in any size."""
        if offset >= CONFIGURATION:
            data = self._function.configuration()[offset - CONFIGURATION :][:size]
            return int.from_bytes(data, "little")
        return self._register(offset) if size == 4 else 0

    def _register(self, offset: int) -> int:
        queue = self._selected
        match offset:
            case Register.MAGIC:
                return MAGIC_VALUE
            case Register.VERSION:
                return 2
            case Register.DEVICE_ID:
                return self._function.kind
            case Register.VENDOR_ID:
                return VENDOR
            case Register.DEVICE_FEATURES:
                return self._features >> 32 * self._device_select & 0xFFFF_FFFF if self._device_select < 2 else 0
            case Register.QUEUE_MOST:
                return queue.most if queue is not None else 0
            case Register.QUEUE_READY:
                return int(queue is not None and queue.ready)
            case Register.INTERRUPT_STATUS:
                return self._interrupt
            case Register.STATUS:
                return self._status
            case Register.MEMORY_LENGTH_LOW | Register.MEMORY_LENGTH_HIGH | Register.MEMORY_BASE_LOW | Register.MEMORY_BASE_HIGH:
                return 0xFFFF_FFFF  # no shared memory (4.2.2)
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Store a register. What does not fit the device's status, or is for reading, is lost."""
        if size != 4:
            return
        match offset:
            case Register.DEVICE_FEATURES_SELECT:
                self._device_select = value
            case Register.DRIVER_FEATURES:
                self._take_features(value)
            case Register.DRIVER_FEATURES_SELECT:
                self._driver_select = value
            case Register.QUEUE_SELECT:
                self._queue_select = value
            case Register.QUEUE_NOTIFY:
                if value < len(self._queues) and (queue := self.queue(value)) is not None:
                    self.work(lambda: self._function.notified(value, queue))
            case Register.INTERRUPT_ACKNOWLEDGE:
                self._interrupt &= ~value
                self._line(bool(self._interrupt))
            case Register.STATUS:
                self._set_status(value & 0xFF)
            case _:
                self._set_up(offset, value)

    def _acceptable(self, features: int) -> bool:
        """Whether a driver may have chosen so: of those that are offered, and not without VERSION_1."""
        return bool(features & VERSION_1) and not features & ~self._features

    def _take_features(self, value: int) -> None:
        if self._driver_select < 2 and not self._status & FEATURES_OK:
            shift = 32 * self._driver_select
            self._driver_features = self._driver_features & ~(0xFFFF_FFFF << shift) | value << shift

    def _set_status(self, value: int) -> None:
        if not value:
            self._clear()
            self._interrupt = 0
            self._function.reset()
            self._line(False)
            return
        if value & ~self._status & FEATURES_OK:
            value &= ~(0 if self._acceptable(self._driver_features) else FEATURES_OK)
        # Bits are only ever added, and that it needs a reset is for the device to say (2.1.1)
        self._status |= value & ~NEEDS_RESET
        self._settle_features()

    def _settle_features(self) -> None:
        for queue in self._queues:
            queue.indirect = bool(self._driver_features & INDIRECT_DESC)
            queue.by_event = bool(self._driver_features & EVENT_IDX)

    def _set_up(self, offset: int, value: int) -> None:
        """The registers of the selected queue."""
        queue = self._selected
        if queue is None:
            return
        if offset == Register.QUEUE_READY:
            queue.ready = bool(value & 1)
            return
        if queue.ready:
            return  # it may not be changed while it is in use (4.2.3.2)
        if offset == Register.QUEUE_SIZE:
            if queue.takes(value):
                queue.size = value
            return
        if offset in PLACES:
            name, shift = PLACES[offset]
            now = getattr(queue, name)
            setattr(queue, name, now & ~(0xFFFF_FFFF << shift) | value << shift)


def virtio(make: Callable[[Wiring], Function[Any]]) -> Maker:
    """A maker of a device that does what `make` makes, at the next free place for a virtio device. BusConflict: there is none."""

    def made(wiring: Wiring) -> Transport:
        address, gsi = wiring.virtio_place()
        device = Transport(make(wiring), wiring.ram, wiring.line(gsi))
        wiring.memory(address, VIRTIO_LENGTH, device)
        return device

    return made
