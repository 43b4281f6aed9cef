"""Carries bytes between programs of the guest and callables of the host: a virtio console with several ports (virtio 1.2, 5.3)."""

import struct
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar

from trapgate.devices.parts import Maker, Wiring
from trapgate.devices.virtio.queue import BrokenQueue, Chain, Queue, length_of
from trapgate.devices.virtio.transport import Function, virtio
from trapgate.state import Length, Range, State, require
from trapgate.values import dataclass

MULTIPORT = 1 << 1  # feature
CONTROL = struct.Struct("<IHH")  # port, event, value
READY, ADD, PORT_READY, IS_CONSOLE, OPEN, NAME = 0, 1, 3, 4, 6, 7  # events
CONTROL_IN, CONTROL_OUT = 2, 3  # numbers of queues; those of port 0 come before, those of all other ports after them
ENTRIES = 64  # of each queue
MOST_PORTS = 16
MOST_WAITING = 16 + 4 * MOST_PORTS  # control messages that the driver has given no room for
AT_ONCE = 1 << 16  # bytes of output that are handed on together
GOES_ON, ENDING, ENDED = 0, 1, 2  # a port's input: all of it has arrived; the driver has it, and was told so


class ConsolePort:
    """The host's end of a port: `output` gets what the guest writes, on the machine's thread. Port 0 is the guest's hvc0.

    A `name` is what a program in the guest finds the port by: Linux shows it in /sys/class/virtio-ports. Once a machine has the
    port, all methods may be called from any thread.
    """

    def __init__(self, output: Callable[[bytes], None], name: str = "") -> None:
        self.output, self.name = output, name
        self.taken: Callable[[], None] = lambda: None
        """Called on the machine's thread when the guest has taken some of what was fed."""
        self.held = False
        """Whether the guest's output stays where it is: whoever writes there waits."""
        self._device: tuple[Console, int, Callable[[Callable[[], None]], None]] | None = None

    def lead_to(self, console: "Console", number: int, post: Callable[[Callable[[], None]], None]) -> None:
        """The device that it is a port of from now on; `post` has something done on the machine's thread."""
        self._device = console, number, post

    def feed(self, data: bytes) -> None:
        """Bytes arrive for the guest."""
        console, number, post = self._led
        post(lambda: console.feed(number, data))

    def end(self) -> None:
        """Nothing more will arrive, ever: who has read all in the guest then reads the end."""
        console, number, post = self._led
        post(lambda: console.end(number))

    def waiting(self) -> int:
        """How many bytes wait for the guest to make room for them."""
        console, number, _ = self._led
        return console.waiting(number)

    def hold(self, held: bool) -> None:
        """Leave the guest's output where it is, or take it again."""
        console, number, post = self._led
        self.held = held
        if not held:
            post(lambda: console.look(number))

    def drain(self) -> None:
        """Take what output waits, held or not, when nobody would take it later; on the machine's thread."""
        console, number, _ = self._led
        console.look(number, True)

    @property
    def _led(self) -> "tuple[Console, int, Callable[[Callable[[], None]], None]]":
        assert self._device is not None, "no machine has this port"
        return self._device


@dataclass(frozen=True, slots=True)
class ConsoleState(State):
    """Of each port, the input that waits, whether a program of the guest has it open, and whether its input ends.

    `control` are the control messages that wait.
    """

    waiting: Annotated[tuple[bytes, ...], Length(1, MOST_PORTS)]
    opened: Annotated[tuple[bool, ...], Length(1, MOST_PORTS)]
    ends: Annotated[tuple[Annotated[int, Range(GOES_ON, ENDED)], ...], Length(1, MOST_PORTS)]
    control: Annotated[tuple[bytes, ...], Length(0, MOST_WAITING)]


