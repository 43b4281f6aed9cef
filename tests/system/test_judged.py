"""What `trapgate buslocks` reports is what an independent emulator sees: qemu-user, with a plugin that looks at locked operands."""

import json
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from system.exec_runs import TRAPGATE, needs_kernel, ran

pytestmark = pytest.mark.long
FOLDER = Path(__file__).parent
LOCKING = {"counter": 1, "semaphore": 1, "mutex in threads": 2, "mutex alone": 0, "records": 2, "widths": 6}
"""Programs of judged.c, and how many of their instructions lock the bus."""
QEMU = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the programs and the judge."""
    needs_kernel()
    if shutil.which("gcc") is None:
        pytest.skip("gcc builds the programs")
    folder = tmp_path_factory.mktemp("judged")
    common = ["gcc", "-g", "-O1", "-w"]
    subprocess.run([*common, "-pthread", "-o", str(folder / "judged"), str(FOLDER / "judged.c")], check=True)
    subprocess.run([*common, "-shared", "-fPIC", "-o", str(folder / "judge.so"), str(FOLDER / "judge.c")], check=True)
    return folder


def reported(built: Path, *command: str, status: int = 0) -> dict[str, Any]:
    """The whole report of a run."""
    file = built / "report.json"
    done = ran([TRAPGATE, "buslocks", "--timeout", "200", "--exit-zero", "--format", f"json:{file}", "--", *command])
    assert done.status == status, done
    whole: dict[str, Any] = json.loads(file.read_text())
    assert whole["notes"] == []
    return whole | {"out": done.out}


def seen(built: Path, *command: str) -> Counter[int]:
    """How often the judge saw each instruction lock the bus, by its place in its page: they are loaded elsewhere there."""
    if QEMU is None:
        pytest.skip("qemu-user is the judge: apt-get install qemu-user")
    results = built / "results"
    subprocess.run(
        [QEMU, "-plugin", str(built / "judge.so"), *command],
        env={**os.environ, "JUDGE_RESULTS": str(results)},
        check=True,
        timeout=100,
        stdout=subprocess.DEVNULL,
    )
    found: Counter[int] = Counter()
    for line in results.read_text().splitlines():
        address, count = line.split()
        found[int(address, 16) % 4096] += int(count)
    return found


@pytest.mark.parametrize("what", LOCKING)
def test_nothing_is_missed_and_nothing_is_added(built: Path, what: str) -> None:
    command = [str(built / "judged"), what]
    findings = reported(built, *command)["findings"]
    assert len(findings) == LOCKING[what]
    assert {one["site"]["rip"] % 4096: one["count"] for one in findings} == seen(built, *command)
    for one in findings:
        assert (one["kind"], one["operand"]["line_offset"] + one["operand"]["size"] > 64) == ("TG0001", True)


def test_only_records_that_cross_a_line(built: Path) -> None:
    whole = reported(built, str(built / "judged"), "records")
    crossing = len(whole["out"].split())
    assert crossing == 4
    assert [one["count"] for one in whole["findings"]] == [crossing, crossing]
    assert {one["operand"]["mapping"] for one in whole["findings"]} == {"[heap]"}
    assert sorted(one["site"]["instruction"].split()[0] for one in whole["findings"]) == ["lock", "xchg"]


def test_a_semaphore_is_in_libc_and_the_caller_is_told(built: Path) -> None:
    (one,) = reported(built, str(built / "judged"), "semaphore")["findings"]
    assert "libc" in one["site"]["module"]
    assert one["operand"]["line_offset"] == 60
    functions = [frame["function"] for frame in one["stacks"][0]["frames"]]
    assert "post" in functions[1:4]
