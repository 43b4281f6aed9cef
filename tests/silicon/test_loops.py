"""Loops compiled as one function against the host CPU: random runs that come round again, each of their loops compiled."""

from collections.abc import Iterator

import pytest

from trapgate.isa.native.placing import PLACE
from trapgate.soft.cpu import SoftVcpu
from trapgate.soft.loops.graph import Placed, graph
from trapgate.soft.loops.installed import install
from trapgate.stencil.graph import NotALoop
from trapgate.stencil.loop import compile_loop

from . import guest_kernel as guest
from . import sequences
from .compare import explain
from .host import HostCpu
from .sample import report
from .soft import make_soft_cpu
from .soft_runner import SoftCpu
from .state import CODE, CODE_PAGE, CODE_SIZE, Outcome, State
from .stepwise import compare_ends, undefined_at_end
from .trace import endless

QUICK, LONG = 30, 1500  # runs; one in five or so has a loop that can be compiled
CODE_PHYSICAL = guest.CODE_PHYSICAL + CODE - CODE_PAGE


def blocks_of_the_case(vcpu: SoftVcpu) -> Iterator[Placed]:
    """Those in the dispatcher's table that were made of a case's bytes."""
    table, heads = vcpu.blocks._table.view.cast("Q"), vcpu.blocks._heads.view.cast("I")
    slot = heads[CODE_PHYSICAL >> 12]
    while slot:
        rip, physical, third, fourth = table[4 * slot - 4 : 4 * slot]
        if CODE_PHYSICAL <= physical < CODE_PHYSICAL + CODE_SIZE:
            yield Placed(rip, physical, third & 0xFFFFFFFF, fourth & 0xFFFFFFFF, fourth >> 32)
        slot = third >> 32 & PLACE


class Looping:
    """Runs each case twice: as blocks, then with a loop of it compiled."""

    def __init__(self, soft: SoftCpu[SoftVcpu]) -> None:
        self.soft, self.compiled = soft, 0

    def run(self, code: bytes, state: State) -> tuple[Outcome, Outcome]:
        """Both outcomes."""
        return self.soft.run(code, state), (self._compile(), self.soft.run(code, state))[1]

    def _compile(self) -> None:
        vcpu = self.soft.vcpu
        for block in blocks_of_the_case(vcpu):
            around = graph(vcpu, block)
            if around is None:
                continue
            try:
                loop = compile_loop(around.nodes)
            except NotALoop:
                continue
            assert install(vcpu, around, loop)
            self.compiled += 1
            return


def _agree(host: HostCpu, count: int, seed: str) -> int:
    looping, texts = Looping(make_soft_cpu()), []
    runs = [run for run in (sequences.make_run(f"{seed} {n}") for n in range(count)) if "loop" in run.case.form.text]
    for run, (expected, trace) in zip(runs, host.trace_many((run.case.form.code, run.case.state) for run in runs), strict=True):
        if endless(expected):
            continue
        for way, got in zip(("in blocks", "compiled"), looping.run(run.case.form.code, run.case.state), strict=True):
            if found := compare_ends(run.case, expected, got, undefined_at_end(run.case, trace)):
                texts.append(explain(run.case, [f"{way}:", *found]))
    assert not texts, report(texts, len(runs))
    return looping.compiled


def test_loops_as_on_silicon(host: HostCpu) -> None:
    assert _agree(host, QUICK, "loops") > QUICK // 10


@pytest.mark.long
def test_loops_as_on_silicon_at_length(host: HostCpu) -> None:
    assert _agree(host, LONG, "more loops") > LONG // 10
