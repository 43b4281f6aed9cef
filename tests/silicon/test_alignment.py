"""Alignment checking at CPL 3: the software CPU against the host CPU, every instruction with RFLAGS.AC set."""

from collections import Counter
from collections.abc import Iterable

import pytest

from trapgate.soft.cpu import SoftVcpu

from .alignment_cases import CHECKED, chosen, tabled
from .compare import Case
from .families import Family
from .host import HostCpu
from .processor import host_processor, lacking
from .sample import judge, report
from .soft import make_soft_cpu
from .soft_runner import SoftCpu
from .state import AC

EACH = 4  # cases of an opcode


@pytest.fixture(scope="module")
def soft() -> SoftCpu[SoftVcpu]:
    """The software CPU as a runner."""
    return make_soft_cpu()


def _judged(host: HostCpu, soft: SoftCpu[SoftVcpu], cases: Iterable[Case]) -> Counter[int | None]:
    """Compare; how many cases ended with which vector on the host."""
    processor = host_processor()
    work = [case for case in cases if not lacking(processor, case.form.instruction)]
    ends = [end.fault for end in host.run_many((case.form.code, case.state) for case in work)]
    texts = judge(work, host, soft)
    assert not texts, report(texts, len(work))
    return Counter(end and end.vector for end in ends)


@pytest.mark.parametrize("family", CHECKED, ids=lambda family: family.name)
def test_every_instruction(host: HostCpu, soft: SoftCpu[SoftVcpu], family: Family) -> None:
    vectors = _judged(host, soft, (case for name in family.mnemonics for case in chosen(family, name, EACH)))
    assert vectors[AC] > 20
    assert vectors[None] > vectors[AC]


def test_to_what_each_kind_of_operand_must_be_aligned_and_what_comes_first(host: HostCpu, soft: SoftCpu[SoftVcpu]) -> None:
    vectors = _judged(host, soft, tabled())
    assert vectors[AC] > 100
