"""Who called the code that locks the bus: through inlined functions, signals, the vDSO, libraries, code without call frames."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from system.exec_runs import TRAPGATE, needs_kernel, ran

SOURCE = Path(__file__).with_name("stacks.c")
MARKS = {
    word: number
    for number, text in enumerate(SOURCE.read_text().splitlines(), 1)
    if "/* " in text and number > 1
    for word in [text.partition("/* ")[2].partition(" */")[0]]
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """What is found in one run, by line of source."""
    needs_kernel()
    if shutil.which("gcc") is None:
        pytest.skip("gcc builds the program")
    folder = tmp_path_factory.mktemp("stacks")
    bare, made, file = folder / "bare.o", folder / "stacks", folder / "report.json"
    nothing = ["-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fno-omit-frame-pointer", "-O1"]
    subprocess.run(["gcc", "-c", "-DBARE", *nothing, "-fPIE", "-o", str(bare), str(SOURCE)], check=True)
    subprocess.run(["gcc", "-g", "-O2", "-fPIE", "-pie", "-pthread", "-o", str(made), str(SOURCE), str(bare)], check=True)
    done = ran([TRAPGATE, "buslocks", "--timeout", "100", "--format", f"json:{file}", str(made)])
    assert done.status == 1, done
    return {one["site"]["line"]: one for one in json.loads(file.read_text())["findings"]}


def frames(report: dict[int, dict[str, Any]], mark: str) -> list[dict[str, Any]]:
    """The one stack of a place."""
    (stack,) = report[MARKS[mark]]["stacks"]
    return list(stack["frames"])


def names(report: dict[int, dict[str, Any]], mark: str) -> list[str]:
    return [one["function"] for one in frames(report, mark)]


def test_inlined_functions(report: dict[int, dict[str, Any]]) -> None:
    found = frames(report, "inlined")[:4]
    assert [(one["function"], one["inlined"], one["line"]) for one in found[:3]] == [
        ("innermost", True, MARKS["inlined"]),
        ("middle", True, MARKS["call of innermost"]),
        ("outer", False, MARKS["call of middle"]),
    ]
    assert found[3]["function"] == "main"
    (stack,) = report[MARKS["inlined"]]["stacks"]
    assert (report[MARKS["inlined"]]["count"], stack["count"]) == (100, 64)


def test_by_frame_pointers_where_code_says_nothing(report: dict[int, dict[str, Any]]) -> None:
    found = frames(report, "frame pointer")[:3]
    assert [(one["function"], one["guessed"]) for one in found] == [("by_pointer", False), ("pointed", False), ("main", True)]


def test_through_a_signal(report: dict[int, dict[str, Any]]) -> None:
    found = names(report, "signal")
    assert found[:2] == ["handler", "<signal handler called>"]
    assert any("raise" in one or "kill" in one for one in found[2:-1])
    assert "main" in found


def test_through_the_vdso(report: dict[int, dict[str, Any]]) -> None:
    found = frames(report, "vdso")
    assert [one["function"] for one in found[:2]] == ["timer", "<signal handler called>"]
    assert found[2]["module"] == "[vdso]"
    assert "main" in [one["function"] for one in found[3:]]


def test_through_a_library(report: dict[int, dict[str, Any]]) -> None:
    found = frames(report, "callback")
    main = next(number for number, one in enumerate(found) if one["function"] == "main")
    assert found[0]["function"] == "compare"
    assert main > 1
    assert all("libc" in one["module"] for one in found[1:main])


def test_a_thread_ends_where_it_began(report: dict[int, dict[str, Any]]) -> None:
    found = frames(report, "thread")
    assert found[0]["function"] == "thread"
    assert all("libc" in one["module"] for one in found[1:])
    assert 2 <= len(found) <= 4


def test_a_deep_one_is_cut(report: dict[int, dict[str, Any]]) -> None:
    assert names(report, "deep") == 128 * ["deep"]
