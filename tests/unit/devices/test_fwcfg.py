"""fw_cfg asked for what cannot be, and what a plan puts there; `tests/programs/long_fwcfg.S` asks as guests do."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapgate.arch import fwcfg as keys
from trapgate.boot import BootOptions, BootPlan, fwcfg, plan_boot
from trapgate.boot.image import Image
from trapgate.boot.plan import Piece, protected32
from trapgate.devices.dma import Dma
from trapgate.devices.fwcfg import (
    DATA,
    DMA_HIGH,
    DMA_LOW,
    ERROR,
    READ,
    SELECT,
    SELECTOR,
    SKIP,
    WRITE,
    FwCfg,
    memory_map,
    of_the_machine,
)
from trapgate.memory import HOLE_END, HOLE_START, Ram

RAM = Ram(HOLE_START + (1 << 20))
REQUEST = 0x8000


@pytest.fixture
def device() -> FwCfg:
    made = FwCfg(Dma(RAM))
    made.put({keys.COMMAND_LINE_DATA: b"quiet\0"})
    return made


def item(device: FwCfg, key: int, length: int) -> bytes:
    device.write(SELECTOR, 2, key)
    return bytes(device.read(DATA, 1) for _ in range(length))


def transfer(device: FwCfg, control: int, length: int, address: int, at: int = REQUEST) -> int:
    """The control word after a request."""
    if RAM.contains(at, 16):
        RAM.write(at, struct.pack(">IIQ", control, length, address))
    for offset, half in ((DMA_HIGH, at >> 32), (DMA_LOW, at & 0xFFFF_FFFF)):
        device.write(offset, 4, int.from_bytes(half.to_bytes(4, "big"), "little"))
    return int.from_bytes(RAM.read(at, 4), "big") if RAM.contains(at, 4) else -1


def test_a_request_above_4_gib(device: FwCfg) -> None:
    assert transfer(device, keys.COMMAND_LINE_DATA << 16 | SELECT | READ, 6, HOLE_END + 16, at=HOLE_END + 64) == 0
    assert RAM.read(HOLE_END + 16, 6) == b"quiet\0"
    assert transfer(device, SELECT | READ, 4, 0x100) == 0  # the upper half of the address is 0 again
    assert RAM.read(0x100, 4) == b"QEMU"


@pytest.mark.parametrize("address", [HOLE_START - 3, HOLE_START, HOLE_END - 4, (1 << 64) - 1, RAM.high_end - 3])
def test_bytes_that_would_go_where_no_ram_is(device: FwCfg, address: int) -> None:
    assert transfer(device, SELECT | READ, 4, address) == ERROR
    assert transfer(device, READ, 4, 0x100) == 0
    assert RAM.read(0x100, 4) == b"QEMU"  # nothing was taken of the item


@pytest.mark.parametrize("at", [HOLE_START - 15, HOLE_START, (1 << 64) - 8])
def test_a_request_that_is_not_in_ram(device: FwCfg, at: int) -> None:
    RAM.write(HOLE_START - 16, b"\0" + struct.pack(">IIQ", SELECT | READ, 4, 0x200)[:15])
    RAM.write(0x200, bytes(4))
    assert transfer(device, SELECT | READ, 4, 0x200, at) in (-1, SELECT | READ)
    assert RAM.read(0x200, 4) == bytes(4)


def test_a_long_read_is_zeros_to_its_end(device: FwCfg) -> None:
    RAM.write(0x10_0000, b"\xff" * (300_000 + 1))
    assert transfer(device, keys.COMMAND_LINE_DATA << 16 | SELECT | READ, 300_000, 0x10_0000) == 0
    assert RAM.read(0x10_0000, 300_001) == b"quiet".ljust(300_000, b"\0") + b"\xff"


@given(st.integers(0, 0xFFFF_FFFF), st.integers(0, 0xFFFF_FFFF), st.integers(0, (1 << 64) - 1))
def test_whatever_is_asked_has_an_end(control: int, length: int, address: int) -> None:
    device = FwCfg(Dma(RAM))
    length = length if control & READ and not RAM.contains(address, length) else length & 0xFFFF
    left = transfer(device, control, length, address)
    wrong = control & WRITE and length if not control & READ else not RAM.contains(address, length)
    assert left == (ERROR if wrong and control & (READ | WRITE) else 0)
    assert item(device, keys.SIGNATURE, 5) == b"QEMU\0"


def test_skipping_beyond_the_end(device: FwCfg) -> None:
    assert transfer(device, keys.COMMAND_LINE_DATA << 16 | SELECT | SKIP, 0xFFFF_FFFF, 0) == 0
    assert device.read(DATA, 1) == 0
    assert device.save().offset == 6


def test_what_a_machine_says_of_itself() -> None:
    items = of_the_machine(RAM.size, 3)
    assert int.from_bytes(items[keys.RAM_SIZE], "little") == HOLE_START + (1 << 20)
    assert items[keys.CPUS] == items[keys.MOST_CPUS] == b"\3\0"
    entries = struct.iter_unpack("<QQI", memory_map(list(RAM.regions())))
    assert list(entries) == [(0, HOLE_START, 1), (HOLE_END, 1 << 20, 1)]


def test_files_have_keys_and_a_directory(device: FwCfg) -> None:
    device.put_file("etc/one", b"1")
    device.put_file("opt/two", b"22")
    device.put_file("etc/one", b"one")
    directory = item(device, keys.FILE_DIRECTORY, 4 + 2 * 64)
    assert directory[:4] == b"\0\0\0\2"
    entries = [struct.unpack_from(">IHH56s", directory, at) for at in (4, 68)]
    assert [(size, name.rstrip(b"\0")) for size, _, _, name in entries] == [(3, b"etc/one"), (2, b"opt/two")]
    assert [item(device, key, 4) for _, key, _, _ in entries] == [b"one\0", b"22\0\0"]


def test_what_is_known_of_a_guest() -> None:
    pieces = (Piece(0x10_0000, b"code", "kernel"), Piece(0x7000, b"quiet\0", "command line"), Piece(0x9000, b"x", "GDT"))
    items = fwcfg.items(BootPlan("a kernel", pieces, protected32(0x10_0020, {}, 0x9000), ()))
    numbers = {key: int.from_bytes(items[key], "little") for key in items if key not in (keys.KERNEL_DATA, keys.COMMAND_LINE_DATA)}
    assert numbers == {
        keys.KERNEL_ADDRESS: 0x10_0000, keys.KERNEL_SIZE: 4, keys.KERNEL_ENTRY: 0x10_0020,
        keys.COMMAND_LINE_ADDRESS: 0x7000, keys.COMMAND_LINE_SIZE: 6,
    }  # fmt: skip
    assert (items[keys.KERNEL_DATA], items[keys.COMMAND_LINE_DATA]) == (b"code", b"quiet\0")
    flat = plan_boot(Image(b"\xf4"), BootOptions(((0, 1 << 20),)))
    assert set(fwcfg.items(flat)) == {keys.KERNEL_ENTRY}
