"""Runs of instructions on the software CPU against the host CPU; the debug switches of the translator change no outcome."""

from collections.abc import Callable

import pytest

from trapgate.soft.cpu import SoftVcpu
from trapgate.soft.translate import Translator

from . import catalog, sequences
from .compare import compare, explain
from .host import HostCpu
from .sample import choose, judge, report
from .soft import make_soft_cpu
from .soft_runner import SoftCpu

QUICK, LONG = 1500, 100_000
SAMPLE = (
    "add", "sbb", "inc", "shl", "rcr", "shld", "bts", "bsf", "pdep", "mulx", "idiv", "imul", "cmpxchg", "cmpxchg16b", "xchg",
    "push", "pop", "enter", "leave", "popfq", "call", "ret", "loopne", "movsb", "cmpsw", "cmovbe", "setl", "jg",
)  # fmt: skip


def _default(translator: Translator) -> None:
    """Blocks as long as they get, chained."""


def _single(translator: Translator) -> None:
    """Blocks of one instruction."""
    translator.configure(block_limit=1)


def _unchained(translator: Translator) -> None:
    """Every block ends in the dispatcher."""
    translator.configure(chaining=False)


@pytest.fixture(scope="module", params=[_default, _single, _unchained], ids=["default", "single", "unchained"])
def soft(request: pytest.FixtureRequest) -> SoftCpu[SoftVcpu]:
    """The software CPU as a runner, in each mode."""
    prepare: Callable[[Translator], None] = request.param
    return make_soft_cpu(fx=False, prepare=prepare)


def _agree(host: HostCpu, soft: SoftCpu[SoftVcpu], count: int, seed: int) -> None:
    runs = [sequences.make_run(f"{seed} {n}") for n in range(count)]
    work = [(run.case.form.code, run.case.state) for run in runs]
    texts = []
    for run, expected, got in zip(runs, host.run_many(work), soft.run_many(work), strict=True):
        kept = ~(run.anywhere if expected.fault else run.at_end)
        expected, got = (outcome._replace(rflags=outcome.rflags & kept) for outcome in (expected, got))
        if differences := compare(run.case, expected, got):
            texts.append(explain(run.case, differences))
    assert not texts, report(texts, count)


def test_runs_as_on_silicon(host: HostCpu, soft: SoftCpu[SoftVcpu]) -> None:
    _agree(host, soft, QUICK, 1)


@pytest.mark.long
def test_runs_as_on_silicon_at_length(host: HostCpu, soft: SoftCpu[SoftVcpu]) -> None:
    _agree(host, soft, LONG, 2)


@pytest.mark.parametrize("mnemonic", SAMPLE)
def test_single_instructions_in_every_mode(host: HostCpu, soft: SoftCpu[SoftVcpu], mnemonic: str) -> None:
    cases = choose(catalog.forms(mnemonic), 60, mnemonic)
    texts = judge(cases, host, soft)
    assert not texts, report(texts, len(cases))


def test_the_runs_branch_loop_and_fault(host: HostCpu) -> None:
    """What the runs are for does happen in them."""
    runs = [sequences.make_run(f"1 {n}") for n in range(400)]
    outcomes = list(host.run_many((run.case.form.code, run.case.state) for run in runs))
    texts = [run.case.form.text for run in runs]
    assert sum("(loop)" in text for text in texts) > 100
    assert sum("; j" in text for text in texts) > 200
    assert 20 < sum(outcome.fault is not None for outcome in outcomes) < 200
    assert sum(run.at_end == 0 for run in runs) > 200
