"""Decides which findings are told: those that no suppression matches; and which count: those that no baseline has."""

import os
from collections import Counter

from trapgate.errors import TrapgateError
from trapgate.finder import saved, suppressions
from trapgate.finder.findings import Finding, Report, Suppressed
from trapgate.finder.suppressions import Suppression
from trapgate.hostcall import NotAFile, open_file
from trapgate.values import dataclass, replace

MOST_BYTES = 256 << 20  # of a file that is read


class JudgingError(TrapgateError):
    """A file of suppressions, or a baseline, cannot be read."""


def text_of(path: str) -> str:
    """The text of a file. JudgingError."""
    try:
        with os.fdopen(open_file(path), "rb") as file:
            return file.read(MOST_BYTES).decode("utf-8", "surrogateescape")
    except OSError as error:
        what = "it is no regular file" if isinstance(error, NotAFile) else error.strerror
        raise JudgingError(f"cannot read {path}: {what}") from error


@dataclass(frozen=True, slots=True)
class Judge:
    """What is known already: suppressions, and the fingerprints of a baseline."""

    suppressions: tuple[Suppression, ...] = ()
    baseline: frozenset[str] = frozenset()

    @classmethod
    def of(cls, files: tuple[str, ...], baseline: str | None) -> "Judge":
        """By what the files say. TrapgateError."""
        found = tuple(one for path in files for one in suppressions.read(text_of(path), path))
        known = saved.read(text_of(baseline), baseline).findings if baseline is not None else ()
        return cls(found, frozenset(one.fingerprint for one in known))

    def judged(self, report: Report) -> Report:
        """The report without what is suppressed, and with what the baseline has marked."""
        told: list[Finding] = []
        silent: dict[str, Counter[str]] = {}
        for one in report.findings:
            by = next((each for each in self.suppressions if each.matches(one)), None)
            if by is None:
                told.append(replace(one, known=one.known or one.fingerprint in self.baseline))
            else:
                silent.setdefault(by.name, Counter()).update(findings=1, count=one.count)
        more = tuple(Suppressed(name, counts["findings"], counts["count"]) for name, counts in silent.items())
        return replace(report, findings=tuple(told), suppressed=report.suppressed + more)
