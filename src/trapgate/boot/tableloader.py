"""Hands the ACPI tables to firmware: as files, with a script that says where to put them and what to link.

Source: QEMU, hw/acpi/bios-linker-loader.c (the script's commands).

The firmware allocates room for each file, adds its address to each pointer that leads there, and sums up each table anew.
"""

import struct
from collections.abc import Iterator

from trapgate.boot import acpi

TABLES_FILE, ROOT_FILE, SCRIPT_FILE = "etc/acpi/tables", "etc/acpi/rsdp", "etc/table-loader"
ALLOCATE, ADD_POINTER, ADD_CHECKSUM = 1, 2, 3
HIGH, LOW = 1, 2  # zones: anywhere below 4 GiB; below 1 MiB, where a guest looks for the RSDP
COMMAND = 128  # bytes of one
NAME = 56
ROOT_ROOM = 64  # bytes of `acpi.build` before its tables
ROOT_LENGTH = 36
ENTRIES = 36  # offset of the first pointer of an RSDT or XSDT
CHECKSUM = 9  # offset of a table's checksum
FACS, DSDT, EXTENDED_DSDT = 36, 40, 140  # offsets of the FADT's pointers


def files(cpus: int, virtio: int) -> dict[str, bytes]:
    """The tables of a board with so many processors and virtio devices, its RSDP, and the script."""
    whole = acpi.build(-ROOT_ROOM, cpus, virtio)  # so a pointer holds the offset in the file of tables
    root, tables = whole[:ROOT_LENGTH], whole[ROOT_ROOM:]
    return {ROOT_FILE: root, TABLES_FILE: tables, SCRIPT_FILE: b"".join(_script(root, tables))}


def _script(root: bytes, tables: bytes) -> Iterator[bytes]:
    yield _command("<I56sIB", ALLOCATE, _name(TABLES_FILE), 64, HIGH)
    yield _command("<I56sIB", ALLOCATE, _name(ROOT_FILE), 16, LOW)
    changed = set[int]()  # tables with pointers in them, whose sums are others
    for at, size in _pointers(root, tables):
        yield _command("<I56s56sIB", ADD_POINTER, _name(TABLES_FILE), _name(TABLES_FILE), at, size)
        changed.add(max(start for start in _starts(root, tables) if start <= at))
    for start in sorted(changed):
        yield _checksum(TABLES_FILE, start + CHECKSUM, start, _u32(tables, start + 4))
    for at, size in ((16, 4), (24, 8)):
        yield _command("<I56s56sIB", ADD_POINTER, _name(ROOT_FILE), _name(TABLES_FILE), at, size)
    yield _checksum(ROOT_FILE, 8, 0, 20)
    yield _checksum(ROOT_FILE, 32, 0, ROOT_LENGTH)


def _roots(root: bytes) -> tuple[tuple[int, int], tuple[int, int]]:
    """(offset, bytes of an entry) of RSDT and XSDT."""
    return (_u32(root, 16), 4), (_u32(root, 24), 8)


def _listed(root: bytes, tables: bytes) -> Iterator[tuple[int, int]]:
    """(offset, size) of each entry of RSDT and XSDT."""
    for start, size in _roots(root):
        for at in range(start + ENTRIES, start + _u32(tables, start + 4), size):
            yield at, size


def _pointers(root: bytes, tables: bytes) -> Iterator[tuple[int, int]]:
    """(offset, size) of each pointer from one table to another."""
    yield from _listed(root, tables)
    for start in _starts(root, tables):
        if tables[start : start + 4] == b"FACP":
            yield from ((start + FACS, 4), (start + DSDT, 4), (start + EXTENDED_DSDT, 8))


def _starts(root: bytes, tables: bytes) -> list[int]:
    """Where the tables begin, less those that only the FADT names."""
    return sorted({*(start for start, _ in _roots(root)), *(_u32(tables, at) for at, _ in _listed(root, tables))})


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def _name(text: str) -> bytes:
    return text.encode("ascii").ljust(NAME, b"\0")


def _checksum(file: str, at: int, start: int, length: int) -> bytes:
    return _command("<I56sIII", ADD_CHECKSUM, _name(file), at, start, length)


def _command(form: str, *fields: int | bytes) -> bytes:
    return struct.pack(form, *fields).ljust(COMMAND, b"\0")
