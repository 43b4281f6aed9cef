"""Makes one report of several: the same finding in two of them is one."""

from collections import Counter
from collections.abc import Iterable
from itertools import chain

from trapgate.finder.findings import Called, Finding, Report, Stack, Suppressed
from trapgate.values import replace


def merged(reports: Iterable[Report]) -> Report:
    """One report of all; findings that have a fingerprint in common are one, the busiest come first."""
    whole = list(reports)
    alike: dict[object, list[Finding]] = {}
    for one in chain.from_iterable(each.findings for each in whole):
        alike.setdefault((one.kind, one.fingerprint) if one.fingerprint else id(one), []).append(one)
    silent: dict[str, Suppressed] = {}
    for each in chain.from_iterable(each.suppressed for each in whole):
        before = silent.get(each.name, Suppressed(each.name, 0, 0))
        silent[each.name] = Suppressed(each.name, before.findings + each.findings, before.count + each.count)
    return Report(
        tuple(chain.from_iterable(each.runs for each in whole)),
        tuple(sorted(map(_one, alike.values()), key=lambda one: -one.count)),
        tuple(dict.fromkeys(chain.from_iterable(each.notes for each in whole))),
        tuple(silent.values()),
    )


def _one(findings: list[Finding]) -> Finding:
    stacks: Counter[tuple[Called, ...]] = Counter()
    for one in findings:
        for stack in one.stacks:
            stacks[stack.frames] += stack.count
    return replace(
        findings[0],
        processes=list(chain.from_iterable(one.processes for one in findings)),
        stacks=[Stack(frames, count) for frames, count in stacks.most_common()],
        known=all(one.known for one in findings),
    )
