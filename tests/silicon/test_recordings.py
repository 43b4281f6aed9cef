"""Recordings of silicon, replayed on the software CPU with the CPU model of the recording's vendor, on whatever host this is."""

from collections.abc import Callable
from functools import cache

import pytest
from iced_x86 import Mnemonic

from trapgate.soft.cpu import SoftVcpu

from .compare import explain
from .decoded import instructions_of
from .processor import Processor, host_processor, lacking
from .recording import FOLDER, SUFFIX, Answer, Recording, differences, groups_of, read
from .sample import report
from .soft import make_soft_cpu
from .soft_runner import SoftCpu

FILES = sorted(FOLDER.glob(f"*{SUFFIX}"))
GROUPS = [
    pytest.param(path.name, group, id=f"{path.name.removesuffix(SUFFIX)}-{group.replace('/', '-')}")
    for path in FILES
    for group in groups_of(path)
]
_recording = cache(lambda name: read(FOLDER / name))


_HOSTS_OWN = frozenset((
    Mnemonic.RCPPS, Mnemonic.RCPSS, Mnemonic.RSQRTPS, Mnemonic.RSQRTSS,
    Mnemonic.VRCPPS, Mnemonic.VRCPSS, Mnemonic.VRSQRTPS, Mnemonic.VRSQRTSS, Mnemonic.FSIN, Mnemonic.FSINCOS,
))  # fmt: skip
"""Approximations: the manuals bound their errors, the last bits are each vendor's, and the software CPU has the host's."""


@pytest.fixture(scope="module")
def soft() -> Callable[[str], SoftCpu[SoftVcpu]]:
    """The software CPU as a runner, by its CPU model."""
    return cache(make_soft_cpu)


def _judged(silicon: Processor, answer: Answer) -> bool:
    """Whether the software CPU on this host is held to what that processor did."""
    used = {instruction.mnemonic for instruction in instructions_of(answer.case.form.code)}
    own = used & _HOSTS_OWN and silicon.vendor != host_processor().vendor
    return not own and silicon.judges(answer.case.form.instruction, answer.outcome.fault is not None)


@pytest.mark.parametrize(("name", "group"), GROUPS)
def test_as_recorded(soft: Callable[[str], SoftCpu[SoftVcpu]], name: str, group: str) -> None:
    recording: Recording = _recording(name)
    model = recording.processor.guest_model
    assert model is not None, f"a recording of {recording.processor.vendor}: no CPU model has that vendor's rules"
    every = sorted(recording.answers(group), key=lambda answer: answer.case.form.code)
    answers = [answer for answer in every if not lacking(host_processor(), answer.case.form.instruction)]
    if not answers:
        lacked = lacking(host_processor(), every[0].case.form.instruction)
        pytest.skip(f"the software CPU takes these from the host, which has no {', '.join(lacked)}")
    work = [(answer.case.form.code, answer.case.state) for answer in answers]
    texts = []
    for answer, got in zip(answers, soft(model).run_many(work), strict=True):
        if _judged(recording.processor, answer) and (found := differences(group, answer, got)):
            texts.append(explain(answer.case, found))
    assert not texts, report(texts, len(answers))
