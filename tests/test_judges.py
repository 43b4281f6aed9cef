"""A run says which judges it had, also where most are missing."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import judges
from silicon.recording import FOLDER, SUFFIX
from trapgate.kvm import probe
from trapgate.kvm.ioctl import KvmError
from trapgate.kvm.probe_guest import Ability


@pytest.fixture
def unprobed() -> Iterator[None]:
    """What was found of KVM is forgotten before and after."""
    judges.kvm_trouble.cache_clear()
    yield
    judges.kvm_trouble.cache_clear()


def test_the_line_names_every_recording() -> None:
    names = [path.name.removesuffix(SUFFIX) for path in FOLDER.glob(f"*{SUFFIX}")]
    assert names
    assert all(name in judges.line() for name in names)
    assert "\n" not in judges.line()


def test_a_host_without_programs_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert judges.line().endswith("no gdb; no QEMU; no Bochs")


def test_versions_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, answer in {"gdb": "GNU gdb (Distribution 12.1-3) 12.1", "bochs": "no number"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{answer}'\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "qemu-system-x86_64").write_text("no program at all")
    (tmp_path / "qemu-system-x86_64").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    line = judges.line()
    assert "; gdb 12.1; no QEMU: " in line
    assert line.endswith("; Bochs")


@pytest.mark.usefixtures("unprobed")
def test_kvm_that_cannot_be_used_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> Iterator[Ability]:
        raise KvmError("no KVM here", 0, "load a module")
        yield

    monkeypatch.setattr(probe, "abilities", refused)
    assert "; no KVM (no KVM here" in judges.line()


@pytest.mark.usefixtures("unprobed")
def test_kvm_whose_guests_do_not_run_is_no_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "abilities", lambda: iter([Ability("64-bit guests", False, "KVM_EXIT_FAIL_ENTRY")]))
    assert "; no KVM (64-bit guests: KVM_EXIT_FAIL_ENTRY); " in judges.line()


def test_a_run_begins_with_the_line() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "--no-summary", str(Path(__file__))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
    assert [line for line in done.stdout.splitlines() if line.startswith("judges: ")] == [judges.line()]
