"""What every test of the KVM engine does besides: it closes its machines."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvm import guest
from trapgate.kvm import probe

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the tools are no part of the package


@pytest.fixture(autouse=True)
def machines_closed() -> Iterator[None]:
    """Give the test's VMs back to the host."""
    yield
    guest.close_all()


@pytest.fixture(scope="session")
def lies_idle() -> str:
    """Why a breakpoint that the guest arms beside the debugger's is not hit at once; '' where it is."""
    found = probe.detect()
    return "" if found.holds else f"this host's KVM does not tell of the guest's accesses to debug registers: {found.seen}"
