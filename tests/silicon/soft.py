"""Where the tests get the software CPU from: the one place that knows how it is made and started."""

import pytest

from trapgate.vcpu import Vcpu

from .soft_runner import SoftCpu


def make_soft_cpu() -> SoftCpu[Vcpu]:
    """A runner on the software CPU; skips the test while there is none."""
    pytest.importorskip("trapgate.soft.cpu", reason="the software CPU is not there yet")
    pytest.skip("the software CPU is there, but nobody told tests/silicon/soft.py how to start it")
