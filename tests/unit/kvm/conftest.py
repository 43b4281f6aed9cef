"""What every test on a pretended host does besides: it closes its vCPUs."""

from collections.abc import Iterator

import pytest

from unit.kvm import fake_kvm


@pytest.fixture(autouse=True)
def vcpus_closed() -> Iterator[None]:
    """Leave the test's thread as it was before a vCPU ran in it."""
    yield
    while fake_kvm.opened:
        fake_kvm.opened.pop().close()
