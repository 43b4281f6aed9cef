"""QEMU's monitor: each of its words does what it says, or is answered in one line with the word that is used here."""

import re

import pytest

from gdb.pretend import CODE, PretendTarget
from trapgate.gdb import habits
from trapgate.gdb.monitor import COMMANDS, MonitorError, execute
from trapgate.gdb.target import TargetError


def said(line: str) -> list[str]:
    target = PretendTarget(cpus=2)
    try:
        return list(execute(target, 1, line))
    except (MonitorError, TargetError) as error:
        return [str(error)]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("?", "help"),
        ("q", "quit"),
        ("system_reset", "reset"),
        ("info registers -a", "info registers"),
        ("info cpus", "info vcpus"),
        (f"gva2gpa {CODE:#x}", f"translate {CODE:x}"),
        ("xp /4xw 0x1000", "physical 1000 10"),
        ("xp /2xg 0x1000", "physical 1000 10"),
        ("xp/16xb 0x1000", "physical 1000 10"),
        ("xp /hx 0x1000", "physical 1000 2"),
        ("xp 0x1000", "physical 1000"),
        ("xp /4", "physical"),
        ("xp", "physical"),
        ("xp /4xw zz", "physical zz 10"),
        ("xp /9999xg 0", "physical 0 13878"),
    ],
)
def test_a_word_that_is_done(theirs: str, ours: str) -> None:
    assert said(theirs) == said(ours)
    assert "unknown command" not in said(theirs)[0]


@pytest.mark.parametrize("word", list(habits.OTHERS))
def test_a_word_that_is_answered(word: str) -> None:
    for line in (word, f"{word} 1", f"{word}/4i"):
        assert said(line) == [f"'{word}' is QEMU's: {habits.OTHERS[word]}"]
    assert len(said(word)[0]) < 200


def test_what_an_answer_names_is_there() -> None:
    names = {command.words for command in COMMANDS}
    named = {word for text in habits.OTHERS.values() for word in re.findall("'monitor ([a-z ]*[a-z])", text)}
    assert named
    assert named <= names, named - names
    assert set(habits.SAME.values()) <= names


def test_no_word_is_both() -> None:
    ours = {command.words for command in COMMANDS}
    assert not ours & (set(habits.OTHERS) | set(habits.SAME))
    assert not set(habits.SAME) & set(habits.OTHERS)


@pytest.mark.parametrize("line", ["infos", "inf mem", "xpp", "info", "info nothing", "system_"])
def test_what_is_nobodys_word(line: str) -> None:
    assert said(line) == [f"unknown command {line!r}; monitor help lists them all"]
