"""Debian's drivers bind our virtio devices, by the ACPI tables, and a disk, entropy and two console ports do what they should."""

import hashlib
import random
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the tools are no part of the package

from tools import linux_guest
from tools.guests.sources import GuestError
from trapgate import ConsolePort, Disk, ExitKind, Machine, MachineConfig, MachineExit, virtio_blk, virtio_console, virtio_rng

MODULES = ("virtio_ring", "virtio", "virtio_mmio", "virtio_blk", "virtio-rng", "virtio_console")
SCRIPT = b"""md5sum /dev/vda
echo written by the guest | dd of=/dev/vda bs=512 seek=4 conv=fsync
dd if=/dev/zero of=/dev/vda bs=64k seek=8 count=16 conv=fsync
head -c 8 /dev/hwrng | wc -c
head -n 1 /dev/vport2p1
echo to the agent > /dev/vport2p1
exec 3<> /dev/hvc0
echo to the console >&3
head -n 1 <&3
"""
CONTENT = random.Random(1).randbytes(4 << 20)


def initrd(series: str, folder: Path) -> Path:
    """The initial RAM disk with the drivers in front of it; the test is skipped where they cannot be had."""
    try:
        (folder / "initrd").write_bytes(linux_guest.with_drivers(series, SCRIPT, MODULES))
    except (GuestError, OSError) as error:
        pytest.skip(f"no Linux guest: {error}")
    return folder / "initrd"


@pytest.mark.linux
@pytest.mark.timeout(900)
@pytest.mark.parametrize("series", ["6.1", "6.12", "backports"])
def test_drivers_of_debian(series: str, tmp_path: Path) -> None:
    image = initrd(series, tmp_path)
    (tmp_path / "disk").write_bytes(CONTENT)
    serial, console, agent = bytearray(), bytearray(), bytearray()
    ports = ConsolePort(console.extend), ConsolePort(agent.extend, "agent")
    disk = Disk(tmp_path / "disk")
    devices = virtio_blk(disk), virtio_rng(), virtio_console(*ports)
    with Machine(MachineConfig(serial=serial.extend, devices=devices)) as machine:
        machine.load(linux_guest.kernel(series), "console=ttyS0 panic=-1 quiet trapgate.run=sh,/m/test.sh", initrd=image)
        ports[0].feed(b"typed at hvc0\n")
        ports[1].feed(b"for the agent\n")
        end = machine.run()
    disk.close()
    said = serial.decode(errors="replace")
    assert isinstance(end, MachineExit)
    assert end.kind is ExitKind.POWER_OFF, said
    assert hashlib.md5(CONTENT).hexdigest() in said, said
    assert "for the agent" in said, said
    assert "typed at hvc0" in said, said
    assert "\n8\n" in said.replace("\r", ""), said
    assert agent == b"to the agent\n"
    assert b"to the console" in console
    changed = (tmp_path / "disk").read_bytes()
    assert changed[2048:2068] == b"written by the guest"
    assert changed[512 << 10 : 1536 << 10] == bytes(1 << 20)
    assert changed[1536 << 10 :] == CONTENT[1536 << 10 :]
