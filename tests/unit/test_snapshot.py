"""A machine in a file: it goes on as the one that was saved, and a file that is not whole, or another kind's, changes nothing."""

import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from trapgate import snapshot
from trapgate.boot.code import plan
from trapgate.build import make_machine, put_guest
from trapgate.devices.virtio.blk import virtio_blk
from trapgate.devices.virtio.console import ConsolePort, virtio_console
from trapgate.devices.virtio.rng import virtio_rng
from trapgate.disk import Disk
from trapgate.machine import ClockKind, Machine, MachineConfig
from trapgate.snapshot import SnapshotError

COUNTING = MachineConfig(memory=8 << 20, clock=ClockKind.INSTRUCTIONS)
LOOP = bytes.fromhex("ffc0 890500100000 ebf6")  # inc eax; mov [rip + 1000h], eax; jmp


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = machine()
    made.ram.write(3 << 20, random.Random(1).randbytes(2 << 20))
    made.resume(instructions=1000)
    snapshot.save(made, tmp_path / "one")
    made.close()
    return tmp_path / "one"


def machine(config: MachineConfig = COUNTING, guest: bool = True) -> Machine:
    made = make_machine(config, "soft")
    if guest:
        put_guest(made, plan(LOOP, 0x1000, 64, made.ram.low_end))
    return made


def all_of(made: Machine) -> object:
    return made.save(), made.ram.save()


def test_it_goes_on(file: Path) -> None:
    one, two = machine(), machine(snapshot.config_of(file), guest=False)
    one.ram.write(3 << 20, random.Random(1).randbytes(2 << 20))
    one.resume(instructions=1000)
    snapshot.restore(two, file)
    assert all_of(one) == all_of(two)
    for made in (one, two):
        made.resume(instructions=12_345)
    assert all_of(one) == all_of(two)
    assert two.ram.read_int(0x2008, 4) > 3000
    one.close()
    two.close()


def test_it_goes_on_from_a_plain_file(file: Path, tmp_path: Path) -> None:
    one, two = machine(), machine(snapshot.config_of(file), guest=False)
    snapshot.restore(one, file)
    two.ram.write(7 << 20, b"of before")
    snapshot.save_plain(one, tmp_path / "plain")
    snapshot.restore(two, tmp_path / "plain")
    (tmp_path / "plain").unlink()  # what is mapped of it stays
    assert all_of(one) == all_of(two)
    for made in (one, two):
        made.resume(instructions=12_345)
    assert all_of(one) == all_of(two)
    two.power_cycle()
    assert not any(two.ram.read(0, 8 << 20))
    one.close()
    two.close()


