"""The reports of a check: the faults in lines, JSON, JUnit XML."""

import json
from xml.etree import ElementTree as xml

from trapgate.check import report
from trapgate.check.guest import DemoGuest
from trapgate.check.manners import BY_NAME
from trapgate.check.suite import Cell, State
from trapgate.cli.screen import Screen

CASES = {one.name: one for one in DemoGuest().cases}
STEP, LOCK, READ = CASES["single step"], CASES["bus lock, ADD"], CASES["unseen: DR6, DR7"]
NOTHING, HBREAK = BY_NAME["nothing"], BY_NAME["hbreak"]
FOUND = [
    Cell(STEP, NOTHING, State.RIGHT, "FFFF4FF0", vectors=(1,), dr6=(0xFFFF4FF0,)),
    Cell(STEP, HBREAK, State.WRONG, "00004000", ("DR6 4000 instead of ffff4ff0",), vectors=(1,), dr6=(0x4000,)),
    Cell(LOCK, NOTHING, State.LACKS, trouble=("the CPU has no bus-lock trap",)),
    Cell(LOCK, HBREAK, State.LACKS, trouble=("the CPU has no bus-lock trap",)),
    Cell(READ, NOTHING, State.NOT_RUN, trouble=("it is \x01gone",)),
    Cell(READ, HBREAK, State.NOT_RUN, trouble=("it is \x01gone",)),
]


def test_the_faults_by_case() -> None:
    assert report.faults(FOUND) == [
        "single step: DR6 4000 instead of ffff4ff0 (hbreak elsewhere)",
        "not judged, 2: the CPU has no bus-lock trap",
        "not run, 2: it is \x01gone",
    ]
    assert report.summary(FOUND) == "1 of 2 are right, 2 not judged, 2 not run"


def test_the_table_shows_what_was_read_instead() -> None:
    console = Screen(width=100, record=True, highlight=False)
    with console.capture() as said:
        console.print(report.table(FOUND))
    lines = {line.split("  ")[1]: line.split() for line in said.get().splitlines() if line.startswith("  ")}
    assert lines["single step"][-3:] == ["FFFF4FF0", "ok", "00004000"]
    assert lines["bus lock, ADD"][-3:] == ["FFFF07F0", "lacks", "lacks"]


def test_json() -> None:
    rows = json.loads(report.as_json("a monitor", FOUND))["rows"]
    assert [row["state"] for row in rows] == ["right", "wrong", "lacks", "lacks", "not run", "not run"]
    assert rows[1]["read"] == [{"vector": 1, "dr6": 0x4000}]
    assert rows[1]["manual"][0]["dr6"] == 0xFFFF4FF0


def test_junit() -> None:
    root = xml.fromstring(report.as_junit("a \x00monitor", FOUND))
    suites = {suite.get("name"): suite for suite in root}
    assert [suites["hbreak elsewhere"].get(name) for name in ("tests", "failures", "errors", "skipped")] == ["3", "1", "1", "1"]
    assert [[child.tag for child in case] for case in suites["nothing armed"]] == [[], ["skipped"], ["error"]]
