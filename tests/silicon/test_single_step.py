"""The guest's own single step: an instruction under TF does what it does without, and #DB comes right behind it."""

import pytest

from trapgate.arch.debugregs import DR6_BS
from trapgate.exits import DebugException, Exit
from trapgate.soft.cpu import SoftVcpu

from . import catalog, sequences
from .compare import Case, compare, explain
from .forms import Form
from .host import HostCpu
from .sample import choose, report
from .soft import BATCH, make_soft_cpu, start
from .soft_runner import SoftCpu
from .state import DB, SIGTRAP, TF, Fault, Outcome

COUNT = 12
MNEMONICS = [name for name in catalog.INTEGER if name not in ("pushf", "pushfq")]  # those store TF


class Guest:
    """A vCPU without a debugger: every #DB is the guest's."""

    def __init__(self, vcpu: SoftVcpu) -> None:
        self.vcpu = vcpu
        self.causes: list[int] = []

    def run(self) -> Exit:
        """As `Vcpu.run`."""
        while isinstance(end := self.vcpu.run(), DebugException):
            self.causes.append(end.causes)
            self.vcpu.deliver_debug(end.causes, 0, end.icebp)
        return end

    def kick(self) -> None:
        """As `Vcpu.kick`."""
        self.vcpu.kick()

    def get(self, register: str) -> int:
        """As `Vcpu.get`."""
        return self.vcpu.get(register)


@pytest.fixture(scope="module")
def soft() -> SoftCpu[Guest]:
    """The software CPU as a runner that lets its guest single-step."""
    plain = make_soft_cpu()
    return SoftCpu(Guest(plain.vcpu), plain.ram, lambda guest, registers: start(guest.vcpu, registers), batch=BATCH)


def _stepped(outcome: Outcome) -> Outcome:
    """What TF makes of an outcome: the case ends with #DB where it would have gone on."""
    return outcome if outcome.fault else outcome._replace(fault=Fault(SIGTRAP, DB))


def _once(form: Form) -> bool:
    """Whether one step is the whole instruction."""
    return not form.instruction.has_rep_prefix and not form.instruction.has_repne_prefix


@pytest.mark.parametrize("mnemonic", MNEMONICS)
def test_one_instruction_then_the_trap(host: HostCpu, soft: SoftCpu[Guest], mnemonic: str) -> None:
    cases = choose([form for form in catalog.forms(mnemonic) if _once(form)], COUNT, mnemonic)
    plain = host.run_many((case.form.code, case.state) for case in cases)
    soft.vcpu.causes.clear()
    stepped = list(soft.run_many((case.form.code, case.state._replace(rflags=case.state.rflags | TF)) for case in cases))
    expected = [_stepped(outcome) for outcome in plain]
    texts = [
        explain(case, found)
        for case, want, got in zip(cases, expected, stepped, strict=True)
        if (found := compare(case, want, got))
    ]
    assert not texts, report(texts, COUNT)
    assert soft.vcpu.causes == [DR6_BS] * sum(outcome.fault == Fault(SIGTRAP, DB) for outcome in expected)


def test_only_the_first_instruction_of_a_run(host: HostCpu, soft: SoftCpu[Guest]) -> None:
    """TF is seen at the very instruction, not at the end of its block."""
    nops = catalog.forms("nop")[0]
    cases = [sequences.make_run(f"tf {n}").case for n in range(40)]
    for case in cases:
        code = b"\x90" + case.form.code
        got = soft.run(code, case.state._replace(rflags=case.state.rflags | TF))
        assert got.fault == Fault(SIGTRAP, DB)
        assert not compare(Case(nops, case.state), host.run(b"\x90", case.state), got._replace(fault=None))