class Console(Function[ConsoleState]):
    """Two queues a port and two for control messages. A driver without MULTIPORT has port 0 alone."""

    kind: ClassVar[int] = 3
    features = MULTIPORT

    def __init__(self, ports: Sequence[ConsolePort]) -> None:
        assert 0 < len(ports) <= MOST_PORTS, len(ports)
        self._ports = ports
        self.queues = (ENTRIES,) * (2 * len(ports) + 2)
        self._waiting = [bytearray() for _ in ports]
        self._ends = [GOES_ON for _ in ports]
        self.reset()

    def reset(self) -> None:
        """No program has a port open; input waits on."""
        self._opened = [False] * len(self._ports)
        self._control: list[bytes] = []

    def configuration(self) -> bytes:
        """struct virtio_console_config: no size of a window, the number of ports."""
        return struct.pack("<HHII", 0, 0, len(self._ports), 0)

    def save(self) -> ConsoleState:
        """What waits, and what is open."""
        return ConsoleState(tuple(map(bytes, self._waiting)), tuple(self._opened), tuple(self._ends), tuple(self._control))

    def load(self, state: ConsoleState) -> None:
        """What waits, and what is open. StateError: there are not as many ports."""
        count = len(self._ports)
        require(len(state.waiting) == len(state.opened) == len(state.ends) == count, f"{len(state.waiting)} ports are not {count}")
        self._waiting = [bytearray(data) for data in state.waiting]
        self._opened, self._ends, self._control = list(state.opened), list(state.ends), list(state.control)

    def opened(self, port: int) -> bool:
        """Whether a program of the guest has a port open, as far as the driver tells."""
        return self._opened[port]

    def feed(self, port: int, data: bytes) -> None:
        """Bytes arrive for a port; on the machine's thread."""
        self._waiting[port] += data
        self.transport.work(lambda: self._fill(port))

    def end(self, port: int) -> None:
        """No more will arrive for a port; on the machine's thread."""
        if self._ends[port] == GOES_ON:
            self._ends[port] = ENDING
            self.transport.work(lambda: self._fill(port))

    def waiting(self, port: int) -> int:
        """How many bytes wait for room."""
        return len(self._waiting[port])

    def look(self, port: int, held: bool = False) -> None:
        """Take what output waits of a port that is held no more, or of one that still is; on the machine's thread."""
        if (queue := self.transport.queue(2 * port + 1 if port == 0 else 2 * port + 3)) is not None:
            self.transport.work(lambda: self._print(port, queue, held))

    # Queues

    def notified(self, number: int, queue: Queue) -> None:
        """There is output, room for input, or either of control messages."""
        if number == CONTROL_OUT:
            for chain in queue:
                self._told(chain.read(self.transport.ram, 0, CONTROL.size))
                queue.put(chain, 0)
            self._tell()
        elif number == CONTROL_IN:
            self._tell()
        else:
            port = number // 2 if number < CONTROL_IN else number // 2 - 1
            if number % 2:
                self._print(port, queue)
            else:
                self._fill(port)

    def _print(self, port: int, queue: Queue, held: bool = False) -> None:
        for chain in queue.chains(lambda: held or not self._ports[port].held):
            length = length_of(chain.readable)
            for at in range(0, length, AT_ONCE):
                self._ports[port].output(chain.read(self.transport.ram, at, AT_ONCE))
            queue.put(chain, 0)

    def _fill(self, port: int) -> None:
        """Move input to where the driver has room for it; to a port that no program has open Linux would lose it."""
        if self.transport.agreed(MULTIPORT) and not self._opened[port]:
            return
        queue = self.transport.queue(2 * port if port == 0 else 2 * port + 2)
        if queue is None:
            return
        waiting = self._waiting[port]
        before = len(waiting)
        for chain in queue.chains(lambda: bool(waiting)):
            self._into(queue, chain, bytes(waiting[: length_of(chain.writable)]))
            del waiting[: length_of(chain.writable)]
        if len(waiting) < before:
            self._ports[port].taken()
        if self._ends[port] == ENDING and not waiting:
            self._ends[port] = ENDED
            self._control.append(CONTROL.pack(port, OPEN, 0))
            self._tell()

    def _into(self, queue: Queue, chain: Chain, data: bytes) -> None:
        queue.put(chain, chain.write(self.transport.ram, 0, data))

    # Control messages

    def _told(self, message: bytes) -> None:
        """The driver says something."""
        if len(message) < CONTROL.size:
            raise BrokenQueue("a control message that is cut short")
        port, event, value = CONTROL.unpack(message)
        if event == READY:
            if value:
                self._control += [CONTROL.pack(number, ADD, 1) for number in range(len(self._ports))]
        elif port >= len(self._ports):
            raise BrokenQueue(f"a control message for port {port}, where there are {len(self._ports)}")
        elif event == PORT_READY and value:
            self._introduce(port)
        elif event == OPEN:
            self._opened[port] = bool(value)
            self._fill(port)
        if len(self._control) > MOST_WAITING:
            self._control.clear()
            raise BrokenQueue("more control messages wait than a driver that listens has to")

    def _introduce(self, port: int) -> None:
        """What a port is: port 0 a console, others by name; the host has all of them open whose input has not ended."""
        name = self._ports[port].name.encode()
        self._control += [CONTROL.pack(port, IS_CONSOLE, 1)] if port == 0 else []
        self._control += [CONTROL.pack(port, NAME, 1) + name] if name else []
        self._control.append(CONTROL.pack(port, OPEN, int(self._ends[port] != ENDED)))

    def _tell(self) -> None:
        queue = self.transport.queue(CONTROL_IN)
        if queue is None:
            return
        for chain in queue.chains(lambda: bool(self._control)):
            self._into(queue, chain, self._control.pop(0))


def virtio_console(*ports: ConsolePort) -> Maker:
    """A console device with these ports, 1 to 16 of them, which outlast power cycles."""

    def make(wiring: Wiring) -> Console:
        console = Console(ports)
        for number, port in enumerate(ports):
            port.lead_to(console, number, wiring.post)
        return console

    return virtio(make)
