"""What differed from silicon once does so no longer: at no step, and at no end."""

import pytest

from trapgate.soft.cpu import SoftVcpu

from .host import HostCpu
from .regressions import REGRESSIONS, Regression
from .soft import make_soft_cpu
from .soft_runner import SoftCpu
from .soft_tracer import SoftTracer
from .stepwise import compare_ends, compare_traces, undefined_at_end

EVERY = pytest.mark.parametrize("regression", REGRESSIONS, ids=lambda regression: regression.text)


@pytest.fixture(scope="module")
def tracers() -> tuple[SoftTracer, ...]:
    """The software CPU, stopped behind every instruction: in ordinary blocks, and by a debugger."""
    return SoftTracer(by_steps=False), SoftTracer(by_steps=True)


@pytest.fixture(scope="module")
def soft() -> SoftCpu[SoftVcpu]:
    """The software CPU as a runner."""
    return make_soft_cpu()


@EVERY
def test_at_every_step(host: HostCpu, tracers: tuple[SoftTracer, ...], regression: Regression) -> None:
    case = regression.case()
    work = [(case.form.code, case.state)]
    expected, trace = next(host.trace_many(work))
    for tracer in tracers:
        got, other = next(tracer.trace_many(work))
        assert compare_traces(case, (expected, got), (trace, other)) == []


@EVERY
def test_at_the_end(host: HostCpu, soft: SoftCpu[SoftVcpu], regression: Regression) -> None:
    case = regression.case()
    work = [(case.form.code, case.state)]
    expected, trace = next(host.trace_many(work))
    assert compare_ends(case, expected, soft.run(*work[0]), undefined_at_end(case, trace)) == []
