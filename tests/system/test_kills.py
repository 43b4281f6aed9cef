"""SIGKILL amid writes: whatever a guest was told is on its disk is in the file, and whole."""

import random
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from cases import kit

pytestmark = pytest.mark.skipif(bool(kit.LACKING), reason=kit.LACKING)
TRAPGATE = str(Path(sys.executable).with_name("trapgate"))
BLOCKS, BLOCK, SECTOR, BATCH = 64, 4096, 512, 8
MASK = (1 << 64) - 1


def mixed(value: int) -> int:
    value ^= value >> 31
    value = value * 0x9E3779B97F4A7C15 & MASK
    return value ^ value >> 29


def place(number: int) -> int:
    """The block that a write goes to."""
    return 1 + mixed(number) % BLOCKS


def sector(number: int, at: int) -> bytes:
    """What a write puts into a sector of its block."""
    first = at * SECTOR // 8
    words = [number if word % 64 == 0 else mixed(number * 512 + word) for word in range(first, first + SECTOR // 8)]
    return struct.pack(f"<{len(words)}Q", *words)


def latest(before: dict[int, int], begin: int, end: int) -> dict[int, int]:
    """The last write of each block, of those in [begin, end) and those before."""
    return {**before, **{place(number): number for number in range(begin, end)}}


def killed(image: str, disk: Path, flushes: int) -> int:
    """Run the guest, kill trapgate after so many flushes were told of; behind which write the last of them was."""
    told = 0
    with subprocess.Popen([TRAPGATE, "run", image, "--disk", str(disk)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(flushes):
            said = process.stdout.readline()
            assert said.startswith(b"flushed="), said + process.stderr.read()
        process.send_signal(signal.SIGKILL)
        lines = [said, *process.stdout.read().splitlines(keepends=True)]
        told = max(int(one.partition(b"=")[2], 16) for one in lines if one.endswith(b"\n"))
        assert process.stderr.read() == b""
    assert process.returncode == -signal.SIGKILL
    return told


def check(content: bytes, flushed: dict[int, int], end: int, begin: int) -> dict[int, int]:
    """All that was flushed is there, whole, or what was written over it later; by block the greatest number that is there."""
    found = {}
    for block in range(1, BLOCKS + 1):
        least, there = flushed.get(block), set()
        for at in range(BLOCK // SECTOR):
            data = content[block * BLOCK + at * SECTOR :][:SECTOR]
            (number,) = struct.unpack_from("<Q", data)
            if not any(data):
                assert least is None, f"block {block} was flushed as {least}, and its sector {at} is empty"
                continue
            assert data == sector(number, at), f"block {block}, sector {at}: torn"
            assert place(number) == block, f"block {block} has what write {number} wrote to block {place(number)}"
            assert number >= (least or 0), f"block {block}, sector {at}: write {number}, where {least} was flushed"
            assert number < begin or number >= end or number == least, f"write {number} was overwritten before write {end}"
            there.add(number)
        if there:
            assert len(there) == 1 or max(there) >= end, f"block {block} was flushed, and is of several: {there}"
            found[block] = max(there)
    return found


def run(folder: Path, count: int, seed: int) -> None:
    chance, image = random.Random(seed), kit.program("flushes", folder)
    disk = folder / "disk"
    disk.write_bytes(bytes((BLOCKS + 1) * BLOCK))
    begin, kept = 1, dict[int, int]()
    for _ in range(count):
        flushes = chance.randrange(1, 20)
        last = begin + BATCH * flushes if chance.random() < 0.5 else MASK  # the guest waits behind the flush, or goes on
        with disk.open("r+b") as file:
            file.write(struct.pack("<2Q", begin, last))
        end = killed(image, disk, flushes)
        assert end >= begin + BATCH
        kept = check(disk.read_bytes(), latest(kept, begin, end), end, begin)
        begin = max(end, *kept.values()) + 1


def test_what_was_flushed_is_there(tmp_path: Path) -> None:
    run(tmp_path, 8, 1)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_what_was_flushed_is_there_a_thousand_times(tmp_path: Path) -> None:
    run(tmp_path, 1000, 2)
