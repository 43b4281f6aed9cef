"""Debian's kernels with more programs in their initial RAM disk than the tools put there."""

import gzip
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the tools are no part of the package

from tools import linux_guest
from tools.guests.recipes import KERNELS
from tools.guests.scenarios import Guest
from tools.guests.sources import GuestError
from trapgate.boot import cpio


def guest_with(series: str, programs: Mapping[str, Path]) -> Guest:
    """A kernel, and an initial RAM disk with these programs in its path; the test is skipped where they cannot be had."""
    try:
        kernel = linux_guest.kernel(series) if series in KERNELS else linux_guest.image(series)
        busybox = linux_guest.busybox()
    except (GuestError, OSError) as error:
        pytest.skip(f"no Linux guest: {error}")
    held = linux_guest.members(busybox, {name: path.read_bytes() for name, path in programs.items()})
    initramfs = Path(mkdtemp(prefix="trapgate-test-")) / "initramfs.cpio.gz"
    initramfs.write_bytes(gzip.compress(cpio.archive(held), mtime=0))
    return Guest(kernel, initramfs)
