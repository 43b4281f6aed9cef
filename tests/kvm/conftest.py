"""What every test of the KVM engine does besides: it closes its machines."""

from collections.abc import Iterator

import pytest

from kvm import guest


@pytest.fixture(autouse=True)
def machines_closed() -> Iterator[None]:
    """Give the test's VMs back to the host."""
    yield
    guest.close_all()
