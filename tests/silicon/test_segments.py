"""Operands in FS and GS, and their bases: the software CPU against the host CPU."""

from collections.abc import Iterable

import pytest

from trapgate.soft.cpu import SoftVcpu

from .compare import Case, explain
from .families import Family
from .host import HostCpu
from .host_code import segment_bases
from .processor import host_processor, lacking
from .recording import Answer, differences
from .sample import report
from .segment_cases import NAMED, bases, chosen
from .soft import make_soft_cpu
from .soft_runner import SoftCpu
from .state import GP, Outcome

EACH = 12  # cases of an instruction

pytestmark = pytest.mark.skipif(not segment_bases(), reason="this host lets no user code set the bases of FS and GS")


@pytest.fixture(scope="module")
def soft() -> SoftCpu[SoftVcpu]:
    """The software CPU as a runner."""
    return make_soft_cpu()


def _judged(host: HostCpu, soft: SoftCpu[SoftVcpu], cases: Iterable[Case]) -> list[Outcome]:
    """Compare; what the host answered."""
    work = [case for case in cases if not lacking(host_processor(), case.form.instruction)]
    code = [(case.form.code, case.state) for case in work]
    ends = list(host.run_many(code))
    texts = []
    for case, expected, got in zip(work, ends, soft.run_many(code), strict=True):
        if found := differences("segments/live", Answer(case, 0, expected), got):
            texts.append(explain(case, found))
    assert not texts, report(texts, len(work))
    return ends


@pytest.mark.parametrize("family", NAMED, ids=lambda family: family.name)
def test_operands(host: HostCpu, soft: SoftCpu[SoftVcpu], family: Family) -> None:
    ends = _judged(host, soft, chosen(family, EACH))
    assert sum(end.fault is None for end in ends) > 0.4 * len(ends)
    assert any(end.fault is not None and end.fault.vector == GP for end in ends)


def test_bases(host: HostCpu, soft: SoftCpu[SoftVcpu]) -> None:
    ends = _judged(host, soft, bases())
    assert 0 < sum(end.fault is not None for end in ends) < len(ends) / 2


def test_the_worker_has_its_own_bases_back(host: HostCpu) -> None:
    before = host.restarts
    case = next(bases())
    for _ in range(3):
        host.run(case.form.code, case.state)
    assert host.restarts == before
