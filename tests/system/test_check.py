"""`trapgate check` of monitors that are here: our own is right in every row, QEMU's TCG is told what it does wrong."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trapgate.cli.main import status_of

TRAPGATE = str(Path(sys.executable).with_name("trapgate"))
OURS = f"{TRAPGATE} run {{image}} --gdb :{{port}} --wait"
QEMU = "qemu-system-x86_64 -accel tcg -cpu max -m 16 -nodefaults -display none -S -gdb tcp:127.0.0.1:{port} -kernel"
WITH_QEMU = pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs qemu-system-x86")


@pytest.mark.parametrize(("image", "bits"), [("image", "64"), ("multiboot", "32")])
def test_our_own_machine_is_right_beside_a_debugger(image: str, bits: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = OURS.replace("image", image)
    assert status_of(["check", "--bits", bits, "--spawn", command, "--manner", "hbreak", "--manner", "watch-there"]) == 0
    assert capsys.readouterr().out.endswith("30 of 30 are right\n")


@pytest.mark.long
@pytest.mark.parametrize("bits", ["64", "32"])
def test_our_own_machine_is_right_in_every_manner(bits: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["check", "--bits", bits, "--spawn", OURS]) == 0
    assert capsys.readouterr().out.endswith("192 of 192 are right\n")


@WITH_QEMU
@pytest.mark.parametrize(("image", "bits"), [("image", "64"), ("multiboot", "32")])
def test_qemu_is_told_what_it_does_wrong(image: str, bits: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results.json"
    words = ["--bits", bits, "--manner", "nothing", "--manner", "hbreak", "--json", str(results)]
    assert status_of(["check", "--spawn", f"{QEMU} {{{image}}}", *words]) == 1
    states = {(row["case"], row["manner"]): row["state"] for row in json.loads(results.read_text())["rows"]}
    for manner in ("nothing", "hbreak"):
        assert states["single step", manner] == states["data write", manner] == states["INT3", manner] == "right"
        assert states["MOV SS, data", manner] == states["branch step", manner] == "wrong"  # SDM vol. 3, 7.8.3, 18.4.4
        assert states["bus lock, ADD", manner] == "lacks"
    assert "MOV SS, data: RIP" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "bits"), [("check.elf", "64"), ("check32-multiboot.elf", "32")])
def test_a_machine_that_runs_already(name: str, bits: str, tmp_path: Path) -> None:
    assert status_of(["check", "--write-images", str(tmp_path)]) == 0
    socket = tmp_path / "gdb"
    command = [TRAPGATE, "run", str(tmp_path / name), "--gdb", f"unix:{socket}", "--wait"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert b"listening" in process.stderr.readline()
        words = ["--bits", bits, "--manner", "steps", "--case", "single step"]
        assert status_of(["check", "--gdb", f"unix:{socket}", *words]) == 0
        process.kill()


@pytest.mark.parametrize(("words", "text"), [
    ([], "give the monitor by one of --gdb and --spawn"),
    (["--gdb", ":1", "--spawn", "x {port}"], "give the monitor by one of --gdb and --spawn"),
    (["--spawn", "qemu"], "the command needs {port}"),
    (["--spawn", "x {port}", "--manner", "no"], "no manner is called 'no'; there are: nothing, break, "),
    (["--spawn", "x {port}", "--case", "no"], "no case is called 'no'; there are: single step; "),
])  # fmt: skip
def test_wrong_usage(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["check", *words]) == 2
    told = capsys.readouterr().err
    assert text in told
    assert told.count("\n") == 1
