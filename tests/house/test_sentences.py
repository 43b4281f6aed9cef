"""What a file says first of itself is a sentence: somebody does something, as `Reads descriptors from their tables`."""

import ast
import re
from pathlib import Path

import trapgate

SOURCES = Path(trapgate.__file__).parent
VERBS = set("is are has have tell comes come reaches makes runs routes answer need move form belong decides".split())
DOING = re.compile(r"(?:`[^`]+` )?[A-Za-z]+s\b")


def has_verb(text: str) -> bool:
    """By its first word, which ends as verbs of the third person do, or by one of the verbs that follow a subject."""
    return bool(DOING.match(text) or VERBS & set(re.findall(r"[A-Za-z]+", text.partition(". ")[0])))


def test_a_file_begins_with_a_sentence() -> None:
    without = []
    for path in sorted(SOURCES.rglob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text()))
        if text and not has_verb(text):
            without.append(f"{path.relative_to(SOURCES)}: {text.splitlines()[0]}")
    assert not without


def test_what_is_no_sentence() -> None:
    assert has_verb("Reads descriptors from their tables.")
    assert has_verb("`trapgate run` takes one guest from its image to an exit status.")
    assert not has_verb("The board: every device of the machine.")
    assert not has_verb("Guest RAM as devices reach it: by addresses and lengths.")
