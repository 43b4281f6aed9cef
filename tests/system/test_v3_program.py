"""Code that a compiler makes for x86-64-v3 gives in a guest what it gives on the host: one object file, linked into both."""

import subprocess
import sys
from pathlib import Path

import pytest

from cases import kit
from trapgate import hostcpu

TRAPGATE = str(Path(sys.executable).with_name("trapgate"))
FLAGS = (
    "-O3 -march=x86-64-v3 -DROUNDS=100 -ffreestanding -fno-pie -mno-red-zone -fno-math-errno -fno-stack-protector "
    "-fcf-protection=none -fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns"
).split()
LACKED = {"avx", "avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "movbe"} - (hostcpu.features() or set())

pytestmark = [
    pytest.mark.skipif(bool(kit.LACKING), reason=kit.LACKING),
    pytest.mark.skipif(bool(LACKED), reason="the host's CPU is not of level x86-64-v3"),
]


def build(*command: str | Path) -> None:
    """Run the compiler."""
    done = subprocess.run(["gcc", *command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[:2000]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("v3") / "v3_kernels.o"
    build(*FLAGS, "-c", "-o", made, kit.HERE / "v3_kernels.c")
    return made


@pytest.fixture(scope="module")
def expected(kernels: Path) -> str:
    """What the host's CPU makes of it."""
    made = kernels.with_name("host")
    build("-no-pie", "-o", made, kit.HERE / "v3_host.c", kernels)
    return subprocess.run([made], capture_output=True, text=True, timeout=60, check=True).stdout


def run(image: str, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [TRAPGATE, "run", "-m", "16M", *words, image]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("cpu", ["EPYC-Turin", "SapphireRapids", "x86-64-v3"])
def test_the_same_numbers_as_on_the_host(cpu: str, kernels: Path, expected: str, tmp_path: Path) -> None:
    done = run(kit.program("v3_guest", tmp_path, str(kernels)), "--cpu", cpu)
    assert (done.stdout, done.returncode) == (expected, 1), done.stderr
    assert len(expected.splitlines()) == 10


def test_a_cpu_of_level_2_has_none_of_it(kernels: Path, tmp_path: Path) -> None:
    """XSETBV of AVX is #GP there, which the guest's own handler tells."""
    done = run(kit.program("v3_guest", tmp_path, str(kernels)), "--cpu", "x86-64-v2")
    assert done.stdout.startswith("unexpected vector=d\nerror=0\n")
