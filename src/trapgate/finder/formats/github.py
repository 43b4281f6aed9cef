"""Tells findings as GitHub's annotation lines (docs.github.com, "Workflow commands for GitHub Actions").

Paths below the working directory are told from there on, as the page of a pull request has them.
"""

import os
from collections.abc import Iterator

from trapgate.finder.findings import Finding, Report
from trapgate.finder.formats.words import HELP, message, place_of, shown


def render(report: Report) -> Iterator[str]:
    """See `registry.Renderer`."""
    for one in report.findings:
        yield _annotation(one)
    for note in report.notes:
        yield f"::notice title=trapgate::{_data(shown(note))}"


def _annotation(finding: Finding) -> str:
    number, name = finding.kind.value
    properties = {"title": f"{number} {name}"}
    line = finding.site.line
    if line is not None:
        properties = {"file": shown(relative(line.path)), "line": str(line.number), **properties}
    told = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    text = f"{message(finding)}\n{place_of(finding.site)}\n{HELP[finding.kind]}"
    return f"::{'warning' if finding.known else 'error'} {told}::{_data(text)}"


def relative(path: str) -> str:
    """A path from the working directory on, if it is below."""
    here = os.path.join(os.getcwd(), "")
    return path.removeprefix(here) if path.startswith(here) else path


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
