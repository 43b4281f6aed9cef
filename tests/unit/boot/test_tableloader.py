"""The ACPI tables as firmware gets them: what its script makes of the files, at any place, is what `acpi.build` makes there."""

import struct

import pytest

from trapgate.boot import acpi, tableloader


def linked(files: dict[str, bytes], places: dict[str, int]) -> dict[str, bytearray]:
    """What firmware does with the script: allocate, link, sum up (QEMU, hw/acpi/bios-linker-loader.c has the layout)."""
    script, made = files[tableloader.SCRIPT_FILE], dict[str, bytearray]()
    assert len(script) % 128 == 0

    def text(command: bytes, at: int) -> str:
        return command[at : at + 56].rstrip(b"\0").decode()

    for start in range(0, len(script), 128):
        command = script[start : start + 128]
        kind, name = int.from_bytes(command[:4], "little"), text(command, 4)
        if kind == 1:
            align, zone = struct.unpack_from("<IB", command, 60)
            assert places[name] % align == 0
            assert zone in (1, 2)
            made[name] = bytearray(files[name])
        elif kind == 2:
            other, (at, size) = text(command, 60), struct.unpack_from("<IB", command, 116)
            value = int.from_bytes(made[name][at : at + size], "little") + places[other]
            made[name][at : at + size] = value.to_bytes(size, "little")
        else:
            assert kind == 3
            at, first, length = struct.unpack_from("<III", command, 60)
            made[name][at] = made[name][at] - sum(made[name][first : first + length]) & 0xFF
    return made


@pytest.mark.parametrize(("cpus", "virtio"), [(1, 0), (4, 3), (64, 8)])
def test_linked_tables_are_those_built_at_their_place(cpus: int, virtio: int) -> None:
    files = tableloader.files(cpus, virtio)
    base = 0x7FE_0000
    made = linked(files, {tableloader.TABLES_FILE: base + tableloader.ROOT_ROOM, tableloader.ROOT_FILE: 0xF_5A00})
    whole = acpi.build(base, cpus, virtio)
    assert bytes(made[tableloader.TABLES_FILE]) == whole[tableloader.ROOT_ROOM :]
    assert bytes(made[tableloader.ROOT_FILE]) == whole[: tableloader.ROOT_LENGTH]
