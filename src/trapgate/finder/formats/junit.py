"""Tells a report as JUnit XML, which test servers show: a test case a finding, or one that passed where there is none."""

from collections.abc import Iterator
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from trapgate.finder.findings import Finding, Report
from trapgate.finder.formats import text
from trapgate.finder.formats.words import message, place_of, plain

SUITE = "trapgate buslocks"


def render(report: Report) -> Iterator[str]:
    """See `registry.Renderer`. What a baseline has is skipped."""
    known = sum(one.known for one in report.findings)
    cases = max(1, len(report.findings))
    counts = {"tests": str(cases), "failures": str(len(report.findings) - known), "errors": "0", "skipped": str(known)}
    suites = Element("testsuites", counts | {"name": SUITE})
    suite = SubElement(suites, "testsuite", counts | {"name": SUITE})
    properties = SubElement(suite, "properties")
    for run in report.runs:
        SubElement(properties, "property", {"name": "program", "value": plain(" ".join(run.program))})
    for one in report.findings:
        _case(suite, one)
    if not report.findings:
        SubElement(suite, "testcase", {"classname": SUITE, "name": "no bus locks"})
    if report.notes:
        SubElement(suite, "system-err").text = plain("\n".join(report.notes))
    indent(suites)
    yield '<?xml version="1.0" encoding="UTF-8"?>'
    yield tostring(suites, encoding="unicode")


def _case(suite: Element, finding: Finding) -> None:
    number, name = finding.kind.value
    site = finding.site
    attributes = {"classname": f"{SUITE}.{number}", "name": plain(place_of(site))}
    if site.line is not None:
        attributes |= {"file": plain(site.line.path), "line": str(site.line.number)}
    case = SubElement(suite, "testcase", attributes)
    if finding.known:
        SubElement(case, "skipped", {"message": f"{name}, in the baseline"})
        return
    failure = SubElement(case, "failure", {"type": number, "message": plain(message(finding))})
    failure.text = plain("\n".join(text.story(finding)))
