"""The rules of `vendor_rules`: the software CPU follows the vendor of its model; the host CPU has the answers of its own vendor."""

import pytest

from trapgate.arch.models import MODELS
from trapgate.soft.cpu import SoftVcpu

from .host import HostCpu
from .processor import host_processor
from .soft import make_soft_cpu
from .soft_runner import SoftCpu
from .state import GPR_NAMES, SCRATCH, Outcome
from .vendor_rules import FSW, FTW, RULES, Answer, Rule

EVERY = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)


@pytest.fixture(scope="module", params=MODELS)
def soft(request: pytest.FixtureRequest) -> tuple[str, SoftCpu[SoftVcpu]]:
    """The software CPU as a runner, and the vendor of its model."""
    return MODELS[request.param].vendor, make_soft_cpu(request.param)


def answer(rule: Rule, outcome: Outcome) -> Answer:
    """What an outcome says, in the words of the rules."""
    before = rule.state
    pairs = zip(GPR_NAMES, before.gpr, outcome.gpr, strict=True)
    changed = [at for at in range(0, len(before.memory), 8) if before.memory[at : at + 8] != outcome.memory[at : at + 8]]
    fsw = int.from_bytes(outcome.fx[FSW : FSW + 2], "little")
    return Answer(
        outcome.fault,
        {name: after for name, old, after in pairs if after != old},
        (outcome.rflags & ~2) if (outcome.rflags ^ before.rflags) & ~2 else None,
        fsw if fsw != rule.fsw else None,
        outcome.fx[FTW] if outcome.fx[FTW] != rule.tags else None,
        {SCRATCH + at: int.from_bytes(outcome.memory[at : at + 8], "little") for at in changed},
        None if rule.intel.rip is None else outcome.rip,
    )


@EVERY
def test_the_software_cpu(soft: tuple[str, SoftCpu[SoftVcpu]], rule: Rule) -> None:
    vendor, cpu = soft
    assert answer(rule, cpu.run(rule.code, rule.state)) == getattr(rule, vendor)


@EVERY
def test_the_host_cpu(host: HostCpu, rule: Rule) -> None:
    processor = host_processor()
    if rule.needs and rule.needs not in processor.features:
        pytest.skip(f"the host CPU has no {rule.needs}")
    assert answer(rule, host.run(rule.code, rule.state)) in rule.answers(processor)
