"""Which findings are told, and which are known: suppressions, baselines, fingerprints, what is kept and read back."""

import json
from pathlib import Path

import pytest

from trapgate.errors import TrapgateError
from trapgate.finder import fingerprints, saved, suppressions
from trapgate.finder.findings import Finding, Report, Run, Suppressed
from trapgate.finder.judging import Judge
from trapgate.finder.lines import Line
from trapgate.finder.suppressions import SuppressionError
from trapgate.values import replace
from unit.finder.told import example, plain


def judged(text: str, *findings: Finding) -> Report:
    return Judge(tuple(suppressions.read(text, "file"))).judged(Report((Run(("program",)),), findings))


@pytest.mark.parametrize(
    ("frames", "suppressed"),
    [
        ("fun:bump", True),
        ("fun:other", False),
        ("fun:b?m*", True),
        ("fun:bump\nfun:caller", True),
        ("fun:bump\nfun:main", False),
        ("fun:bump\n...\nfun:main", True),
        ("...\nfun:main", True),
        ("...\nfun:nobody", False),
        ("obj:*/program", True),
        ("obj:*/libc.so*", False),
        ("...\nobj:*/libc.so*", True),
        ("src:/src/one.c", True),
        ("src:/src/one.c:5", True),
        ("src:/src/one.c:6", False),
        ("src:*/one.c:*\nsrc:*:9", True),
        ("...", True),
        ("...\n...\nfun:bump\n...\nfun:main\n...", True),
    ],
)
def test_patterns(frames: str, suppressed: bool) -> None:
    report = judged(f"# why\n{{\n  a name\n  TG0001\n{frames}\n}}\n", example())
    assert bool(report.findings) != suppressed
    assert report.suppressed == ((Suppressed("a name", 1, 10),) if suppressed else ())


def test_each_stack_must_match() -> None:
    one = example()
    one.stacks.append(replace(one.stacks[0], frames=one.stacks[0].frames[:1]))
    assert judged("{\n  name\n  *\n  ...\n  fun:main\n}", one).findings
    assert not judged("{\n  name\n  *\n  fun:bump\n}", one).findings


def test_kinds() -> None:
    assert not judged("{\n  name\n  *\n  ...\n}", example()).findings
    assert judged("{\n  name\n  TG0002\n  ...\n}", example()).findings


def test_a_made_suppression_suppresses_just_that() -> None:
    one, other = example(), example(function="other")
    for finding in (one, plain(), example(function="operator[]*?")):
        text = "\n".join(suppressions.made(finding))
        assert not judged(text, finding).findings
        assert judged(text, other).findings == (other,)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name", 1),
        ("{\nname\nTG0003\nfun:a\n}", 3),
        ("{\nname\n*\nfun:\n}", 4),
        ("{\nname\n*\nline:a\n}", 4),
        ("{\nname\n*\n}", 4),
        ("{\nname\n*\nfun:a", None),
    ],
)
def test_what_is_no_suppression(text: str, line: int | None) -> None:
    with pytest.raises(SuppressionError, match=rf"^file:{line or ''}"):
        suppressions.read(text, "file")


def test_a_baseline_marks_what_it_has(tmp_path: Path) -> None:
    one, other = example(), example(function="other")
    fingerprints.give([one, other])
    file = tmp_path / "baseline.json"
    file.write_text(json.dumps(saved.value(Report((Run(("program",)),), (one,)))))
    report = Judge.of((), str(file)).judged(Report((Run(("program",)),), (one, other)))
    assert [finding.known for finding in report.findings] == [True, False]


def test_fingerprints_stay_when_lines_and_code_move() -> None:
    one, moved = example(), example()
    site = moved.site
    assert site.line is not None
    moved.site = replace(
        site,
        address=site.address + 0x340,
        offset=site.offset + 0x340,
        module="/elsewhere/program",
        line=Line("/else/where/one.c", 105),
        source=tuple((number + 100, "  " + text) for number, text in site.source),
    )
    other_text, other_function = example(), example(function="other")
    other_text.site = replace(site, source=tuple((number, text + "x") for number, text in site.source))
    for each in (one, moved, other_text, other_function):
        fingerprints.give([each])
    assert one.fingerprint == moved.fingerprint
    assert len({one.fingerprint, other_text.fingerprint, other_function.fingerprint}) == 3


def test_equal_ones_are_numbered_by_their_place() -> None:
    low, high = example(), example()
    high.site = replace(high.site, address=high.site.address + 9)
    fingerprints.give([high, low])
    alone = example()
    fingerprints.give([alone])
    assert low.fingerprint == alone.fingerprint != high.fingerprint


def test_what_is_kept_is_read_back() -> None:
    runs = (Run(("a", "b"), status=3), Run(("c",), signal=9))
    for whole in (
        Report(runs, (example(), plain()), ("note",), (Suppressed("name", 2, 5),)),
        Report(runs[:1], (example(),)),
        Report(()),
    ):
        assert saved.read(json.dumps(saved.value(whole)), "file") == whole


@pytest.mark.parametrize("spoiled", ["", "[]", "{}", '{"format": 2}', "[" * 100000, '{"format": 1, "runs": [], "findings": 5}'])
def test_what_is_no_report(spoiled: str) -> None:
    with pytest.raises(TrapgateError, match=r"^file "):
        saved.read(spoiled, "file")


def test_a_report_with_any_value_changed_is_read_or_refused() -> None:
    """Each value of a report in turn is one of another kind: no other error comes of it."""
    whole = json.dumps(saved.value(Report((Run(("a",), status=3),), (example(),))))

    def spoil(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return [path] + [each for key, one in inside for each in spoil(one, (*path, key))]

    refused = 0
    for path in spoil(json.loads(whole))[1:]:
        others: tuple[object, ...] = (None, -1.5, "zz", [], {"a": 1}, True)
        for other in others:
            changed = json.loads(whole)
            place = changed
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = other
            try:
                saved.read(json.dumps(changed), "file")
            except saved.SavedError:
                refused += 1
    assert refused > 100
