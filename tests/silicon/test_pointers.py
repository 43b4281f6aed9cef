"""The pointers of the last x87 instruction: what FNSTENV, FNSAVE and FXSAVE show of it, natively and from Python."""

from functools import cache

import pytest

from trapgate.arch.models import MODELS
from trapgate.soft.cpu import SoftVcpu

from .assemble import assemble
from .host import HostCpu
from .soft import make_soft_cpu
from .soft_runner import SoftCpu
from .state import CODE, FX_INIT, GPR_NAMES, SCRATCH, SCRATCH_SIZE, State

POINTER = SCRATCH + 0x1000  # what every register holds
UNMASKED = "mov word ptr [rdi+64], 0x340\nfldcw [rdi+64]\n"
SAVES = {"fnstenv [rdi]": 12, "fnsave [rdi]": 12, "fxsave [rdi]": 8, "fxsave64 [rdi]": 8}  # and where they have FIP
LAST = {  # texts, and how many bytes behind the beginning the last x87 instruction lies that counts
    "fld1": 0,
    "fld1\nfld qword ptr [rsi]": 2,
    "fld1\nfld qword ptr [rsi]\nfstp qword ptr [rsi+8]": 4,
    "fld1\ncpuid": 0,  # Python sees the state meanwhile
    "fld1\nfnclex\nfnstcw [rsi]\nfnstsw ax\nwait": 0,
    "fld1\nmovq mm0, mm1\nemms": 0,
    "fld1\nfnstenv [rsi]\nfldz\nfldenv [rsi]": 0,
    "fld1\nfxsave [rsi]\nfldz\nfxrstor [rsi]": 0,
    "fld1\nfld1\nfcmove st, st(1)": 4,
}


def state() -> State:
    gpr = tuple(POINTER + 0x400 if name == "rsi" else POINTER for name in GPR_NAMES)
    return State(gpr, 0x202, FX_INIT, bytes(SCRATCH_SIZE))


@pytest.fixture(scope="module", params=MODELS)
def soft(request: pytest.FixtureRequest) -> SoftCpu[SoftVcpu]:
    """The software CPU as a runner, of either vendor's model."""
    return make_soft_cpu(request.param)


@cache
def saves_pointers(host: HostCpu) -> bool:
    """Whether the host's FXSAVE has the pointers without an exception that waits: some hosts say so (CPUID XSAVEERPTR), wrongly."""
    return number(host.run(assemble("fld1\nfxsave64 [rdi]"), state()).memory, SAVES["fxsave64 [rdi]"], 4) != 0


def number(memory: bytes, at: int, size: int) -> int:
    return int.from_bytes(memory[0x1000 + at : 0x1000 + at + size], "little")


@pytest.mark.parametrize("unmasked", [False, True])
@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("text", LAST)
def test_last_instruction(host: HostCpu, soft: SoftCpu[SoftVcpu], text: str, save: str, unmasked: bool) -> None:
    before = UNMASKED if unmasked else ""
    code = assemble(f"{before}{text}\n{save}")
    expected = CODE + len(assemble(before)) + LAST[text]
    runners: list[HostCpu | SoftCpu[SoftVcpu]] = [soft]
    if "fxsave" not in text + save or saves_pointers(host):
        runners.append(host)
    for runner in runners:
        outcome = runner.run(code, state())
        assert outcome.fault is None
        assert number(outcome.memory, SAVES[save], 4) == expected, runner


@pytest.mark.parametrize("save", SAVES)
def test_none(host: HostCpu, soft: SoftCpu[SoftVcpu], save: str) -> None:
    """FNINIT forgets it."""
    for runner in (host, soft):
        memory = runner.run(assemble(f"fld1\nfld qword ptr [rsi]\nfninit\n{save}"), state()).memory
        assert (number(memory, SAVES[save], 4), number(memory, SAVES[save] + 8, 4)) == (0, 0), runner


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("unmasked", [False, True])
def test_operand(soft: SoftCpu[SoftVcpu], save: str, unmasked: bool) -> None:
    """Its address is kept always on AMD's CPUs, by the Intel model under an unmasked exception only: there is none here."""
    code = assemble(f"{UNMASKED * unmasked}fld qword ptr [rsi]\nfld1\n{save}")
    found = number(soft.run(code, state()).memory, SAVES[save] + 8, 4)
    assert found == (POINTER + 0x400 if soft.vcpu.model.amd else 0)


@pytest.mark.parametrize("save", ["fnstenv [rdi]", "fxsave64 [rdi]"])
def test_operand_of_an_exception(host: HostCpu, soft: SoftCpu[SoftVcpu], save: str) -> None:
    code = assemble(f"{UNMASKED}fldz\nfdivr dword ptr [rsi]\n{save}")  # 0 / 0
    for runner in (host, soft):
        assert number(runner.run(code, state()).memory, SAVES[save] + 8, 4) == POINTER + 0x400, runner
