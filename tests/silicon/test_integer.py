"""Integer instructions: the software CPU against the host CPU, bit by bit where the manuals define the bits."""

import pytest

from trapgate.soft.cpu import SoftVcpu

from . import catalog
from .host import HostCpu
from .sample import choose, judge, report
from .soft import make_soft_cpu
from .soft_runner import SoftCpu

QUICK, LONG = 200, 10_000
SEED = 1


@pytest.fixture(scope="module")
def soft() -> SoftCpu[SoftVcpu]:
    """The software CPU as a runner."""
    return make_soft_cpu()


def _agree(host: HostCpu, soft: SoftCpu[SoftVcpu], mnemonic: str, count: int, seed: int) -> None:
    cases = choose(catalog.forms(mnemonic), count, f"{mnemonic} {seed}")
    texts = judge(cases, host, soft)
    assert not texts, report(texts, len(cases))


@pytest.mark.parametrize("seed", [SEED], ids=lambda seed: f"seed{seed}")
@pytest.mark.parametrize("mnemonic", catalog.INTEGER)
def test_as_on_silicon(host: HostCpu, soft: SoftCpu[SoftVcpu], mnemonic: str, seed: int) -> None:
    _agree(host, soft, mnemonic, QUICK, seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", [SEED + 1], ids=lambda seed: f"seed{seed}")
@pytest.mark.parametrize("mnemonic", catalog.INTEGER)
def test_as_on_silicon_at_length(host: HostCpu, soft: SoftCpu[SoftVcpu], mnemonic: str, seed: int) -> None:
    _agree(host, soft, mnemonic, LONG, seed)