def test_a_plain_file_that_is_not_whole(file: Path, tmp_path: Path) -> None:
    made, plain = machine(), tmp_path / "plain"
    snapshot.restore(made, file)
    snapshot.save_plain(made, plain)
    made.resume(instructions=100)
    whole, before = plain.read_bytes(), all_of(made)
    for end in (0, 10, 60, len(whole) // 2, len(whole) - 1):
        plain.write_bytes(whole[:end])
        with pytest.raises(SnapshotError):
            snapshot.restore(made, plain)
    for at in range(0, 48, 3):
        plain.write_bytes(whole[:at] + bytes((whole[at] ^ 0x40,)) + whole[at + 1 :])
        with pytest.raises(SnapshotError):
            snapshot.restore(made, plain)
    assert all_of(made) == before
    made.close()


def test_what_is_not_whole_changes_nothing(file: Path, tmp_path: Path) -> None:
    whole, source, made = file.read_bytes(), random.Random(2), machine()
    before, damaged = all_of(made), tmp_path / "damaged"
    places = [*range(0, 48, 3), *(source.randrange(len(whole)) for _ in range(40))]
    for at in places:
        damaged.write_bytes(whole[:at] + bytes((whole[at] ^ 1 << source.randrange(8),)) + whole[at + 1 :])
        with pytest.raises(SnapshotError):
            snapshot.restore(made, damaged)
    for end in (0, 10, 60, len(whole) // 2, len(whole) - 1):
        damaged.write_bytes(whole[:end])
        with pytest.raises(SnapshotError):
            snapshot.restore(made, damaged)
    assert all_of(made) == before
    made.close()


@pytest.mark.parametrize(
    ("change", "story"),
    [
        ({"memory": 16 << 20}, "memory 8388608, this one 16777216"),
        ({"cpu": "SapphireRapids"}, "cpu EPYC-Turin, this one SapphireRapids"),
        ({"cpu": "EPYC-Turin,-smap"}, "both EPYC-Turin, differ in: smap"),
        ({"clock": ClockKind.HOST}, "clock instructions, this one host"),
    ],
)
def test_another_kind_of_machine(file: Path, change: dict[str, object], story: str) -> None:
    made = machine(replace(COUNTING, **change))  # type: ignore[arg-type]
    before = all_of(made)
    with pytest.raises(SnapshotError, match=story) as caught:
        snapshot.restore(made, file)
    assert "\n" not in str(caught.value)
    assert all_of(made) == before
    made.close()


def test_another_version(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[16] += 1
    file.write_bytes(data)
    with pytest.raises(SnapshotError, match="of version 4; this trapgate reads version 3"):
        snapshot.about(file)


def test_files_that_are_none(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent", Path("/dev/null")):
        with pytest.raises(SnapshotError):
            snapshot.about(path)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    made = machine()
    with pytest.raises(SnapshotError, match="cannot be written"):
        snapshot.save(made, tmp_path / "absent" / "one")
    (tmp_path / "two").mkdir()
    with pytest.raises(SnapshotError, match="cannot be written"):
        snapshot.save(made, tmp_path / "two")
    assert [one.name for one in tmp_path.iterdir()] == ["two"]
    made.close()


KILLED = """
import os, signal, sys
from unit.test_snapshot import machine
from trapgate import snapshot
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
snapshot.save(machine(), sys.argv[1])
"""


def test_killed_amid_a_save(file: Path) -> None:
    before = file.read_bytes()
    done = subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{KILLED}", file], check=False)
    assert done.returncode == -signal.SIGKILL
    assert file.read_bytes() == before
    snapshot.about(file)


@pytest.fixture
def opened() -> Iterator[Callable[[Path], Disk]]:
    """Makes disks whose writes are kept in memory."""
    with ExitStack() as stack:

        def made(path: Path) -> Disk:
            path.write_bytes(bytes(1 << 20))
            disk = Disk(path, snapshot=True)
            stack.callback(disk.close)
            return disk

        yield made


def test_what_is_behind_virtio_comes_along(tmp_path: Path, opened: Callable[[Path], Disk]) -> None:
    disks = [opened(tmp_path / "disk") for _ in range(2)]
    ports = [ConsolePort(lambda data: None) for _ in range(2)]
    configs = [
        replace(COUNTING, devices=(virtio_blk(disk), virtio_rng(b"seed"), virtio_console(port)))
        for disk, port in zip(disks, ports, strict=True)
    ]
    one, two, other = machine(configs[0]), machine(configs[1]), machine()
    disks[0].write_from(4096, [memoryview(b"written")])
    ports[0].feed(b"waits")
    one.resume(instructions=100)
    snapshot.save(one, tmp_path / "one")
    snapshot.restore(two, tmp_path / "one")
    assert all_of(one) == all_of(two)
    place = memoryview(bytearray(7))
    disks[1].read_into(4096, [place])
    assert place == b"written"
    before = all_of(other)
    with pytest.raises(SnapshotError, match="TransportState is of no device or engine that is here"):
        snapshot.restore(other, tmp_path / "one")
    assert all_of(other) == before
    for made in (one, two, other):
        made.close()
