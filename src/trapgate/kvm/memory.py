"""Maps guest memory on KVM: slots from RAM, and INT3 bytes of software breakpoints, which nobody but the CPU sees."""

from collections.abc import Callable, Iterable

from trapgate.arch import layout
from trapgate.kvm.handles import Vm
from trapgate.memory import Ram

INT3 = b"\xcc"


def map_ram(vm: Vm, ram: Ram) -> None:
    """Each range of RAM becomes a memory slot on RAM's own mapping: both engines, loaders and devices see the same bytes.

    One more, read-only, has the end of the first 4 GiB read as that of the first MiB, for firmware; writes there are a device's.
    """
    regions = tuple(ram.regions())
    for slot, (start, end) in enumerate(regions):
        vm.set_memory(slot, start, end - start, ram.host_address(start, end - start))
    if ram.contains(layout.MIRRORED_BASE, layout.MIRROR_LENGTH):
        place = ram.host_address(layout.MIRRORED_BASE, layout.MIRROR_LENGTH)
        vm.set_memory(len(regions), layout.MIRROR_BASE, layout.MIRROR_LENGTH, place, read_only=True)


class Planted:
    """INT3 bytes in guest memory, by linear address wanted and by physical address planted.

    An address that nothing is mapped at yet waits: `plant` is called again before each run. A byte that the guest wrote over is the
    guest's: it is neither restored nor hidden, and planted anew.
    """

    def __init__(self, ram: Ram, translate: Callable[[int], int | None]) -> None:
        self._ram, self._translate = ram, translate
        self._wanted: tuple[int, ...] = ()
        self._bytes: dict[int, bytes] = {}  # physical address: what was there

    def __bool__(self) -> bool:
        return bool(self._wanted)

    def want(self, addresses: Iterable[int]) -> None:
        """The linear addresses of all software breakpoints from now on."""
        wanted = tuple(addresses)
        if wanted != self._wanted:
            self.lift()
            self._wanted = wanted

    def plant(self, but: int | None = None) -> None:
        """Put every INT3 that can be put, but the one at linear address `but`."""
        if not self._wanted:
            return
        avoid = None if but is None else self._translate(but)
        for address in self._wanted:
            physical = self._translate(address)
            if physical is None or physical == avoid or not self._ram.contains(physical):
                continue
            here = self._ram.read(physical, 1)
            if here != INT3 or physical not in self._bytes:
                self._bytes[physical] = here
                self._ram.write(physical, INT3)

    def lift(self) -> None:
        """Restore every byte."""
        for physical, byte in self._bytes.items():
            if self._ram.read(physical, 1) == INT3:
                self._ram.write(physical, byte)
        self._bytes.clear()

    def planted(self, physical: int) -> bool:
        """Whether the INT3 at a physical address is ours."""
        return physical in self._bytes

    def hide(self, physical: int, data: bytes) -> bytes:
        """What the guest has at a physical address, given what is there."""
        if not self._bytes:
            return data
        clean = bytearray(data)
        for address, byte in self._bytes.items():
            at = address - physical
            if 0 <= at < len(clean) and clean[at] == INT3[0]:
                clean[at : at + 1] = byte
        return bytes(clean)

    def overwrite(self, physical: int, data: bytes) -> bytes:
        """The debugger writes over guest memory: what to store so that INT3 bytes stay, the new bytes kept for later."""
        kept = bytearray(data)
        for address in self._bytes:
            at = address - physical
            if 0 <= at < len(kept):
                self._bytes[address] = bytes(kept[at : at + 1])
                kept[at] = INT3[0]
        return bytes(kept)
