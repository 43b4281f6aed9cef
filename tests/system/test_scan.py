"""`trapgate scan` as a user meets it: shards, results that are kept, a scan that is ended and goes on."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from system.exec_runs import PATIENCE, TRAPGATE, needs_kernel, ran

pytestmark = pytest.mark.long
SOURCE = Path(__file__).with_name("buslocks.c")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    needs_kernel()
    if shutil.which("gcc") is None:
        pytest.skip("gcc builds the programs")
    folder = tmp_path_factory.mktemp("scan")
    library, made = folder / "libswap.so", folder / "locker"
    common = ["gcc", "-g", "-O1", str(SOURCE)]
    subprocess.run([*common, "-DLIBRARY", "-shared", "-fPIC", "-o", str(library)], check=True)
    subprocess.run([*common, "-pthread", str(library), f"-Wl,-rpath,{folder}", "-o", str(made)], check=True)
    return str(made)


def scanned(folder: Path, commands: list[str], *options: str) -> tuple[int, list[dict[str, object]], str]:
    """(exit status, findings, standard error) of a scan."""
    (folder / "list").write_text("".join(f"{one}\n" for one in commands))
    done = ran([TRAPGATE, "scan", "list", "--format", "jsonl", *options], cwd=folder)
    return done.status, [json.loads(line) for line in done.out.splitlines()], done.err.decode()


def test_shards_together_are_the_whole(program: str, tmp_path: Path) -> None:
    commands = [f"{program} lock", "true", f"{program} fork", "/no/such/program", "sh -c 'exit 3'"]
    status, found, told = scanned(tmp_path, commands, "--shard", "1/2")
    assert (status, [one["count"] for one in found]) == (1, [21])
    assert "[3/3] sh -c 'exit 3': nothing" in told
    status, found, told = scanned(tmp_path, commands, "--shard", "2/2", "--jobs", "2")
    assert (status, [one["count"] for one in found]) == (1, [21])
    assert "/no/such/program: cannot be run" in told
    status, found, told = scanned(tmp_path, commands)
    assert (status, [one["count"] for one in found], "5 of 5 were looked at before" in told) == (1, [21], True)
    assert ran([TRAPGATE, "report", "trapgate-scan", "--format", "jsonl"], cwd=tmp_path).out.count(b"\n") == 1


def test_one_that_is_ended_goes_on(program: str, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(f"{program} lock\n{program} forever\n")
    first = subprocess.Popen([TRAPGATE, "scan", "list"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    results, end = tmp_path / "trapgate-scan", time.monotonic() + PATIENCE
    while not any("forever" in (results / f"{path.stem}.log").read_text() for path in results.glob("*.part")):
        assert time.monotonic() < end
        time.sleep(0.1)
    first.send_signal(signal.SIGINT)
    _, told = first.communicate(timeout=PATIENCE)
    assert first.returncode == 130, told
    assert not list(results.glob("*.part"))
    assert len(list(results.glob("*.json"))) == 1
    status, found, words = scanned(tmp_path, [f"{program} lock", f"{program} forever"], "--timeout", "5")
    assert (status, found[0]["count"]) == (1, 13)
    assert "1 of 2 were looked at before" in words
    assert "forever: ended by --timeout, 3 times, at 1 place" in words


def test_what_the_host_refuses_is_tried_again(program: str, tmp_path: Path) -> None:
    bad = tmp_path / "kernel"
    bad.write_bytes(os.urandom(5000))
    status, found, told = scanned(tmp_path, ["true"], "--kernel", str(bad))
    assert (status, found) == (3, [])
    assert "not looked at, the next scan tries again: true: " in told
    assert scanned(tmp_path, ["true"])[0] == 0
