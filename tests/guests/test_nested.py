"""What `make test-kvm` makes of a nested machine: its records, its end, and the report."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as xml

import pytest
from click.testing import CliRunner

from tools import test_kvm
from tools.guests.sources import GuestError
from tools.nested import emulator, inside, junit, machine
from tools.nested.image import PLACE
from trapgate.kvm import probe
from trapgate.kvm.ioctl import KvmError
from trapgate.kvm.probe_guest import Ability


def says(*lines: str, status: int = 0) -> list[str]:
    """A command that prints lines and ends."""
    return [sys.executable, "-c", f"import sys; print({chr(10).join(lines)!r}); print('why', file=sys.stderr); sys.exit({status})"]


def test_records_until_it_is_over(tmp_path: Path) -> None:
    told = [{"kernel": "6.1"}, {"tests": 2}, {"over": True}]
    found = list(machine.records(says(*map(json.dumps, told)), tmp_path / "console", 20))
    assert found == told[:-1]


def test_a_machine_that_ends_too_soon(tmp_path: Path) -> None:
    (tmp_path / "console").write_text("Kernel panic")
    with pytest.raises(machine.NestedError, match=r"ended too soon: why\n  Kernel panic"):
        list(machine.records(says(json.dumps({"kernel": "6.1"}), status=1), tmp_path / "console", 20))


def test_a_machine_that_cannot_run_guests_says_so_in_a_line(tmp_path: Path) -> None:
    told = [{"kernel": "6.1"}, {"trouble": "no /dev/kvm: kvm_amd finds no SVM"}, {"over": True}]
    with pytest.raises(machine.NestedError, match=r"^no /dev/kvm: kvm_amd finds no SVM$"):
        list(machine.records(says(*map(json.dumps, told)), tmp_path / "console", 20))


def test_a_machine_that_says_nothing(tmp_path: Path) -> None:
    silent = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(machine.NestedError, match="said nothing"):
        list(machine.records(silent, tmp_path / "console", 0.3))


def test_the_report() -> None:
    outcomes = ("passed", "failed", "skipped", "not judged")
    tests = [{"test": f"tests/kvm/test_a.py::test[{one}]", "outcome": one, "seconds": 1.0, "text": "a\x00b"} for one in outcomes]
    suite = xml.fromstring(junit.document("6.1", tests))
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("4", "1", "2")
    assert [[child.tag for child in case] for case in suite] == [[], ["failure"], ["skipped"], ["skipped"]]
    assert suite[1][0].get("message") == "a?b"


def test_versions_of_qemu(tmp_path: Path) -> None:
    new = [sys.executable, "-c", "print('QEMU emulator version 10.0.2 (Debian)')"]
    assert emulator.version(new) >= emulator.LEAST
    with pytest.raises(GuestError, match="tells no version"):
        emulator.version([sys.executable, "-c", "print('no')"])


@pytest.mark.parametrize(("options", "status", "says"), [(["--quick"], 0, "skipped: no network"), (["--short"], 1, "no network")])
def test_what_cannot_be_had_is_no_failure_of_the_quick_one(
    options: list[str], status: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> list[str]:
        raise GuestError("no network")

    monkeypatch.setattr(emulator, "qemu", fail)
    monkeypatch.setattr(test_kvm, "FOLDER", tmp_path)
    done = CliRunner().invoke(test_kvm.main, options)
    assert done.exit_code == status, done.output
    assert says in done.output


def test_a_machine_in_trouble_is_a_failure_of_the_quick_one_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator, "qemu", lambda *_: ["qemu"])
    monkeypatch.setattr(test_kvm, "image", lambda *_: (tmp_path, tmp_path))
    monkeypatch.setattr(machine, "command", lambda *_: says(json.dumps({"kernel": "6.1"}), json.dumps({"trouble": "no SVM"})))
    monkeypatch.setattr(test_kvm, "FOLDER", tmp_path)
    done = CliRunner().invoke(test_kvm.main, ["--quick"])
    assert done.exit_code == 1
    assert "no SVM" in done.output


# --- what the nested machine finds out about itself


@pytest.fixture
def nested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A nested machine in which all is well: its device, its module's parameter, and a guest that runs."""
    (tmp_path / "kvm").touch()
    (tmp_path / "npt").write_text("Y\n")
    monkeypatch.setattr(inside, "DEVICE", tmp_path / "kvm")
    monkeypatch.setattr(inside, "NESTED_PAGING", tmp_path / "npt")
    monkeypatch.setattr(probe, "abilities", lambda: iter([Ability("64-bit guests", True, "run")]))
    return tmp_path


def test_a_machine_in_which_all_is_well(nested: Path) -> None:
    assert inside.trouble() == ""


@pytest.mark.parametrize(("log", "told"), [
    ("[ 1.2] kvm: no hardware support\n[ 1.3] random: no\n", "kvm: no hardware support"),
    ("[ 1.2] kvm_amd: SVM not supported by CPU 0\n", "kvm_amd: SVM not supported by CPU 0"),
    ("", "it says nothing"),
])  # fmt: skip
def test_a_machine_without_kvm(nested: Path, log: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (nested / "kvm").unlink()
    monkeypatch.setattr(subprocess, "run", lambda *words, **options: subprocess.CompletedProcess(words, 0, log, ""))
    assert inside.trouble() == f"no /dev/kvm: kvm_amd is not there, or finds no SVM ({told})"


@pytest.mark.parametrize("npt", ["N", "0"])
def test_a_machine_without_nested_paging(nested: Path, npt: str) -> None:
    (nested / "npt").write_text(f"{npt}\n")
    assert inside.trouble().startswith("kvm_amd is without nested paging (npt=0): ")


def test_a_machine_whose_kernel_lacks_a_capability(nested: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks() -> None:
        raise KvmError("this host's KVM lacks KVM_CAP_DEBUGREGS", 0)

    monkeypatch.setattr(probe, "abilities", lambda: iter(lacks, 0))
    assert inside.trouble() == "this host's KVM lacks KVM_CAP_DEBUGREGS"


def test_a_machine_whose_guests_do_not_run(nested: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "abilities", lambda: iter([Ability("64-bit guests", False, "exit 9 instead")]))
    assert inside.trouble() == "this KVM runs no guest: 64-bit guests: exit 9 instead"


@pytest.mark.linux
@pytest.mark.timeout(1200)
def test_the_quick_run() -> None:
    """All of it on one kernel, with some of the tests: `make test-kvm KVM=--quick`."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.test_kvm", "--quick"],
        cwd=PLACE, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout or done.stdout.startswith("skipped: ")
