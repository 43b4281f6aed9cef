"""Pages that name tests: each test is there, and so are the rows of tables that are named beside it."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("SECURITY.md", "CONTRIBUTING.md", "docs/fuzzing.md", "docs/promises.md", "docs/vendors.md", "tests/cases/README.md")
TEST = re.compile(r"`((?:tests|tools)/[\w/]+\.\w+)(?:::(\w+))?`")
NEAR = re.compile(r"\[([^\]`|]+)\](?!\()")  # a row, unlike a link
CASES = (
    "G01 G03 G04 G05 G09 G11 G12 G13 G14 G15 G16 G17 G18 G19 G20 G21 G22 G26 G27 G28 G29 G30 G06 G07 G08 D12 I22 D01 D03 D05 D10 "
    "D15 D17 B02 B04 B05 B06 I01 I02 I03 I04 I05 I06 I08 I09 I10 I11 I12 I15 I16 X02 X03 X05"
).split()


@cache
def functions(path: Path) -> frozenset[str]:
    """The names of a file's functions, methods included."""
    return frozenset(node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_is_there(page: str) -> None:
    missing = []
    for line in (ROOT / page).read_text().splitlines():
        found = TEST.findall(line)
        missing += [file for file, _ in found if not (ROOT / file).is_file()]
        missing += [f"{file}::{name}" for file, name in found if name and name not in functions(ROOT / file)]
        if found and line.startswith("|"):
            texts = [(ROOT / file).read_text() for file, _ in found if (ROOT / file).is_file()]
            missing += [f"[{row}]" for row in NEAR.findall(line) if not any(row in text for text in texts)]
    assert not missing


def test_every_case_has_its_tests() -> None:
    text = (ROOT / "tests/cases/README.md").read_text()
    rows = dict(re.findall(r"^\| ([GDBIX]\d\d) \|(.*)$", text, re.MULTILINE))
    assert set(rows) == set(CASES)
    assert all(TEST.search(row) for row in rows.values())


def test_every_fault_has_its_tests() -> None:
    text = (ROOT / "SECURITY.md").read_text().split("## Faults of before")[1].split("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 10
    assert all(TEST.search(row.split("|")[-2]) for row in rows)
