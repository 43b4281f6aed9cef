"""Each target for a second or two, by fixed seeds, and everything that the corpus holds; and that the fuzzers can fail."""

from pathlib import Path

import pytest

from fuzz import corpus
from fuzz.driver import Found, working
from fuzz.targets import ROOMS

SEED = 1
MOST_KEPT = 300 << 10  # bytes of all inputs in the repository


def session(target: str, *options: str, longest_run: float = 60) -> list[Found]:
    """The findings of a short session."""
    with working([target], SEED, "--short", *options, at_once=1, longest_run=longest_run) as crew:
        return crew.finish()


@pytest.mark.parametrize("target", ROOMS)
def test_nothing_is_found(target: str) -> None:
    found = session(target)
    assert not found, "\n".join(f"{one.text}\ninput: {corpus.line_of(one.data)}" for one in found)


@pytest.mark.parametrize("target", ROOMS)
def test_a_planted_fault_is_found(target: str, tmp_path: Path) -> None:
    (found,) = session(target, "--planted")
    again = found.keep(tmp_path)
    (same,) = session(target, "--planted", f"--only={again}")
    assert same.data == found.data
    assert same.text.splitlines()[-1] == found.text.splitlines()[-1]


def test_the_corpus_is_small_and_only_of_targets() -> None:
    files = list(corpus.HERE.rglob("*.txt"))
    assert {path.stem for path in files} <= set(ROOMS)
    assert sum(path.stat().st_size for path in files) < MOST_KEPT
