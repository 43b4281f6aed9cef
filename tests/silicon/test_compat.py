"""32-bit and 16-bit code in compatibility mode: the software CPU against the host CPU."""

import random

import pytest

from trapgate.soft.cpu import SoftVcpu

from . import compat
from .compare import compare
from .host import HostCpu
from .pieces import defined, undefined_by_table
from .processor import host_processor
from .sample import report
from .soft import make_soft_cpu
from .soft_runner import SoftCpu
from .state import Outcome

QUICK, LONG = 3000, 200_000


@pytest.fixture(scope="module")
def soft() -> SoftCpu[SoftVcpu]:
    """The software CPU as a runner."""
    return make_soft_cpu(fx=False, timeout=30)


EVERY_WIDTH = pytest.mark.parametrize("mode", [compat.CODE_32, compat.CODE_16], ids=lambda mode: f"{mode.bits}-bit")


def _agree(host: HostCpu, soft: SoftCpu[SoftVcpu], mode: compat.Narrow, count: int, seed: int) -> None:
    rng = random.Random(seed)
    cases = [compat.make_case(rng, mode) for _ in range(count)]
    if host_processor().vendor != "intel":  # what the manuals leave undefined is Intel's in both models
        cases = [case for case in cases if defined(case.form)]
    if not compat.goes_there(host, mode):
        pytest.skip(f"this host's kernel gives no process a {mode.bits}-bit segment")
    work = [(case.form.code, case.state) for case in cases]
    texts = []
    for case, expected, got in zip(cases, host.run_many(work), soft.run_many(work), strict=True):
        kept = ~undefined_by_table(case.form.instruction)
        expected, got = (_seen(outcome, mode)._replace(rflags=outcome.rflags & kept) for outcome in (expected, got))
        if differences := compare(case, expected, got):
            texts.append("\n  ".join((str(case.form), f"rflags={case.state.rflags:#x}", *differences)))
    assert not texts, report(texts, count)


def _seen(outcome: Outcome, mode: compat.Narrow) -> Outcome:
    """Less the upper half of RSP, in which an interrupt's IRET to a 16-bit stack leaves what the host's kernel had there."""
    return outcome._replace(gpr=(*outcome.gpr[:4], outcome.gpr[4] & 0xFFFF_FFFF, *outcome.gpr[5:])) if mode.bits == 16 else outcome


@EVERY_WIDTH
def test_as_on_silicon(host: HostCpu, soft: SoftCpu[SoftVcpu], mode: compat.Narrow) -> None:
    _agree(host, soft, mode, QUICK, 1)


@pytest.mark.long
@EVERY_WIDTH
def test_as_on_silicon_at_length(host: HostCpu, soft: SoftCpu[SoftVcpu], mode: compat.Narrow) -> None:
    _agree(host, soft, mode, LONG, 2)
