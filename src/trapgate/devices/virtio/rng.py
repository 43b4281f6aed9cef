"""A virtio entropy device (virtio 1.2, 5.4): random bytes of the host, or of a seed where runs must repeat."""

import hashlib
import os
from typing import ClassVar

from trapgate.devices.parts import Maker
from trapgate.devices.virtio.queue import Queue, length_of
from trapgate.devices.virtio.transport import Function, virtio
from trapgate.state import U64, State
from trapgate.values import dataclass

MOST = 1 << 16  # bytes for one request, however much room it has
BLOCK = 64  # bytes of SHA-512


@dataclass(frozen=True, slots=True)
class RngState(State):
    """How many blocks were made of the seed."""

    made: U64


class Rng(Function[RngState]):
    """One queue of requests, each with room for random bytes. Without a `seed` they are the host's."""

    kind: ClassVar[int] = 4
    queues = (64,)

    def __init__(self, seed: bytes | None = None) -> None:
        self._seed = seed
        self._made = 0

    def save(self) -> RngState:
        """How far it is."""
        return RngState(self._made)

    def load(self, state: RngState) -> None:
        """How far it is."""
        self._made = state.made

    def notified(self, number: int, queue: Queue) -> None:
        """Fill each request, or its first 64 KiB."""
        for chain in queue:
            data = self._bytes(min(length_of(chain.writable), MOST))
            queue.put(chain, chain.write(self.transport.ram, 0, data))

    def _bytes(self, count: int) -> bytes:
        if self._seed is None:
            return os.urandom(count)
        blocks = -(-count // BLOCK)
        first, self._made = self._made, self._made + blocks & (1 << 64) - 1
        made = (hashlib.sha512(self._seed + (first + number).to_bytes(9, "little")).digest() for number in range(blocks))
        return b"".join(made)[:count]


def virtio_rng(seed: bytes | None = None) -> Maker:
    """An entropy device: the host's random bytes, or, from a seed, the same in each run."""
    return virtio(lambda wiring: Rng(seed))
