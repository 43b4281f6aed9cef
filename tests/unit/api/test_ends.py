"""A machine of the library at its end: closed, it says so, and has given everything back."""

import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from trapgate import (
    Machine,
    MachineConfig,
    MachineError,
    SoftwareHit,
)

SMALL = MachineConfig(memory=4 << 20)
LOOP = bytes.fromhex("48ffc0 ebfb")  # 1: inc rax; jmp 1b


class TestEnds:
    def test_a_closed_machine_says_so(self) -> None:
        machine = Machine(SMALL)
        machine.load_code(LOOP)
        hook = machine.on_code(0x1000)
        machine.close()
        machine.close()
        calls: tuple[Callable[[], object], ...] = (
            machine.run,
            machine.step,
            machine.pause,
            machine.reset,
            lambda: machine.load_code(LOOP),
            lambda: machine.on_code(0),
            lambda: machine.cpu["rax"],
            lambda: machine.ram.read(0, 1),
        )
        for call in calls:
            with pytest.raises(MachineError, match="closed"):
                call()
        hook.remove()

    def test_nothing_to_reset(self) -> None:
        with Machine(SMALL) as machine, pytest.raises(MachineError, match="no guest"):
            machine.reset()

    @pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.long)])
    def test_many_machines_leave_nothing(self, count: int) -> None:
        """Threads, descriptors and memory are where they were after the first few; others of the process may map things, too."""

        def one(number: int) -> None:
            with Machine(MachineConfig(memory=64 << 20)) as machine:
                machine.load_code(LOOP)
                machine.ram.write(16 << 20, bytes([number % 255 + 1]) * (4 << 20))
                machine.on_code(0x1003, call=lambda stop: machine.cpu["rax"] > 2)
                assert machine.run() == SoftwareHit(0x1003)

        for number in range(10):
            one(number)
        for _ in range(3):
            before = _held()
            for number in range(count):
                one(number)
            threads, descriptors, maps, memory = (now - then for now, then in zip(_held(), before, strict=True))
            assert (threads, descriptors) == (0, 0)
            if abs(maps) < 10 and memory < 32 << 20:
                return
        pytest.fail(f"{maps} mappings and {memory} bytes more with each {count} machines")


def _held() -> tuple[int, int, int, int]:
    """Threads, descriptors, mappings and resident bytes of this process, once what nobody refers to any more is gone.

    Machine, CPU and devices refer to each other: a CPU's state, some 400 KiB, goes when the collector has found them.
    """
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    maps = Path("/proc/self/maps").read_text().count("\n")
    return threading.active_count(), len(os.listdir("/proc/self/fd")), maps, resident
