"""Runs of instructions on the software CPU against the host CPU: the state behind every step, the end in blocks of any length."""

from collections.abc import Callable

import pytest

from trapgate.soft.blocks.translator import Translator
from trapgate.soft.cpu import SoftVcpu

from . import catalog, sequences
from .compare import explain
from .host import HostCpu
from .sample import choose, judge, report
from .sequences import Run
from .soft import make_soft_cpu
from .soft_runner import SoftCpu
from .soft_tracer import SoftTracer
from .stepwise import compare_ends, compare_traces, undefined_at_end
from .trace import endless

QUICK, BY_STEPS, LONG = 50_000, 5_000, 10_000_000  # steps
CHUNK = 64  # runs
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


Modes = dict[str, SoftCpu[SoftVcpu]]


@pytest.fixture(scope="module")
def modes() -> Modes:
    """The software CPU as a runner, in each mode."""
    ways: tuple[Callable[[Translator], None], ...] = (_default, _single, _unchained)
    return {way.__name__[1:]: make_soft_cpu(prepare=way, timeout=30) for way in ways}


def judge_runs(host: HostCpu, tracer: SoftTracer, ends: Modes, runs: list[Run]) -> tuple[int, list[str]]:
    """Steps compared, and what differed: step by step on one software CPU, at the end on others."""
    work = [(run.case.form.code, run.case.state) for run in runs]
    judged = list(host.trace_many(work))
    texts = []
    for run, (expected, trace), (got, other) in zip(runs, judged, tracer.trace_many(work), strict=True):
        if found := compare_traces(run.case, (expected, got), (trace, other)):
            texts.append(explain(run.case, found))
    ending = [(run, *told) for run, told in zip(runs, judged, strict=True) if not endless(told[0])]
    for mode, soft in ends.items():
        outcomes = soft.run_many((run.case.form.code, run.case.state) for run, _, _ in ending)
        for (run, expected, trace), got in zip(ending, outcomes, strict=True):
            if compare_ends(run.case, expected, got, 0) and (
                found := compare_ends(run.case, expected, got, undefined_at_end(run.case, trace))
            ):
                texts.append(explain(run.case, [f"at its end, {mode}:", *found]))
    return sum(trace.steps for _, trace in judged), texts


def _agree(host: HostCpu, tracer: SoftTracer, ends: Modes, wanted: int, seed: str) -> None:
    steps, runs, texts = 0, 0, list[str]()
    while steps < wanted and len(texts) < 100:
        chunk = [sequences.make_run(f"{seed} {n}") for n in range(runs, runs + CHUNK)]
        compared, found = judge_runs(host, tracer, ends, chunk)
        steps, runs, texts = steps + compared, runs + CHUNK, texts + found
    print(f"{steps} steps of {runs} runs compared")
    assert not texts, report(texts, runs)
    assert steps >= wanted


def test_every_step_as_on_silicon(host: HostCpu, modes: Modes) -> None:
    _agree(host, SoftTracer(by_steps=False), {"default": modes["default"]}, QUICK, "1")


def test_every_debugger_step_as_on_silicon(host: HostCpu, modes: Modes) -> None:
    _agree(host, SoftTracer(by_steps=True), {"unchained": modes["unchained"]}, BY_STEPS, "2")


@pytest.mark.long
def test_every_step_as_on_silicon_at_length(host: HostCpu, modes: Modes) -> None:
    _agree(host, SoftTracer(by_steps=False), {"default": modes["default"]}, LONG, "3")


@pytest.mark.long
def test_every_debugger_step_as_on_silicon_at_length(host: HostCpu, modes: Modes) -> None:
    _agree(host, SoftTracer(by_steps=True), {"unchained": modes["unchained"]}, LONG // 10, "4")


@pytest.mark.parametrize("mode", ["default", "single", "unchained"])
@pytest.mark.parametrize("mnemonic", SAMPLE)
def test_single_instructions_in_every_mode(host: HostCpu, modes: Modes, mode: str, mnemonic: str) -> None:
    cases = choose(catalog.forms(mnemonic), 60, mnemonic)
    texts = judge(cases, host, modes[mode])
    assert not texts, report(texts, len(cases))


def test_the_runs_branch_loop_and_fault(host: HostCpu) -> None:
    """What the runs are for does happen in them."""
    runs = [sequences.make_run(f"1 {n}") for n in range(400)]
    work = [(run.case.form.code, run.case.state) for run in runs]
    ends, traces = zip(*host.trace_many(work), strict=True)
    texts = [run.case.form.text for run in runs]
    assert max(run.length for run in runs) <= sequences.MOST
    assert sum(trace.steps for trace in traces) > 40 * len(runs)
    assert sum("(loop)" in text for text in texts) > 100
    for wanted in ("; j", "call;", "; loop", "movs", "div", "leave", "popf", "ps xmm", " mm", "fld", "xlatb", "ldmxcsr", "fldcw"):
        assert sum(wanted in text for text in texts) > 10, wanted
    assert 10 < sum(end.fault is not None for end in ends) < 100
    assert sum(bool(trace.stores) for trace in traces) > 300
