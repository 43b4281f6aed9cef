"""Gives each finding a fingerprint: the same in another run, and in a program that has changed elsewhere.

So it is made of what stays when lines move and code is laid out anew: the kind, the file's name, the function, and the text of the
line of source; without source, the instruction less its numbers; without a function either, where it lies in its file. Findings
that have all that in common are numbered in the order of their addresses.
"""

import hashlib
import os
import re
from collections.abc import Sequence

from trapgate.finder.findings import Finding

LENGTH = 32  # hexadecimal digits
VERSION = "trapgate/v1"
"""What fingerprints of this making are called, where several are told."""
_NUMBERS = re.compile(r"\b(0x)?[0-9][0-9A-Fa-f]*h?\b")
_VERSION_OF_FILE = re.compile(r"(\.so)[.0-9]*$")


def give(findings: Sequence[Finding]) -> None:
    """Set each one's fingerprint."""
    seen: dict[tuple[str, ...], int] = {}
    for one in sorted(findings, key=lambda one: (one.site.module, one.site.address)):
        what = _lasting(one)
        number = seen[what] = seen.get(what, 0) + 1
        one.fingerprint = hashlib.sha256("\0".join((*what, str(number))).encode(errors="backslashreplace")).hexdigest()[:LENGTH]


def _lasting(finding: Finding) -> tuple[str, ...]:
    site, lock = finding.site, finding.lock
    module = _VERSION_OF_FILE.sub(r"\1", os.path.basename(site.module))
    text = "" if site.line is None else next((text for number, text in site.source if number == site.line.number), "")
    words = " ".join(text.split()) or _NUMBERS.sub("#", site.words)
    place = "" if site.function else f"{site.offset or site.address:#x}"
    return (finding.kind.value[0], str(lock.cpl), module, site.function, place, words)
