"""`trapgate report` and what `trapgate scan` looks at, without a guest."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trapgate.cli import errors, scan
from trapgate.cli.main import status_of
from trapgate.finder import fingerprints, saved
from trapgate.finder.findings import Process, Report, Run
from trapgate.values import replace
from unit.finder.told import example, plain


@pytest.fixture
def kept(tmp_path: Path) -> list[Path]:
    """Two reports that have a finding in common."""
    files = []
    for number, findings in enumerate(([example(), plain()], [replace(example(), processes=[Process("other", 3, 3, 100)])])):
        fingerprints.give(findings)
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(
            json.dumps(saved.value(Report((Run((f"program{number}",), status=number),), tuple(findings), (f"note {number}",))))
        )
    return files


def test_several_become_one(kept: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["report", *map(str, kept), "--format", "json"]) == 1
    whole = json.loads(capsys.readouterr().out)
    assert [one["program"] for one in whole["runs"]] == [["program0"], ["program1"]]
    assert (whole["program"], whole["notes"]) == ([], ["note 0", "note 1"])
    first, second = whole["findings"]
    assert (first["count"], len(first["processes"]), first["stacks"][0]["count"]) == (110, 3, 12)
    assert second["kind"] == "TG0002"


def test_what_cannot_be_told_is_no_verdict(kept: list[Path]) -> None:
    """A full disk behind standard output, and a reader that has left: neither 0 nor 1, which say what was found."""
    command = [str(Path(sys.executable).with_name("trapgate")), "report", str(kept[0])]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == errors.GUEST_FAILED
    assert done.stderr == "trapgate: error: standard output cannot be written: No space left on device; make room on the disk\n"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (errors.OUTPUT_CLOSED, "")


def test_a_directory_is_all_of_its_reports(kept: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.log").write_text("no report")
    assert status_of(["report", str(tmp_path), "--format", "jsonl", "--exit-zero"]) == 0
    assert capsys.readouterr().out.count("\n") == 2


def test_in_several_formats_and_with_what_is_known(kept: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, known = tmp_path / "page.html", tmp_path / "known"
    assert status_of(["report", str(kept[0]), "--baseline", str(kept[0]), "--format", f"html:{page}", "--format", "text"]) == 0
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert capsys.readouterr().out.count("(in the baseline)") == 2
    assert status_of(["report", str(kept[1]), "--baseline", str(kept[0]), "-o", "/dev/null"]) == 0
    assert status_of(["report", str(kept[0]), "--baseline", str(kept[1]), "--error-exitcode", "7", "-o", "/dev/null"]) == 7
    assert status_of(["report", str(kept[0]), "--format", f"suppressions:{known}"]) == 1
    capsys.readouterr()
    assert status_of(["report", str(tmp_path), "--suppressions", str(known)]) == 0
    assert capsys.readouterr().out.count("trapgate: suppressed by TG000") == 2


def test_what_is_wrong_is_told_in_a_line(kept: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad"
    bad.write_text("{}")
    for arguments, word in (
        (["report"], "Missing argument"),
        (["report", str(bad)], "is no report of trapgate's"),
        (["report", "/no/such"], "cannot read /no/such: No such file"),
        (["report", str(kept[0]), "--format", "yaml"], "'yaml' is none of text, json"),
        (["report", str(kept[0]), "--format", "html:"], "'html:' is none of"),
        (["report", str(kept[0]), "--format", "html", "--format", "json"], "several formats need a file each"),
        (["report", str(kept[0]), "--baseline", str(bad)], "is no report of trapgate's"),
        (["report", str(kept[0]), "--suppressions", str(bad)], f"{bad}:1: a suppression begins with"),
        (["report", str(kept[0]), "--format", "html:/no/such/page"], "--format html:/no/such/page: No such file"),
        (["scan", "/no/such"], "cannot read /no/such: No such file"),
        (["scan", str(bad), "--shard", "2/1"], "'2/1' is no part"),
        (["scan", str(bad), "--results", "/dev/null/x"], "--results /dev/null/x: Not a directory"),
    ):
        assert status_of(arguments) == errors.USAGE, arguments
        told = capsys.readouterr().err
        assert word in told
        assert told.count("\n") == 1


def test_a_list_is_words_as_a_shell_has_them(tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_text("# all\n\ntrue\n  sh -c 'exit 3' # why\n./a\\ b \"\"\n")
    assert [one.command for one in scan.targets(str(file))] == [("true",), ("sh", "-c", "exit 3"), ("./a b", "")]
    file.write_text("true\nsh -c 'exit\n")
    with pytest.raises(errors.Failure, match=":2 is no command: no closing quotation"):
        list(scan.targets(str(file)))


def test_a_directory_is_its_programs(tmp_path: Path) -> None:
    for name, data, mode in (
        ("b", b"\x7fELF", 0o755),
        ("a", b"#!/bin/sh\n", 0o755),
        ("c", b"\x7fELF", 0o644),
        ("d", b"text", 0o755),
    ):
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(mode)
    (tmp_path / "folder").mkdir()
    assert [one.command for one in scan.targets(str(tmp_path))] == [(str(tmp_path / "a"),), (str(tmp_path / "b"),)]


def test_results_have_names_of_their_own() -> None:
    commands = [("a", "b"), ("a b",), ("a", "b", ""), ("/x/a", "b"), ("\udcff\n/", "x" * 5000), ("." * 300,)]
    names = [scan.Target(one).name for one in commands]
    assert len(set(names)) == len(names)
    assert all(len(name) < 100 and name.encode() and "/" not in name and "\n" not in name for name in names)
