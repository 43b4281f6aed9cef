"""Answers what the guest reads and writes at ports and where no RAM is; a device that fails makes a stop, not an error."""

from collections.abc import Callable, Sequence

from trapgate.bus import Device
from trapgate.devices.board import Board
from trapgate.devices.lapic import LocalApic
from trapgate.devices.parts import Maker, P, Wiring
from trapgate.stops import DeviceFault, PortAccessed
from trapgate.values import dataclass

Access = tuple[Device, int]  # who answers, at which of its offsets


@dataclass(frozen=True, slots=True, eq=False)
class Watch:
    """Somebody who is told of accesses to ports. What `call` raises is a failure of the device."""

    ports: range
    call: Callable[[PortAccessed], None]


class _Watched:
    """A port whose accesses are told, with whoever answers there."""

    def __init__(self, found: Access | None, port: int, calls: Sequence[Callable[[PortAccessed], None]]) -> None:
        self._found, self._port, self._calls = found, port, calls

    def read(self, offset: int, size: int) -> int:
        mask = (1 << 8 * size) - 1
        value = mask if self._found is None else self._found[0].read(self._found[1], size) & mask
        self._tell(PortAccessed(self._port, size, value, write=False))
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        if self._found is not None:
            self._found[0].write(self._found[1], size, value)
        self._tell(PortAccessed(self._port, size, value, write=True))

    def _tell(self, access: PortAccessed) -> None:
        for call in self._calls:
            call(access)


class Added:
    """What the owner of a machine adds to its board: parts, and who is told of ports."""

    def __init__(self) -> None:
        self._board: Board
        self._makers: list[Maker] = []
        self._watches: list[Watch] = []
        self._followers: list[Callable[[], None]] = []

    def connect(self, board: Board) -> None:
        """Another board: what was added is on it, too, and nobody follows yet."""
        self._board = board
        self._followers.clear()
        for make in self._makers:
            board.add(make)

    def follow(self, changed: Callable[[], None]) -> None:
        """Have somebody called when what answers, or who is told, changes."""
        self._followers.append(changed)

    def add(self, make: Callable[[Wiring], P]) -> P:
        """Make another part, now and at each power cycle. BusConflict: something else is at its addresses."""
        part = self._board.add(make)
        self._makers.append(make)
        self._changed()
        return part

    def watch(self, watch: Watch) -> None:
        """Tell somebody of accesses to ports, after they are answered."""
        self._watches.append(watch)
        self._changed()

    def unwatch(self, watch: Watch) -> None:
        """Tell them no more."""
        self._watches.remove(watch)
        self._changed()

    def watching(self, port: int) -> list[Callable[[PortAccessed], None]]:
        """Who is told of a port."""
        return [watch.call for watch in self._watches if port in watch.ports]

    def _changed(self) -> None:
        for changed in self._followers:
            changed()


class _Answering(dict[int, Access | None]):
    """Who answers each port; remembered, for the ports in use are few and hot."""

    def __init__(self, find: Callable[[int], Access | None]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, port: int) -> Access | None:
        found = self[port] = self._find(port)
        return found


class Accesses:
    """The devices of a board and a local APIC by port and by guest-physical address. Sizes are 1, 2, 4 or 8 bytes.

    Where nobody answers, reads give all ones and writes are lost; so they are where a device fails, and `fault` tells of that.
    """

    def __init__(self, board: Board, lapic: LocalApic, added: Added) -> None:
        self._board, self._lapic, self._added = board, lapic, added
        self._ports = _Answering(self._find)
        self._registers: dict[int, Access] = {}
        self.fault: DeviceFault | None = None
        """The last failure of a device; for whoever deals with it to make None."""
        added.follow(self._forget)

    def _forget(self) -> None:
        self._ports.clear()
        self._registers.clear()

    def port_read(self, port: int, size: int) -> int:
        """What a port answers, cut to `size` bytes."""
        return self._read(self._ports[port], size, "port", port)

    def port_write(self, port: int, size: int, value: int) -> None:
        """Hand a value to a port."""
        self._write(self._ports[port], size, value, "port", port)

    def memory_read(self, address: int, size: int) -> int:
        """What a guest-physical address answers, cut to `size` bytes."""
        return self._read(self._memory_mapped(address), size, "address", address)

    def memory_write(self, address: int, size: int, value: int) -> None:
        """Hand a value to a guest-physical address."""
        self._write(self._memory_mapped(address), size, value, "address", address)

    def _find(self, port: int) -> Access | None:
        found = self._board.ports.find(port)
        if calls := self._added.watching(port):
            found = _Watched(found, port, calls), 0
        return found

    def _memory_mapped(self, address: int) -> Access | None:
        page = self._lapic.page
        if page is not None and address & ~0xFFF == page:
            return self._lapic, address & 0xFFF
        try:
            return self._registers[address]
        except KeyError:
            found = self._board.mmio.find(address)
            if found is not None:  # where nobody answers is not remembered: there is no end of such addresses
                self._registers[address] = found
            return found

    def _read(self, found: Access | None, size: int, space: str, address: int) -> int:
        mask = (1 << 8 * size) - 1
        if found is not None:
            device, offset = found
            try:
                return device.read(offset, size) & mask
            except Exception as error:
                self.fault = failed(type(device).__name__, f"at {space} {address:#x} (read of {size} bytes)", error)
        return mask

    def _write(self, found: Access | None, size: int, value: int, space: str, address: int) -> None:
        if found is not None:
            device, offset = found
            try:
                device.write(offset, size, value)
            except Exception as error:
                where = f"at {space} {address:#x} (write of {value:#x}, {size} bytes)"
                self.fault = failed(type(device).__name__, where, error)


def failed(who: str, where: str, error: Exception) -> DeviceFault:
    """The stop for a device whose code raised an error."""
    return DeviceFault(f"device {who} failed {where}: {type(error).__name__}: {error}", error)


def culprit(error: Exception) -> str | None:
    """The device whose code an exception came through, by the traceback; None when there is none."""
    place = error.__traceback__
    while place is not None:
        if place.tb_frame.f_globals.get("__name__", "").startswith("trapgate.devices."):
            return place.tb_frame.f_code.co_qualname
        place = place.tb_next
    return None
