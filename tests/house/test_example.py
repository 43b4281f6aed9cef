"""docs/example.md shows what the code makes, each piece following from the one before it; the glossary has no dead words."""

import re
from pathlib import Path

import pytest

from house import example

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def shown() -> dict[str, str]:
    return example.blocks(example.PAGE.read_text())


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return example.pieces()


def raw(listing: str) -> bytes:
    """The bytes of a listing."""
    return bytes.fromhex("".join(line[6:38] for line in listing.splitlines() if re.match(r"[0-9a-f]{4,}  ", line)))


def test_every_piece_is_shown(shown: dict[str, str], made: dict[str, str]) -> None:
    assert shown.keys() == made.keys()


@pytest.mark.parametrize("name", ["guest", "micro-ops"])
def test_what_llvm_does_not_decide_is_the_same_anywhere(name: str, shown: dict[str, str], made: dict[str, str]) -> None:
    assert shown[name] == made[name], "run `make docs-example`"


@pytest.mark.parametrize("name", ["stencils", "template", "placed"])
def test_the_same_llvm_makes_the_same_bytes(name: str, shown: dict[str, str], made: dict[str, str]) -> None:
    if shown["made by"] != made["made by"]:
        pytest.skip(f"the page's bytes are of {shown['made by']}, here it is {made['made by']}")
    assert shown[name] == made[name], "run `make docs-example`"


def test_the_state_is_laid_out_as_the_page_says(shown: dict[str, str]) -> None:
    """Whoever made the page: what LLVM does not decide is out of date on every host at once."""
    said = re.findall(r"\[r12\+([0-9A-F]+)h\],?.*; (.+)", shown["template"] + "\n" + shown["placed"])
    assert len(said) > 8
    wrong = [(name, offset) for offset, name in said if example.FIELDS.get(int(offset, 16)) != name]
    assert not wrong, "run `make docs-example`"


def test_the_template_is_the_stencils_with_their_holes_filled(shown: dict[str, str]) -> None:
    """But for the constants, and for the jumps between them; on the page alone, whoever made it."""
    lines = [line for line in shown["stencils"].splitlines() if not re.match(r"[a-z]+\.", line)]
    code = re.sub(r"<[A-Z]\S*", "..", " ".join(lines)).replace("..>", "..")
    wanted = re.compile(re.sub(r"\.\.", "..", code.replace(" e9 .. .. .. ..", "")).replace(" ", ""))
    assert wanted.fullmatch(raw(shown["template"].partition("\n\n")[0]).hex())


def test_every_word_of_the_glossary_is_used() -> None:
    words = re.findall(r"^\| ([a-z, -]+?) \|", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)
    words.remove("word")
    assert len(words) >= 25
    text = " ".join(path.read_text().lower() for path in (ROOT / "src/trapgate").rglob("*.py"))
    assert [one for word in words for one in word.split(", ") if one not in text] == []
