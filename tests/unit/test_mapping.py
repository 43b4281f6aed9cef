"""Host memory of our own: zero, as large as asked, between pages that nobody may touch, and gone with its last user."""

import ctypes
import gc
import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trapgate.hostcall import HostError
from trapgate.mapping import GUARD, Mapping


def mapped(address: int) -> str:
    """The rights of the host's mapping at an address, as /proc/self/maps has them; '' where there is none."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        extent, rights = line.split()[:2]
        start, end = (int(part, 16) for part in extent.split("-"))
        if start <= address < end:
            return rights
    return ""


def test_zero_at_first_and_writable() -> None:
    mapping = Mapping(10_000, "a test")
    assert len(mapping.view) == 10_000
    assert bytes(mapping.view) == bytes(10_000)
    mapping.view[9_999] = 7
    assert ctypes.string_at(mapping.address + 9_999, 1) == b"\x07"
    assert mapping.address % GUARD == 0


def test_guards_in_front_and_behind() -> None:
    mapping = Mapping(8192, "a test")
    for at in (-GUARD, -1, 8192, 8192 + GUARD - 4096):
        assert mapped(mapping.address + at) == "---p", at


@pytest.mark.parametrize("at", [-1, 4096])
def test_who_leaves_it_is_stopped(at: int) -> None:
    program = "import ctypes, resource; from trapgate.mapping import Mapping; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); "
    program += f"ctypes.memset(Mapping(4096, 'x').address + {at}, 1, 1)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGSEGV


def test_a_file_seen_twice_without_a_descriptor() -> None:
    before = set(os.listdir("/proc/self/fd"))
    descriptor = os.memfd_create("test")
    os.ftruncate(descriptor, 4096)
    writable = Mapping(4096, "a test", descriptor)
    other = Mapping(4096, "a test", descriptor, mmap.PROT_READ)
    os.close(descriptor)
    writable.view[5] = 9
    assert other.view[5] == 9
    assert mapped(other.address) == "r--s"
    assert set(os.listdir("/proc/self/fd")) == before


def test_gone_with_its_last_view() -> None:
    mapping = Mapping(4096, "a test")
    address, view = mapping.address, mapping.view
    del mapping
    gc.collect()
    assert view[0] == 0
    assert mapped(address) == "rw-p"
    del view
    gc.collect()
    assert mapped(address) != "rw-p"


@pytest.mark.parametrize("size", [1 << 60, 1 << 64])
def test_what_the_host_has_not(size: int) -> None:
    with pytest.raises(HostError, match="MiB of memory for a test") as raised:
        Mapping(size, "a test")
    assert "Cannot allocate memory; give the guest less" in str(raised.value)


def test_a_private_copy_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a" * 4096 + b"b" * 8192)
    mapping = Mapping(5 * 4096, "a test")
    mapping.view[:] = b"x" * (5 * 4096)
    with (tmp_path / "file").open("rb") as file:
        mapping.copy_of(4096, 8192, file.fileno(), 4096)
    mapping.view[4096] = ord("c")
    assert bytes(mapping.view) == b"x" * 4096 + b"c" + b"b" * 8191 + b"x" * 8192
    assert (tmp_path / "file").read_bytes()[4096:4098] == b"bb"
    mapping.clear()
    assert not any(mapping.view)
    mapping.view[4096] = 1
    mapping.clear()
    assert not any(mapping.view)


def test_no_file_to_copy() -> None:
    with pytest.raises(HostError, match="of a file as memory"):
        Mapping(8192, "a test").copy_of(0, 4096, -1, 0)
