"""Whole guests with all of their loops compiled as soon as they are met: nothing else changes."""

import shutil
from pathlib import Path

import pytest

from bench.build import GUESTS, build
from bench.engines import EXIT_OK
from system.test_linux import guest as linux
from trapgate.build import load_guest, make_machine
from trapgate.machine import Machine, MachineConfig
from trapgate.soft.cpu import SoftVcpu
from trapgate.soft.loops import hot
from trapgate.soft.loops.installed import LoopBlock

LOOPS = {"sum": 60_000, "sieve": 60, "crc": 2_000, "branches": 40_000, "doubles": 9_000}  # rounds: half a second or so
LONGER = 4  # times, where a busy host had no loop ready before the guest was through
TRIES = 5


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample each half millisecond, a loop for each block that one of them meets."""
    monkeypatch.setattr(hot, "ENOUGH", 1)
    monkeypatch.setattr(hot.HotLoops.__init__, "__defaults__", (0.0005, None))


def loops(machine: Machine) -> int:
    """How many are installed."""
    assert isinstance(machine.vcpu, SoftVcpu)
    return len({id(block.loop) for block in machine.vcpu.blocks.by_key.values() if isinstance(block, LoopBlock)})


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
@pytest.mark.parametrize("name", LOOPS)
def test_a_guest_that_checks_its_own_result(name: str, tmp_path: Path) -> None:
    source = next(one for one in GUESTS if one.name == name)
    for attempt in range(TRIES):
        image, said = build(source, tmp_path, LOOPS[name] * LONGER**attempt), bytearray()
        machine = make_machine(MachineConfig(memory=64 << 20, serial=said.extend), "soft")
        load_guest(machine, str(image))
        try:
            assert machine.run().status == EXIT_OK, said
            if loops(machine):
                return
        finally:
            machine.close()
    pytest.fail(f"no loop was compiled in {LOOPS[name] * LONGER**attempt} rounds")


@pytest.mark.linux
@pytest.mark.timeout(900)
@pytest.mark.parametrize("series", ["6.1", "6.12", "backports", "686-pae"])
def test_a_kernel(series: str) -> None:
    files, text = linux(series), bytearray()
    machine = make_machine(MachineConfig(memory=512 << 20, serial=text.extend), "soft")
    load_guest(machine, str(files.kernel), "console=ttyS0 trapgate.run=true", str(files.initramfs))
    try:
        machine.run()
        assert b"trapgate: exit status 0" in text, text[-500:].decode(errors="replace")
        assert loops(machine) > 10
    finally:
        machine.close()
