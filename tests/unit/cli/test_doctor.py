"""`trapgate doctor`: each finding is made from the host, and each lack says what to do."""

from pathlib import Path

import pytest

from trapgate.cli import demo_debugger, doctor, hostkvm
from trapgate.cli.doctor import Verdict
from trapgate.cli.main import status_of
from trapgate.kvm.ioctl import KvmError
from trapgate.sandbox import confine
from trapgate.sandbox.confine import Hold


def test_report_on_this_host(private_caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = status_of(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    subjects = [line[3:21].strip() for line in lines]
    assert [one for one in subjects if not one.startswith("- ")] == [
        "CPU",
        "LLVM",
        "decoder",
        "executable memory",
        "sandbox",
        "gdb",
        "/dev/kvm",
        "cache",
    ]
    assert status == (1 if any(line.startswith("!!") for line in lines) else 0)


def test_other_hosts_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert doctor.host_cpu().verdict is Verdict.MISSING


def test_denied_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("mmap.mmap", deny)
    finding = doctor.executable_memory()
    assert finding.verdict is Verdict.MISSING
    assert "Permission denied" in finding.text


@pytest.mark.parametrize(
    ("hold", "verdict", "words"),
    [
        (Hold(7, True), Verdict.GOOD, "Landlock ABI 7, seccomp"),
        (Hold(0, True, ("Landlock: Function not implemented",)), Verdict.LACKING, "a run may open any file of yours"),
        (Hold(3, False, ("seccomp: Operation not permitted",)), Verdict.LACKING, "a run may make any system call"),
        (Hold(0, False, ("Landlock: x", "seccomp: y")), Verdict.LACKING, "none (Landlock: x; seccomp: y)"),
    ],
)
def test_what_keeps_a_run_from_the_host(monkeypatch: pytest.MonkeyPatch, hold: Hold, verdict: Verdict, words: str) -> None:
    monkeypatch.setattr(confine, "offered", lambda: hold)
    finding = doctor.sandbox()
    assert finding.verdict is verdict
    assert words in finding.text


def test_no_gdb_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    finding = doctor.gdb()
    assert finding.verdict is Verdict.LACKING
    assert "apt-get install gdb" in finding.text


def test_a_gdb_that_does_not_answer_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gdb").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    (tmp_path / "gdb").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(demo_debugger, "TIMEOUT", 0.2)
    assert doctor.gdb().verdict is Verdict.LACKING


@pytest.mark.parametrize(("error", "words"), [(FileNotFoundError(2, "x"), "not there"), (PermissionError(13, "x"), "usermod")])
def test_kvm_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, error: OSError, words: str) -> None:
    def fail() -> dict[str, bool]:
        raise error

    monkeypatch.setattr(hostkvm, "capabilities", fail)
    finding = doctor.kvm()
    assert finding.verdict is Verdict.LACKING
    assert words in finding.text


def test_a_device_that_is_no_kvm() -> None:
    with pytest.raises(OSError, match="ioctl"):
        hostkvm.capabilities("/dev/null")


def test_a_kvm_that_makes_no_guest_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise KvmError("KVM_CREATE_VM", 12)

    monkeypatch.setattr("trapgate.kvm.probe.abilities", fail)
    monkeypatch.setattr("os.access", lambda *arguments: True)
    monkeypatch.setattr("pathlib.Path.exists", lambda path: True)
    (finding,) = doctor.kvm_abilities()
    assert (finding.verdict, finding.text.split(";")[0]) == (Verdict.LACKING, "KVM_CREATE_VM: Cannot allocate memory")


@pytest.mark.kvm
def test_what_kvm_was_seen_to_do() -> None:
    """Whatever the host is: it runs a guest, and what it injects is what the guest reads, or the report says what was read."""
    found = {finding.subject: finding for finding in doctor.kvm_abilities()}
    assert {"- single step", "- two on one place", "- IRET", "- bus-lock #DB", "- bus-lock exits", "- kvmclock"} <= set(found)
    assert found["- 64-bit guests"].verdict is Verdict.GOOD
    for name in ("- injected #DB", "- without payload"):
        assert all(f"{value} reads " in found[name].text for value in ("800", "4000", "4801"))
    assert all(finding.text for finding in found.values())


@pytest.mark.kvm
def test_kvm_of_this_host() -> None:
    assert set(hostkvm.capabilities()) == set(hostkvm.CAPABILITIES)
