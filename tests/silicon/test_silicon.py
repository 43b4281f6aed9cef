"""Every instruction: the software CPU against the host CPU, bit by bit where the manuals define the bits.

The fast tier tries each instruction, the long one each opcode of it: an operation with its operand kinds and widths settled.
The encodings of an opcode (registers, high bytes, every addressing form, prefixes) share its cases evenly.
"""

from collections import Counter

import pytest

from trapgate.soft.cpu import SoftVcpu

from .families import FAMILIES, Family
from .forms import by_opcode
from .host import HostCpu
from .sample import judge, report
from .soft import make_soft_cpu
from .soft_runner import SoftCpu

QUICK, LONG = 200, 10_000  # cases of an instruction, of an opcode
SEED = 1
EVERY = pytest.mark.parametrize(
    ("family", "mnemonic"), [pytest.param(f, name, id=f"{f.name}-{name}") for f in FAMILIES for name in f.mnemonics]
)


@pytest.fixture(scope="module")
def soft() -> SoftCpu[SoftVcpu]:
    """The software CPU as a runner."""
    return make_soft_cpu()


@EVERY
@pytest.mark.parametrize("seed", [SEED], ids=lambda seed: f"seed{seed}")
def test_as_on_silicon(host: HostCpu, soft: SoftCpu[SoftVcpu], family: Family, mnemonic: str, seed: int) -> None:
    cases = family.choose(mnemonic, QUICK, f"{mnemonic} {seed}")
    assert len(cases) == QUICK
    texts = judge(cases, host, soft)
    assert not texts, report(texts, len(cases))


@pytest.mark.long
@EVERY
@pytest.mark.parametrize("seed", [SEED + 1], ids=lambda seed: f"seed{seed}")
def test_as_on_silicon_at_length(host: HostCpu, soft: SoftCpu[SoftVcpu], family: Family, mnemonic: str, seed: int) -> None:
    tried, texts = Counter[str](), list[str]()
    opcodes = by_opcode(family.forms(mnemonic))
    for opcode, forms in opcodes.items():
        for cases in family.choose_many(forms, LONG, f"{opcode} {seed}"):
            texts += judge(cases, host, soft)
            tried[opcode] += len(cases)
    print(f"{mnemonic}: {dict(tried)}")
    assert set(tried) == set(opcodes)
    assert min(tried.values()) >= LONG
    assert not texts, report(texts, tried.total())
