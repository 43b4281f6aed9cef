"""Tests' outcomes as JUnit XML."""

import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree as xml

_NOT_XML = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD]")
_ELEMENTS = {"failed": "failure", "skipped": "skipped", "not judged": "skipped"}


def document(name: str, tests: Sequence[dict[str, Any]]) -> bytes:
    """The file. `tests`: records with test, outcome, seconds and text."""
    counts = {element: sum(_ELEMENTS.get(one["outcome"]) == element for one in tests) for element in ("failure", "skipped")}
    suite = xml.Element(
        "testsuite", name=f"kernel {name}", tests=str(len(tests)), failures=str(counts["failure"]), skipped=str(counts["skipped"])
    )
    for one in tests:
        path, _, test = one["test"].partition("::")
        case = xml.SubElement(
            suite, "testcase", classname=path.removesuffix(".py").replace("/", "."), name=test, time=f"{one['seconds']:.3f}"
        )
        if element := _ELEMENTS.get(one["outcome"]):
            text = _NOT_XML.sub("?", one["text"])
            lines = text.strip().splitlines() or [""]
            xml.SubElement(case, element, message=lines[-1]).text = text
    return bytes(xml.tostring(suite, encoding="utf-8", xml_declaration=True))
