"""Carries Ethernet frames between a guest and a callable, without offloads: a virtio network device (virtio 1.2, 5.1)."""

import struct
from collections import deque
from collections.abc import Callable
from typing import Annotated, ClassVar

from trapgate.devices.parts import Maker, Wiring
from trapgate.devices.virtio.queue import BrokenQueue, Chain, Queue, length_of
from trapgate.devices.virtio.transport import Function, virtio
from trapgate.state import Length, State
from trapgate.values import dataclass

MAC, MERGED, STATUS = 1 << 5, 1 << 15, 1 << 16  # features; MERGED: a frame may take several buffers (MRG_RXBUF)
HEADER = struct.Struct("<BBHHHHH")  # flags, kind and sizes of offloads, of which there are none; buffers that a frame takes
LINK_UP = 1 << 0  # of the configuration's status
RECEIVE, SEND = 0, 1  # numbers of queues
ENTRIES = 256  # of each
LEAST_FRAME, MOST_FRAME = 14, 65535 + 18  # bytes: a header; the longest packet with a header and a VLAN tag
MOST_WAITING = 1 << 20  # bytes that wait for the guest: what comes then is lost, as networks lose frames
MOST_FRAMES = 4096  # the same, by number
ADDRESS = bytes.fromhex("025450000001")  # of the guest's end: administered locally


class NetworkPort:
    """The host's end of a network device: `output` gets each Ethernet frame that the guest sends, on the machine's thread.

    Once a machine has the port, all methods may be called from any thread.
    """

    def __init__(self, output: Callable[[bytes], None]) -> None:
        self.output = output
        self.taken: Callable[[], None] = lambda: None
        """Called on the machine's thread when the guest has taken some of what was fed."""
        self.up = True
        """Whether the guest sees a link."""
        self._fed = self._done = 0  # bytes: the one is written by who feeds, the other by the machine's thread
        self._device: tuple[Net, Callable[[Callable[[], None]], None]] | None = None

    def lead_to(self, net: "Net", post: Callable[[Callable[[], None]], None]) -> None:
        """The device that it is the port of from now on; `post` has something done on the machine's thread."""
        self._done, self._device = self._fed, (net, post)

    def feed(self, frame: bytes) -> None:
        """A frame arrives, without its checksum. One thread at a time feeds; behind a MiB that waits frames are lost."""
        if self._device is None or not self.up or not LEAST_FRAME <= len(frame) <= MOST_FRAME or self.waiting() > MOST_WAITING:
            return
        self._fed += len(frame)
        net, post = self._device
        post(lambda: net.feed(frame))

    def waiting(self) -> int:
        """How many bytes the guest has not taken yet."""
        return self._fed - self._done

    def done(self, length: int) -> None:
        """The guest has taken so many of them, or they are lost; on the machine's thread."""
        self._done += length
        self.taken()

    def link(self, up: bool) -> None:
        """Plug the cable in, or out."""
        self.up = up
        if self._device is not None:
            net, post = self._device
            post(net.link_changed)


@dataclass(frozen=True, slots=True)
class NetState(State):
    """The frames that wait for the guest."""

    waiting: Annotated[tuple[bytes, ...], Length(0, MOST_FRAMES)]


class Net(Function[NetState]):
    """A queue to receive and one to send."""

    kind: ClassVar[int] = 1
    features = MAC | MERGED | STATUS
    queues = (ENTRIES, ENTRIES)

    def __init__(self, port: NetworkPort) -> None:
        self._port = port
        self._waiting = deque[bytes]()

    def configuration(self) -> bytes:
        """struct virtio_net_config, as far as the features go (5.1.4)."""
        return struct.pack("<6sH", ADDRESS, LINK_UP if self._port.up else 0)

    def reset(self) -> None:
        """What waits is lost."""
        self._port.done(sum(map(len, self._waiting)))
        self._waiting.clear()

    def save(self) -> NetState:
        """What waits; what is under way in the network behind is lost, or comes later."""
        return NetState(tuple(self._waiting))

    def load(self, state: NetState) -> None:
        """What waits."""
        self.reset()
        self._waiting.extend(state.waiting)

    def link_changed(self) -> None:
        """The cable is in, or out; on the machine's thread."""
        self.transport.changed()

    def feed(self, frame: bytes) -> None:
        """A frame arrives; on the machine's thread."""
        if len(self._waiting) >= MOST_FRAMES:
            self._port.done(len(frame))
            return
        self._waiting.append(frame)
        self.transport.work(self._fill)

    def notified(self, number: int, queue: Queue) -> None:
        """There are frames to send, or buffers for those that wait."""
        if number == RECEIVE:
            self._fill()
            return
        for chain in queue:
            frame = chain.read(self.transport.ram, HEADER.size, MOST_FRAME)
            if self._port.up and LEAST_FRAME <= len(frame) < MOST_FRAME:
                self._port.output(frame)
            queue.put(chain, 0)

    def _fill(self) -> None:
        """Hand the driver what waits, as far as it has given buffers."""
        queue = self.transport.queue(RECEIVE)
        while queue is not None and self._waiting:
            frame = self._waiting[0]
            chains = self._chains(queue, HEADER.size + len(frame))
            if chains is None:
                return
            data, at = HEADER.pack(0, 0, 0, 0, 0, 0, len(chains)) + frame, 0
            for chain in chains:
                at += (written := chain.write(self.transport.ram, 0, data[at : at + length_of(chain.writable)]))
                queue.put(chain, written)
            self._waiting.popleft()
            self._port.done(len(frame))

    def _chains(self, queue: Queue, length: int) -> list[Chain] | None:
        """Buffers with room for so many bytes, one unless the driver merges; None, and none is taken: there are too few yet.

        A frame that one buffer has no room for is cut, as the driver has it who gave such a buffer.
        """
        chains, room = list[Chain](), 0
        while room < length and (not chains or self.transport.agreed(MERGED)):
            chain = queue.take()
            if chain is None:
                queue.untake(len(chains))
                return None
            if length_of(chain.writable) < HEADER.size:
                raise BrokenQueue("a buffer without room for the header of a frame")
            chains.append(chain)
            room += length_of(chain.writable)
        return chains


def virtio_net(port: NetworkPort) -> Maker:
    """A network device with a port, which outlasts power cycles."""

    def make(wiring: Wiring) -> Net:
        net = Net(port)
        port.lead_to(net, wiring.post)
        return net

    return virtio(make)
