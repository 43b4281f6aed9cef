"""Tells a report as one JSON object, which `trapgate report` reads back."""

import json
from collections.abc import Iterator

from trapgate.finder import saved
from trapgate.finder.findings import Report


def render(report: Report) -> Iterator[str]:
    """See `registry.Renderer`."""
    yield json.dumps(saved.value(report), indent=2)
