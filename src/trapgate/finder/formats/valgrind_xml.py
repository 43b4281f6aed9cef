"""Tells a report as XML of Valgrind's (protocol 4, its docs/internals), which editors and test servers read.

It says that it is Helgrind's, the tool whose findings are nearest and for which readers take any kind.
"""

import os
from collections.abc import Iterator
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from trapgate.finder.findings import Called, Finding, Report, Run
from trapgate.finder.formats.words import message, place_of, plain
from trapgate.finder.suppressions import stacks_of

TOOL = "helgrind"


def render(report: Report) -> Iterator[str]:
    """See `registry.Renderer`."""
    root = Element("valgrindoutput")
    for name, value in (("protocolversion", "4"), ("protocoltool", TOOL)):
        SubElement(root, name).text = value
    preamble = SubElement(root, "preamble")
    SubElement(preamble, "line").text = "trapgate buslocks: instructions that lock the bus"
    first = report.runs[0] if report.runs else Run(("",))
    pid = next((process.pid for one in report.findings for process in one.processes), 0)
    for name, value in (("pid", str(pid)), ("ppid", "0"), ("tool", TOOL)):
        SubElement(root, name).text = value
    arguments = SubElement(root, "args")
    _arguments(SubElement(arguments, "vargv"), ("trapgate", "buslocks"))
    _arguments(SubElement(arguments, "argv"), first.program or ("",))
    _status(root, "RUNNING")
    for number, one in enumerate(report.findings, 1):
        _error(root, number, one)
    _status(root, "FINISHED")
    counts = SubElement(root, "errorcounts")
    for number, one in enumerate(report.findings, 1):
        pair = SubElement(counts, "pair")
        SubElement(pair, "count").text = str(one.count)
        SubElement(pair, "unique").text = hex(number)
    silent = SubElement(root, "suppcounts")
    for each in report.suppressed:
        pair = SubElement(silent, "pair")
        SubElement(pair, "count").text = str(each.count)
        SubElement(pair, "name").text = plain(each.name)
    indent(root)
    yield '<?xml version="1.0"?>'
    yield tostring(root, encoding="unicode")


def _arguments(element: Element, words: tuple[str, ...]) -> None:
    for number, word in enumerate(words):
        SubElement(element, "arg" if number else "exe").text = plain(word)


def _status(root: Element, state: str) -> None:
    status = SubElement(root, "status")
    SubElement(status, "state").text = state
    SubElement(status, "time").text = "00:00:00:00.000 "


def _error(root: Element, number: int, finding: Finding) -> None:
    error = SubElement(root, "error")
    for name, value in (
        ("unique", hex(number)),
        ("tid", str(finding.processes[0].thread) if finding.processes else "0"),
        ("kind", finding.kind.value[0]),
    ):
        SubElement(error, name).text = value
    what = SubElement(error, "xwhat")
    SubElement(what, "text").text = plain(f"{message(finding)}: {place_of(finding.site)}")
    stack = SubElement(error, "stack")
    for frame in stacks_of(finding)[0].frames:
        _frame(stack, frame)


def _frame(stack: Element, called: Called) -> None:
    frame = SubElement(stack, "frame")
    SubElement(frame, "ip").text = f"0x{called.address:X}"
    values = [("obj", called.module), ("fn", called.function)]
    if called.line is not None:
        folder, name = os.path.split(called.line.path)
        values += [("dir", folder), ("file", name), ("line", str(called.line.number))]
    for name, value in values:
        if value:
            SubElement(frame, name).text = plain(value)
