"""docs/where.md is what the translator does, and no instruction that was native is Python's again."""

from tools import show_where

MOST_IN_PYTHON = 134  # (instruction, mode): this number falls


def test_the_page_says_where_instructions_run() -> None:
    found = show_where.table()
    assert len(show_where.in_python(found)) <= MOST_IN_PYTHON
    assert show_where.PAGE.read_text() == show_where.page(found), "the page is stale: run `make where`"
