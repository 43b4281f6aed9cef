"""What `make test-kvm` makes of a nested machine: its records, its end, and the report."""

import json
import sys
from pathlib import Path
from xml.etree import ElementTree as xml

import pytest

from tools.guests.sources import GuestError
from tools.nested import emulator, junit, machine


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
