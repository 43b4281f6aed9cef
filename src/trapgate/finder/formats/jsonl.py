"""Tells findings as JSON objects, one a line, as log collectors take them."""

import json
from collections.abc import Iterator

from trapgate.finder import saved
from trapgate.finder.findings import Report


def render(report: Report) -> Iterator[str]:
    """See `registry.Renderer`."""
    for one in report.findings:
        yield json.dumps(saved.finding_value(one))
