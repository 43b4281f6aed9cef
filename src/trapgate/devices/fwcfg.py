"""Answers what guests made for QEMU ask of its firmware configuration device, by bytes or by DMA (QEMU, docs/specs/fw_cfg.rst)."""

import struct
from collections.abc import Mapping
from typing import Annotated

from trapgate.arch import fwcfg as keys
from trapgate.devices.dma import Dma
from trapgate.devices.parts import Part
from trapgate.memory import RamError
from trapgate.state import U16, U32, Length, State
from trapgate.values import dataclass

SELECTOR, DATA, DMA_HIGH, DMA_LOW = 0, 1, 4, 8  # offsets of the ports
LENGTH = 12
DMA_SIGNATURE = b"QEMU CFG"  # what the DMA address reads as
ERROR, READ, SKIP, SELECT, WRITE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4  # control word of a transfer
WRITE_CHANNEL = 1 << 14  # a bit of a key that means nothing any more
TRANSFER = struct.Struct(">IIQ")  # control, length, address
ENTRY = struct.Struct(">IHH56s")  # of the file directory: size, key, nothing, name
NAME_LENGTH = 55
ZEROS = bytes(1 << 16)  # written at once where an item has ended


@dataclass(frozen=True, slots=True)
class FwCfgState(State):
    """The selected key, how far it has been read, the upper half of the DMA address; all items and files."""

    key: U16
    offset: U32
    high: U32
    items: tuple[tuple[U16, bytes], ...]
    files: Annotated[tuple[tuple[str, bytes], ...], Length(0, keys.MOST_FILES)]


class FwCfg(Part[FwCfgState]):
    """Items by key, files by name. None can be written."""

    def __init__(self, ram: Dma) -> None:
        self._ram = ram
        self._items: dict[int, bytes | memoryview] = {keys.SIGNATURE: b"QEMU", keys.ID: _number(keys.TRADITIONAL | keys.DMA, 4)}
        self._files: dict[str, bytes] = {}
        self._key = self._offset = self._high = 0
        self._index()

    def put(self, items: Mapping[int, bytes | memoryview]) -> None:
        """Have items under these keys. A memoryview is not copied: its bytes stay as they are."""
        self._items |= items
        self._index()

    def put_file(self, name: str, data: bytes) -> None:
        """Have a file of a name (ASCII, 55 bytes at most)."""
        assert len(name.encode("ascii")) <= NAME_LENGTH, name
        assert name in self._files or len(self._files) < keys.MOST_FILES, "as many files as there can be"
        self._files[name] = data
        self._index()

    def _index(self) -> None:
        """All items by key, files and their directory among them."""
        numbered = [(keys.FIRST_FILE + number, name, data) for number, (name, data) in enumerate(self._files.items())]
        entries = [ENTRY.pack(len(data), key, 0, name.encode("ascii")) for key, name, data in numbered]
        directory = len(entries).to_bytes(4, "big") + b"".join(entries)
        self._all: dict[int, bytes | memoryview] = {**self._items, keys.FILE_DIRECTORY: directory}
        self._all |= {key: data for key, _, data in numbered}

    def save(self) -> FwCfgState:
        """Registers, items and files."""
        items = tuple((key, bytes(data)) for key, data in self._items.items())
        return FwCfgState(self._key, self._offset, self._high, items, tuple(self._files.items()))

    def load(self, state: FwCfgState) -> None:
        """Registers, items and files."""
        self._key, self._offset, self._high = state.key, state.offset, state.high
        self._items, self._files = dict(state.items), dict(state.files)
        self._index()

    # Byte by byte

    def _select(self, key: int) -> None:
        self._key, self._offset = key & ~WRITE_CHANNEL, 0

    def _take(self, length: int) -> bytes | memoryview:
        """What is left of the selected item, up to a length; nothing where it has ended, or there is none."""
        data = self._all.get(self._key, b"")[self._offset : self._offset + length]
        self._offset += len(data)
        return data

    def read(self, offset: int, size: int) -> int:
        """The next byte of the selected item, 0 behind its end; the signature at the DMA address; all ones elsewhere."""
        if offset == DATA and size == 1:
            return (self._take(1) or b"\0")[0]
        if offset >= DMA_HIGH:
            return int.from_bytes(DMA_SIGNATURE[offset - DMA_HIGH :][:size].ljust(size, b"\xff"), "little")
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Select an item, or begin a transfer by the lower half of its address. Both halves are big-endian."""
        if (offset, size) == (SELECTOR, 2):
            self._select(value)
        elif (offset, size) == (DMA_HIGH, 4):
            self._high = _swapped(value)
        elif (offset, size) == (DMA_LOW, 4):
            address, self._high = self._high << 32 | _swapped(value), 0
            self._transfer(address)

    # By DMA

    def _transfer(self, at: int) -> None:
        """Do what the structure at a guest-physical address asks; its control word tells how it went. Nothing where no RAM is."""
        if not self._ram.contains(at, TRANSFER.size):
            return
        control, length, address = self._ram.unpack(TRANSFER, at)
        if control & SELECT:
            self._select(control >> 16)
        done = True
        if control & READ:
            done = self._read_to(address, length)
        elif control & WRITE:
            done = not length
        elif control & SKIP:
            self._take(length)
        self._ram.write(at, (0 if done else ERROR).to_bytes(4, "big"))

    def _read_to(self, address: int, length: int) -> bool:
        """Put the next bytes of the selected item into RAM, zeros behind its end. False, and nothing is done: it is not RAM."""
        try:
            with self._ram.fill(address, length) as place:
                data = self._take(length)
                place[: len(data)] = data
                for at in range(len(data), length, len(ZEROS)):
                    part = place[at : at + len(ZEROS)]
                    part[:] = ZEROS[: len(part)]
        except RamError:
            return False
        return True


def _number(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


def _swapped(value: int) -> int:
    return int.from_bytes(value.to_bytes(4, "little"), "big")


def of_the_machine(ram: int, cpus: int) -> dict[int, bytes]:
    """The items of a machine with so many bytes of RAM and so many CPUs."""
    return {
        keys.RAM_SIZE: _number(ram, 8),
        keys.NO_GRAPHICS: _number(1, 2),
        keys.CPUS: _number(cpus, 2),
        keys.MOST_CPUS: _number(cpus, 2),
        keys.IRQ0_OVERRIDE: _number(1, 4),
    }


def memory_map(regions: list[tuple[int, int]]) -> bytes:
    """The file that says where RAM is, by the (start, end) of each range: entries of address, size and kind, 1 for RAM."""
    return b"".join(struct.pack("<QQI", start, end - start, 1) for start, end in regions)
