"""Makes images of CDs: a directory with files, and what El Torito says is to be started (ECMA-119; El Torito 1.0)."""

import struct
from collections.abc import Mapping

BLOCK = 2048
CATALOG, BOOT_IMAGE = 20, 21  # blocks: behind the volume descriptors, and the root directory at 19
ROOT = 19


def image(boot: bytes | None, files: Mapping[str, bytes] = {}) -> bytes:
    """A disc whose firmware loads `boot` to 7C00h and starts it there, without emulating a disk; None: nothing is to be started."""
    at = BOOT_IMAGE + -(-len(boot or b"") // BLOCK)
    records, contents = [], b""
    for name, data in files.items():
        records.append(_record(f"{name.upper()};1".encode(), at, len(data), 0))
        contents += _whole(data)
        at += len(_whole(data)) // BLOCK
    root = _whole(_record(b"\0", ROOT, BLOCK, 2) + _record(b"\1", ROOT, BLOCK, 2) + b"".join(sorted(records)))
    assert len(root) == BLOCK, "more files than a block names"
    descriptors = [_primary(at), _boot_record() if boot is not None else b"", b"\xffCD001\x01"]
    blocks = [bytes(BLOCK)] * 16 + [_whole(one) for one in descriptors if one]
    blocks += [bytes(BLOCK)] * (ROOT - len(blocks)) + [root, _whole(_catalog(len(boot or b"")))]
    return b"".join(blocks) + _whole(boot or b"") + contents


def _whole(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def _both(value: int, form: str) -> bytes:
    """A number in both orders of bytes."""
    return struct.pack("<" + form, value) + struct.pack(">" + form, value)


def _record(name: bytes, block: int, length: int, flags: int) -> bytes:
    size = 33 + len(name) + (len(name) + 1) % 2
    date = bytes([126, 1, 1, 0, 0, 0, 0])
    head = bytes([size, 0]) + _both(block, "I") + _both(length, "I") + date + bytes([flags, 0, 0]) + _both(1, "H")
    return (head + bytes([len(name)]) + name).ljust(size, b"\0")


def _primary(blocks: int) -> bytes:
    table = _both(10, "I") + struct.pack("<II", 18, 0) + struct.pack(">II", 18, 0)
    head = b"\x01CD001\x01\0" + b" " * 32 + b"TRAPGATE".ljust(32) + bytes(8) + _both(blocks, "I") + bytes(32)
    head += _both(1, "H") + _both(1, "H") + _both(BLOCK, "H") + table + _record(b"\0", ROOT, BLOCK, 2)
    return head.ljust(881, b" ") + b"\x01"


def _boot_record() -> bytes:
    return b"\0CD001\x01" + b"EL TORITO SPECIFICATION".ljust(64, b"\0") + struct.pack("<I", CATALOG)


def _catalog(length: int) -> bytes:
    validation = struct.pack("<BB2x24sHBB", 1, 0, b"trapgate", 0, 0x55, 0xAA)
    total = -sum(struct.unpack("<16H", validation)) & 0xFFFF
    validation = validation[:28] + struct.pack("<H", total) + validation[30:]
    return validation + struct.pack("<BBHBBHI", 0x88, 0, 0, 0, 0, -(-length // 512), BOOT_IMAGE)
