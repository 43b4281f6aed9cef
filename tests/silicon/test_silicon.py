"""Every instruction: the software CPU against the host CPU, bit by bit where the manuals define the bits."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from trapgate.soft.cpu import SoftVcpu

from . import catalog, catalog_sse, catalog_x87
from .compare import Case
from .host import HostCpu
from .sample import choose, judge, report
from .soft import make_soft_cpu
from .soft_runner import SoftCpu

LONG = 10_000
SEED = 1


@dataclass(frozen=True)
class Family:
    """Instructions sampled alike. `choose` takes a mnemonic, a count and a seed; CI tries `quick` cases of each mnemonic."""

    name: str
    mnemonics: tuple[str, ...]
    choose: Callable[[str, int, str], list[Case]]
    quick: int


FAMILIES = (
    Family("integer", tuple(catalog.INTEGER), lambda name, count, seed: choose(catalog.forms(name), count, seed), 200),
    Family("sse", tuple(catalog_sse.MNEMONICS), catalog_sse.choose, 100),
    Family("x87", tuple(catalog_x87.MNEMONICS), catalog_x87.choose, 100),
)
EVERY = pytest.mark.parametrize(
    ("family", "mnemonic"), [pytest.param(f, name, id=f"{f.name}-{name}") for f in FAMILIES for name in f.mnemonics]
)


@pytest.fixture(scope="module")
def soft() -> SoftCpu[SoftVcpu]:
    """The software CPU as a runner."""
    return make_soft_cpu()


def _agree(host: HostCpu, soft: SoftCpu[SoftVcpu], family: Family, mnemonic: str, count: int, seed: int) -> None:
    cases = family.choose(mnemonic, count, f"{mnemonic} {seed}")
    texts = judge(cases, host, soft)
    assert not texts, report(texts, len(cases))


@EVERY
@pytest.mark.parametrize("seed", [SEED], ids=lambda seed: f"seed{seed}")
def test_as_on_silicon(host: HostCpu, soft: SoftCpu[SoftVcpu], family: Family, mnemonic: str, seed: int) -> None:
    _agree(host, soft, family, mnemonic, family.quick, seed)


@pytest.mark.long
@EVERY
@pytest.mark.parametrize("seed", [SEED + 1], ids=lambda seed: f"seed{seed}")
def test_as_on_silicon_at_length(host: HostCpu, soft: SoftCpu[SoftVcpu], family: Family, mnemonic: str, seed: int) -> None:
    _agree(host, soft, family, mnemonic, LONG, seed)
