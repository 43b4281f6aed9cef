"""What `make check-others` makes of a check's results."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from tools import check_others
from tools.check_others import Outcome

ROWS = [{"case": "single step", "manner": manner, "state": state} for manner, state in (("nothing", "right"), ("hbreak", "wrong"))]


def test_results_are_kept_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_others, "RESULTS", tmp_path / "check")
    one = Outcome("a monitor")
    for row in ROWS:
        one.read("a table\n" + json.dumps({"monitor": "x", "rows": [row]}, indent=1))
    one.keep("it")
    assert not one.trouble
    assert json.loads((tmp_path / "check" / "it.json").read_text())["rows"] == ROWS
    console = Console(width=120)
    with console.capture() as said:
        console.print(check_others.table([one, Outcome("another", trouble="gone")]))
    lines = said.get().splitlines()
    assert next(line for line in lines if "a monitor" in line).split()[2:9] == ["1", "of", "1", "-", "0", "of", "1"]
    assert "of" not in next(line for line in lines if "another" in line)


@pytest.mark.parametrize(("text", "trouble"), [("", "it said nothing"), ("sh: not found\n", "sh: not found"), ("{}", "{}")])
def test_a_monitor_that_cannot_be_checked(text: str, trouble: str) -> None:
    one = Outcome("a monitor")
    one.read(text)
    assert (one.trouble, one.rows) == (trouble, [])
