"""Fixtures of the silicon tests: one host worker for the whole session; skipped where there is no x86-64 Linux host."""

import platform
import sys
from collections.abc import Iterator

import pytest

from .host import HostCpu
from .processor import host_processor


@pytest.fixture(scope="session")
def host() -> Iterator[HostCpu]:
    """The host CPU as a runner."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("the host CPU is the judge here: needs Linux on x86-64")
    if host_processor().guest_model is None:
        pytest.skip(f"no CPU model of this host's vendor: {host_processor().vendor}")
    with HostCpu() as cpu:
        yield cpu
