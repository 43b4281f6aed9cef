"""The section of what a FUSE request costs in the device: its ring, the message and the host's call, without the guest."""

import statistics
import struct
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.measuring import Bench
from bench.report import Table
from trapgate.devices.dma import Dma
from trapgate.devices.virtio.fs import Fs
from trapgate.devices.virtio.queue import INDIRECT, INDIRECT_DESC, NEXT, WRITE
from trapgate.devices.virtio.transport import NEEDS_RESET, Register, Transport
from trapgate.fuse import protocol
from trapgate.fuse.protocol import ENTRY, HEADER, Operation
from trapgate.fuse.share import Share
from trapgate.memory import Ram

LIMIT = 60  # us
NAMES = 20  # in a directory
COUNT = 2000  # requests of each kind in a run
ENTRIES = 512
TABLE, AVAILABLE, USED, INDIRECT_TABLE, BUFFERS = 0x1000, 0x4000, 0x6000, 0x8000, 0x10000
STATUS = (0, 1, 3)


class Driver:
    """One request at a time, in an indirect chain, as Linux sends them."""

    def __init__(self, share: Share) -> None:
        self.ram, self.sent = Ram(4 << 20), 0
        self.device = Transport(Fs(share), Dma(self.ram), lambda level: None)
        for value in STATUS:
            self._put(Register.STATUS, value)
        for half, bits in ((0, INDIRECT_DESC), (1, 1)):
            self._put(Register.DRIVER_FEATURES_SELECT, half)
            self._put(Register.DRIVER_FEATURES, bits)
        self._put(Register.STATUS, 0xB)
        self._put(Register.QUEUE_SELECT, 1)
        self._put(Register.QUEUE_SIZE, ENTRIES)
        for register, address in ((Register.DESCRIPTORS_LOW, TABLE), (Register.DRIVER_LOW, AVAILABLE), (Register.DEVICE_LOW, USED)):
            self._put(register, address)
        self._put(Register.QUEUE_READY, 1)
        self._put(Register.STATUS, 0xF)

    def _put(self, register: int, value: int) -> None:
        self.device.write(register, 4, value)

    def offer(self, operation: int, body: bytes, node: int, room: Sequence[int]) -> None:
        """Put a request into the ring: header and body apart, room for the answer's header and for each page of it."""
        message = HEADER.pack(HEADER.size + len(body), operation, 2, node, 0, 0, 1, 0, 0)
        rows, at = [], BUFFERS
        for data, size, flags in [(message, len(message), 0), (body, len(body), 0), *((b"", size, WRITE) for size in (16, *room))]:
            if size:
                self.ram.write(at, data)
                rows.append((at, size, flags))
                at += size
        table = b"".join(
            struct.pack("<QIHH", address, size, flags | NEXT * (number + 1 < len(rows)), number + 1)
            for number, (address, size, flags) in enumerate(rows)
        )
        self.ram.write(INDIRECT_TABLE, table)
        self.ram.write(TABLE, struct.pack("<QIHH", INDIRECT_TABLE, len(table), INDIRECT, 0))
        self.sent += 1
        self.ram.write(AVAILABLE, struct.pack("<HH", 0, self.sent & 0xFFFF))

    def ask(self) -> float:
        """Have what is in the ring done; CPU seconds."""
        begin = time.thread_time()
        self._put(Register.QUEUE_NOTIFY, 1)
        taken = time.thread_time() - begin
        assert not self.device.read(Register.STATUS, 4) & NEEDS_RESET
        return taken

    def answer(self, operation: int, body: bytes, node: int, size: int) -> bytes:
        """What the answer to a request brings."""
        self.offer(operation, body, node, [size])
        self.ask()
        places = HEADER.size + len(body)
        _, error, _ = protocol.ANSWER.unpack(self.ram.read(BUFFERS + places, 16))
        assert not error, error
        return self.ram.read(BUFFERS + places + 16, size)


def requests(bench: Bench) -> Table:
    """Each kind of request, many times, of a share that lasts."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "file").write_bytes(bytes(1 << 20))
        (Path(folder) / "directory").mkdir()
        for number in range(NAMES):
            (Path(folder) / "directory" / f"name {number}").touch()
        share = Share(folder, lasting=True)
        driver = Driver(share)
        driver.answer(Operation.INIT, protocol.INIT.pack(7, 38, 0, 0xFFFF_FFFF), 0, protocol.INIT_ANSWER.size)
        file, directory = (
            int(ENTRY.unpack(driver.answer(Operation.LOOKUP, name + b"\0", 1, ENTRY.size))[0]) for name in (b"file", b"directory")
        )

        def reading(size: int) -> bytes:
            return protocol.READ.pack(0, 0, size, 0, 0, 0, 0)

        kinds = (
            ("LOOKUP", Operation.LOOKUP, b"file\0", 1, [ENTRY.size]),
            ("LOOKUP of what is not there", Operation.LOOKUP, b"nothing\0", 1, [ENTRY.size]),
            ("GETATTR", Operation.GETATTR, bytes(16), file, [protocol.ATTRIBUTES.size]),
            ("READ of 4 KiB", Operation.READ, reading(4096), file, [4096]),
            ("READ of 128 KiB", Operation.READ, reading(1 << 17), file, [4096] * 32),
            ("READ of 1 MiB", Operation.READ, reading(1 << 20), file, [4096] * 256),
            (f"READDIRPLUS of {NAMES} names, listed anew", Operation.READDIRPLUS, reading(8192), directory, [4096] * 2),
        )
        task = bench.progress.add_task("requests", total=bench.runs * len(kinds))
        times: dict[str, list[float]] = {}
        for _ in range(bench.runs):
            for name, operation, body, node, room in kinds:
                bench.progress.update(task, description=name, advance=1)
                taken = 0.0
                for _ in range(COUNT):
                    driver.offer(operation, body, node, room)
                    taken += driver.ask()
                times.setdefault(name, []).append(taken / COUNT)
        driver.device.close()
        share.close()
    rows = []
    for name, some in times.items():
        rows.append((name, f"{min(some) * 1e6:.0f}", f"{statistics.median(some) * 1e6:.0f}", "" if "READ" in name else f"{LIMIT}"))
    heads = ("request", "fastest, us", "median, us", "limit")
    return Table(f"FUSE requests in the device, CPU time, {bench.runs} runs of {COUNT:,}", heads, rows, words=1)
