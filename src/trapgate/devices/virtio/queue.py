"""Shows one split virtqueue as its device sees it (virtio 1.2, 2.7). Every number in it is the guest's, and none is believed.

A driver that breaks a rule breaks the queue: `BrokenQueue` says how, and the device needs a reset.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import field

from trapgate.devices.dma import Dma
from trapgate.errors import TrapgateError
from trapgate.memory import RamError
from trapgate.state import U16, U64, State, require
from trapgate.values import dataclass

LARGEST = 1 << 15  # entries of a queue (2.7)
LONGEST = 1 << 32  # bytes of a chain (2.7.5)
DESCRIPTOR = struct.Struct("<QIHH")  # address, length, flags, next (2.7.5)
RING = struct.Struct("<HH")  # flags and index, at the begin of both rings (2.7.6, 2.7.8)
INDEX = struct.Struct("<H")
USED = struct.Struct("<II")  # head of a chain, bytes written (2.7.8)
NEXT, WRITE, INDIRECT = 1 << 0, 1 << 1, 1 << 2  # flags of a descriptor
NO_INTERRUPT = 1 << 0  # flag of the driver's ring
INDIRECT_DESC, EVENT_IDX = 1 << 28, 1 << 29  # features (6)
Place = tuple[int, int]  # guest-physical address, length


class BrokenQueue(TrapgateError):
    """The driver broke a rule of the queue."""


@dataclass(frozen=True, slots=True)
class QueueState(State):
    """What the driver has set up, and the indices of both rings: how far chains were taken, used, and told by an interrupt."""

    size: U16
    ready: bool
    descriptors: U64
    driver: U64
    device: U64
    taken: U16
    used: U16
    told: U16


@dataclass(slots=True)
class Chain:
    """Buffers that the driver has made available together: some to read, then some to write. Each is RAM."""

    head: int
    readable: list[Place] = field(default_factory=list)
    writable: list[Place] = field(default_factory=list)

    def read(self, ram: Dma, offset: int, length: int) -> bytes:
        """Bytes to read, from an offset on; as many as there are."""
        return b"".join(ram.read(*place) for place in part(self.readable, offset, length))

    def write(self, ram: Dma, offset: int, data: bytes) -> int:
        """Store bytes, from an offset on; as many as there is room for, which is told."""
        return ram.write_all(part(self.writable, offset, len(data)), data)


def length_of(places: list[Place]) -> int:
    """How many bytes some buffers have."""
    return sum(length for _, length in places)


def part(places: list[Place], offset: int, length: int) -> Iterator[Place]:
    """The bytes [offset, offset + length) of some buffers, as far as there are."""
    for address, size in places:
        if length > 0 and offset < size:
            taken = min(size - offset, length)
            yield address + offset, taken
            length -= taken
        offset = max(offset - size, 0)


class Queue:
    """A queue of up to `most` entries. `indirect` and `by_event` follow the features that the driver has taken."""

    def __init__(self, ram: Dma, most: int) -> None:
        assert 0 < most <= LARGEST, most
        self._ram, self.most = ram, most
        self.indirect = self.by_event = False
        self.reset()

    def reset(self) -> None:
        """As before the driver has set it up."""
        self.size, self.ready = self.most, False
        self.descriptors = self.driver = self.device = 0
        self._taken = self._used = self._told = 0

    def save(self) -> QueueState:
        """All of it but the features, which are the device's."""
        places = self.descriptors, self.driver, self.device
        return QueueState(self.size, self.ready, *places, self._taken, self._used, self._told)

    def check(self, state: QueueState) -> None:
        """Raise StateError where `load` would."""
        require(self.takes(state.size), f"a queue of {state.size} entries, where {self.most} are most")

    def load(self, state: QueueState) -> None:
        """All of it. StateError: it cannot have so many entries."""
        self.check(state)
        self.size, self.ready = state.size, state.ready
        self.descriptors, self.driver, self.device = state.descriptors, state.driver, state.device
        self._taken, self._used, self._told = state.taken, state.used, state.told

    def takes(self, size: int) -> bool:
        """Whether it can have so many entries: a power of two, up to the most."""
        return 0 < size <= self.most and not size & size - 1

    # Chains

    def __iter__(self) -> Iterator[Chain]:
        """Take every chain that is there. BrokenQueue."""
        return self.chains(lambda: True)

    def chains(self, wanted: Callable[[], bool]) -> Iterator[Chain]:
        """Take chains as long as there are some and one is wanted. BrokenQueue.

        The guest stands meanwhile, so there are no more than the queue has entries, unless what is given back makes new ones,
        without an end: its ring lies over the driver's.
        """
        for _ in range(self.size):
            if not wanted() or (chain := self.take()) is None:
                return
            yield chain
        if wanted() and self.peek() is not None:
            raise BrokenQueue("more chains than entries: the rings lie over each other")

    def take(self) -> Chain | None:
        """The next chain, if there is one. BrokenQueue."""
        chain = self.peek()
        if chain is not None:
            self._taken = self._taken + 1 & 0xFFFF
        return chain

    def untake(self, count: int) -> None:
        """The last so many chains that were taken, of which none was given back, are there again."""
        self._taken = self._taken - count & 0xFFFF

    def peek(self) -> Chain | None:
        """The chain that `take` would give; it stays there. BrokenQueue."""
        if not self.ready:
            return None
        try:
            return self._peek()
        except RamError as error:
            raise BrokenQueue(f"not all of the queue is RAM: {error}") from error

    def _peek(self) -> Chain | None:
        waiting = self._index_of(self.driver) - self._taken & 0xFFFF
        if waiting == 0 and self.by_event:
            # Be told of the next one; look again, since it may have come meanwhile (2.7.10.1)
            self._ram.write(self.device + RING.size + USED.size * self.size, INDEX.pack(self._taken))
            waiting = self._index_of(self.driver) - self._taken & 0xFFFF
        if waiting > self.size:
            raise BrokenQueue(f"{waiting} chains wait in a queue of {self.size} entries")
        if not waiting:
            return None
        (head,) = self._ram.unpack(INDEX, self.driver + RING.size + INDEX.size * (self._taken % self.size))
        return self._chain(head)

    def _index_of(self, ring: int) -> int:
        return int(self._ram.unpack(RING, ring)[1])

    def _chain(self, head: int) -> Chain:
        chain, total = Chain(head), 0
        for address, length, flags in self._descriptors(head):
            if not self._ram.contains(address, length):
                raise BrokenQueue(f"a buffer at {address:#x}+{length:#x} is not RAM")
            if not flags & WRITE and chain.writable:
                raise BrokenQueue("a buffer to read comes after one to write")
            total += length
            if total >= LONGEST:
                raise BrokenQueue(f"a chain of {total:#x} bytes")
            (chain.writable if flags & WRITE else chain.readable).append((address, length))
        return chain

    def _descriptors(self, head: int) -> Iterator[tuple[int, int, int]]:
        """(address, length, flags) of each buffer of a chain: in the table, or in one that a descriptor of it leads to."""
        table, entries, at, seen = self.descriptors, self.size, head, 0
        rows: bytes | None = None  # of an indirect table
        while True:
            if at >= entries:
                raise BrokenQueue(f"descriptor {at} of {entries}")
            seen += 1
            if seen > self.size:
                raise BrokenQueue(f"a chain of more than {self.size} buffers")
            if rows is None:
                address, length, flags, following = self._ram.unpack(DESCRIPTOR, table + DESCRIPTOR.size * at)
            else:
                address, length, flags, following = DESCRIPTOR.unpack_from(rows, DESCRIPTOR.size * at)
            if flags & INDIRECT:
                if not self.indirect or table != self.descriptors or seen > 1 or flags & NEXT:
                    raise BrokenQueue("an indirect descriptor where none may be")
                table, (entries, rest) = address, divmod(length, DESCRIPTOR.size)
                if rest or not entries:
                    raise BrokenQueue(f"an indirect table of {length} bytes")
                at = seen = 0
                rows = self._ram.read(table, length) if entries <= self.size else None
                continue
            yield address, length, flags
            if not flags & NEXT:
                return
            at = following

    def put(self, chain: Chain, written: int) -> None:
        """Give a chain back to the driver, of whose room so many bytes are written. BrokenQueue."""
        try:
            self._ram.write(self.device + RING.size + USED.size * (self._used % self.size), USED.pack(chain.head, written))
            self._used = self._used + 1 & 0xFFFF
            self._ram.write(self.device + INDEX.size, INDEX.pack(self._used))
        except RamError as error:
            raise BrokenQueue(f"not all of the queue is RAM: {error}") from error

    def interrupts(self) -> bool:
        """Whether the driver wants an interrupt for what was given back since this was asked last (2.7.7, 2.7.10). BrokenQueue."""
        before, self._told = self._told, self._used
        if before == self._used:
            return False
        try:
            if not self.by_event:
                return not self._ram.unpack(RING, self.driver)[0] & NO_INTERRUPT
            (event,) = self._ram.unpack(INDEX, self.driver + RING.size + INDEX.size * self.size)
        except RamError as error:
            raise BrokenQueue(f"not all of the queue is RAM: {error}") from error
        return bool((self._used - event - 1 & 0xFFFF) < (self._used - before & 0xFFFF))
