"""A virtio file system device (virtio 1.2, 5.11): FUSE requests about a `Share`, in one queue and one for what is urgent."""

import struct
from contextlib import AbstractContextManager
from typing import ClassVar

from trapgate.devices.dma import Dma
from trapgate.devices.parts import Maker
from trapgate.devices.virtio.queue import BrokenQueue, Chain, Queue, length_of, part
from trapgate.devices.virtio.transport import Function, virtio
from trapgate.fuse.protocol import ANSWER, HEADER, WRITE, Operation
from trapgate.fuse.session import Session
from trapgate.fuse.share import TAG_LENGTH, Share
from trapgate.state import State, StateError, require
from trapgate.values import dataclass

URGENT_ENTRIES, ENTRIES = 128, 512  # of the queues; a read of 1 MiB takes 256 and a few
SHORT = HEADER.size + WRITE.size  # bytes of most requests, and of a write without its data
LONGEST = 1 << 16  # bytes of a request, but a write's data


@dataclass(frozen=True, slots=True)
class FsState(State):
    """The share that nobody has mounted."""

    tag: str


class ChainBuffers:
    """A request's data and the room for that of its answer, where they lie in guest RAM."""

    def __init__(self, ram: Dma, chain: Chain) -> None:
        self._ram, self._chain = ram, chain
        self.room = length_of(chain.writable) - ANSWER.size

    def fill(self, length: int) -> AbstractContextManager[list[memoryview]]:
        """The first bytes of the room, as far as it goes."""
        return self._ram.fill_all(part(self._chain.writable, ANSWER.size, length))

    def look(self, offset: int, length: int) -> AbstractContextManager[list[memoryview]]:
        """Bytes of the request, as far as it goes."""
        return self._ram.look_all(part(self._chain.readable, offset, length))


class Fs(Function[FsState]):
    """The urgent queue and that of requests. A request is done when the notification of it returns."""

    kind: ClassVar[int] = 26
    queues = (URGENT_ENTRIES, ENTRIES)

    def __init__(self, share: Share) -> None:
        self._share, self._session = share, Session(share)

    def configuration(self) -> bytes:
        """struct virtio_fs_config: the tag, and one queue for requests (5.11.4)."""
        return struct.pack(f"<{TAG_LENGTH}sI", self._share.tag.encode(), 1)

    def reset(self) -> None:
        """Nobody has it mounted."""
        self._session.end()

    def save(self) -> FsState:
        """That nobody has it mounted. StateError: somebody has."""
        if self._session.started:
            raise StateError(f"the guest has the share {self._share.tag!r} mounted: unmount it there, then save")
        return FsState(self._share.tag)

    def load(self, state: FsState) -> None:
        """Nobody has it mounted. StateError: it has another tag."""
        require(state.tag == self._share.tag, f"the share {state.tag!r} is not {self._share.tag!r}: give it that tag")
        self._session.end()

    def close(self) -> None:
        """Close what the guest has open."""
        self._session.close()

    def notified(self, number: int, queue: Queue) -> None:
        """Do all that is asked, in order."""
        for chain in queue:
            queue.put(chain, self._serve(chain))

    def _serve(self, chain: Chain) -> int:
        """Do one request; how many bytes of its room are written."""
        ram = self.transport.ram
        message = chain.read(ram, 0, SHORT)
        if len(message) < HEADER.size:
            raise BrokenQueue("a request without its header")
        if len(message) == SHORT and HEADER.unpack_from(message)[1] != Operation.WRITE:
            message += chain.read(ram, SHORT, LONGEST - SHORT)
        buffers = ChainBuffers(ram, chain)
        answer, filled = self._session.answer(message, buffers)
        if len(answer) > buffers.room + ANSWER.size:
            raise BrokenQueue("a request without room for its answer")
        return chain.write(ram, 0, answer) + filled


def virtio_fs(share: Share) -> Maker:
    """A file system device with a share, which outlasts power cycles and is for its owner to close."""
    return virtio(lambda wiring: Fs(share))
