"""Parts: the devices of a machine, its own and its owner's alike, and the wiring that each is made with."""

from collections.abc import Callable
from typing import Any, Generic, TypeAlias, TypeVar

from trapgate.arch import layout
from trapgate.bus import Bus, BusConflict, Device
from trapgate.clock import Clock
from trapgate.devices.dma import Dma
from trapgate.devices.interrupts import Interrupts
from trapgate.devices.lines import Line
from trapgate.state import State, StateError
from trapgate.values import dataclass

S = TypeVar("S", bound=State)


class Part(Generic[S]):
    """A device of a machine, made when it is switched on, and anew at each power cycle.

    One that says its state, `save` and `load`, can be in a snapshot of its machine; the rules are those of `trapgate.state`.
    """

    def save(self) -> S:
        """Its state. StateError: it has none to say."""
        raise StateError(f"the device {type(self).__name__} cannot be saved: it has no method `save`")

    def load(self, state: S) -> None:
        """Be as the one saved was. StateError, and nothing is changed: the state does not fit."""
        raise StateError(f"the device {type(self).__name__} cannot be loaded: it has no method `load`")

    def close(self) -> None:
        """The machine has let go of it, and calls it no more: for one that holds something of the host."""


@dataclass(frozen=True, slots=True)
class NoState(State):
    """The state of a part that remembers nothing."""


class Stateless(Part[NoState]):
    """A part that remembers nothing of what the guest did to it."""

    def save(self) -> NoState:
        """Nothing."""
        return NoState()

    def load(self, state: NoState) -> None:
        """Nothing to do."""


@dataclass(frozen=True, slots=True)
class Switches:
    """What a guest can do to the machine as a whole."""

    leave: Callable[[int], None]  # an exit port was written: the status
    power_off: Callable[[], None]
    reset: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Surface:
    """What of a machine its parts touch."""

    clock: Clock
    ram: Dma
    post: Callable[[Callable[[], None]], None]
    switches: Switches
    wall_start: int
    """ns since 1970 (UTC) at guest time 0."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Addresses of a bus that a device answers."""

    bus: Bus
    start: int
    length: int
    device: Device


class Wiring:
    """All that a part can reach. What it asks for here is what it is capable of: addresses, interrupt lines, RAM, time, switches.

    It answers at its addresses once it is made; no sooner.
    """

    def __init__(self, ports: Bus, mmio: Bus, interrupts: Interrupts, surface: Surface, virtio: int = 0) -> None:
        self._ports, self._mmio, self._interrupts = ports, mmio, interrupts
        self.virtio = virtio
        """How many virtio devices there are."""
        self._surface = surface
        self.claims: list[Claim] = []

    def ports(self, start: int, length: int, device: Device) -> None:
        """Have a device, the part itself or one of several that it consists of, answer at ports."""
        self.claims.append(Claim(self._ports, start, length, device))

    def memory(self, start: int, length: int, device: Device) -> None:
        """Have a device answer at guest-physical addresses. BusConflict where RAM is: nobody is asked there."""
        if self.ram.overlaps(start, length):
            raise BusConflict(f"{start:#x}+{length:#x} is RAM: no device is asked there")
        self.claims.append(Claim(self._mmio, start, length, device))

    def virtio_place(self) -> tuple[int, int]:
        """Where the next virtio device answers, and its interrupt line. BusConflict: there are as many as there can be."""
        if self.virtio >= layout.VIRTIO_MOST:
            raise BusConflict(f"there can be {layout.VIRTIO_MOST} virtio devices")
        number, self.virtio = self.virtio, self.virtio + 1
        return layout.VIRTIO_BASE + number * layout.PAGE_BYTES, layout.VIRTIO_GSI + number

    def line(self, number: int) -> Line:
        """An interrupt line, ISA 0 to 15 or GSI to 23: called with True it is asserted, with False withdrawn. ValueError."""
        return self._interrupts.line(number)

    @property
    def cpus(self) -> int:
        """How many processors there are."""
        return len(self._interrupts.lapics)

    @property
    def ram(self) -> Dma:
        """Guest RAM."""
        return self._surface.ram

    @property
    def clock(self) -> Clock:
        """Guest time, and timers."""
        return self._surface.clock

    @property
    def wall_start(self) -> int:
        """What the world's clock says at guest time 0, in ns since 1970 (UTC)."""
        return self._surface.wall_start

    @property
    def post(self) -> Callable[[Callable[[], None]], None]:
        """Has a callable run soon on the machine's thread; for any thread. All else here is for the machine's thread alone."""
        return self._surface.post

    @property
    def switches(self) -> Switches:
        """Ends of the run."""
        return self._surface.switches


AnyPart: TypeAlias = Part[Any]
P = TypeVar("P", bound=AnyPart)
Maker: TypeAlias = Callable[[Wiring], AnyPart]
"""Makes a part: its class, where `__init__` takes a Wiring and nothing else, or a function."""
