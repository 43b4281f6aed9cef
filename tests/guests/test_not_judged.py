"""Each row that `make test-kvm` does not judge is a fault of QEMU's own: it shows there without KVM as well."""

import shutil
from pathlib import Path

import pytest

from programs.debug.cases import CASES
from programs.debug.on_qemu import logs
from tools.nested import emulator, machine
from tools.nested.image import FOLDER
from tools.nested.not_judged import ROWS, reason

BY_NAME = {case.name: case for case in CASES}
WRONG = sorted({name for row in ROWS for name in row.cases})


@pytest.fixture(scope="module")
def qemu() -> list[str]:
    """As the nested machine has it, which counts instructions: a translated block then ends with each iteration of REP."""
    installed = shutil.which(emulator.NAME)
    if installed is not None and emulator.version([installed]) >= emulator.LEAST:
        return [installed, *machine.BY_INSTRUCTIONS]
    if not (FOLDER / f"qemu-{emulator.SOURCE.suite}").is_dir():
        pytest.skip("needs QEMU 9.1 or newer, which `make test-kvm` unpacks")
    return [*emulator.unpacked(FOLDER, FOLDER), *machine.BY_INSTRUCTIONS]


@pytest.mark.long
@pytest.mark.parametrize("name", WRONG)
def test_qemu_gets_it_wrong_without_kvm(name: str, qemu: list[str], tmp_path: Path) -> None:
    found, expected = logs(BY_NAME[name], qemu, tmp_path)
    assert found != expected


@pytest.mark.long
@pytest.mark.parametrize("name", ["BS", "BS, each instruction", "Bn exec", "Bn write", "SYSCALL with TF", "DR4 with CR4.DE: #UD"])
def test_qemu_gets_these_right(name: str, qemu: list[str], tmp_path: Path) -> None:
    """The way to ask it shows nothing else."""
    found, expected = logs(BY_NAME[name], qemu, tmp_path)
    assert found == expected


def test_a_test_that_is_judged() -> None:
    assert reason("tests/kvm/test_debug_cases.py::test_case[two Bn-alone]") == ROWS[1].what
    assert reason("tests/kvm/test_debug_cases.py::test_case[BS-alone]") is None
    assert reason("tests/kvm/test_gdb.py::test_it") is None
