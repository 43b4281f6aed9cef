"""Tells findings in words for people, with a line each for those who look for one."""

import os
from collections.abc import Iterator, Sequence

from trapgate.finder.explaining import crosses, crossing, excerpt
from trapgate.finder.findings import Called, Finding, Process, Report, Stack
from trapgate.finder.formats.words import place_of, process_name, shown, times, whose
from trapgate.finder.sightings import USER

MOST_PROCESSES = 5  # of a finding, in words
MOST_FRAMES = 24  # of a stack


def render(report: Report) -> Iterator[str]:
    """The whole report; nothing where there is nothing to tell."""
    for one in report.findings:
        yield from story(one)
        yield ""
    yield from endings(report)


def endings(report: Report) -> Iterator[str]:
    """What is not known, and a line a finding."""
    for note in report.notes:
        yield f"trapgate: {shown(note)}"
    for silent in report.suppressed:
        findings = f"{silent.findings} finding{'s' * (silent.findings != 1)}"
        yield f"trapgate: suppressed by {shown(silent.name)}: {findings}, {times(silent.count)}"
    for one in report.findings:
        yield f"trapgate: SUMMARY: {summary(one)}"


def summary(finding: Finding) -> str:
    """A finding in one line."""
    number, name = finding.kind.value
    known = " (in the baseline)" if finding.known else ""
    return f"{number} {name}: {place_of(finding.site)}: {times(finding.count)} by {', '.join(_names(finding.processes))}{known}"


def story(finding: Finding) -> Iterator[str]:
    """All that is known of a finding."""
    site, lock, (number, name) = finding.site, finding.lock, finding.kind.value
    level = "" if lock.cpl == USER else f", in the kernel (CPL {lock.cpl})"
    known = ", in the baseline" if finding.known else ""
    yield f"trapgate: {number} {name}{level}: {times(finding.count)}{known}"
    if site.module:
        inside = f" in {shown(site.function)}+{site.function_offset:#x}" if site.function else f" at {site.offset:#x}"
        yield f"  {shown(site.module)}{inside}"
    if site.words:
        yield f"  {site.address:#x}:  {site.words}    ({site.code.hex(' ')})"
    else:
        yield f"  {site.address:#x}"
    if site.note:
        yield f"  {shown(site.note)}"
    if site.line is not None:
        yield f"  {shown(site.line.path)}:{site.line.number}"
        yield from excerpt(site.line, [(number, shown(text)) for number, text in site.source])
    if crosses(lock.address, lock.size):
        yield from crossing(lock.address, lock.size)
    else:
        yield f"  locks {lock.size} bytes at {lock.address:#x}, in memory that is not write-back"
    if memory := whose(finding):
        yield f"  they are in {memory}"
    yield from _stacks(finding.stacks)
    for process in finding.processes[:MOST_PROCESSES]:
        thread = f" (first: thread {process.thread})" if process.thread != process.pid else ""
        yield f"  by {process_name(process)}{thread}: {times(process.count)}"
    if len(finding.processes) > MOST_PROCESSES:
        yield f"  and by {len(finding.processes) - MOST_PROCESSES} more processes"


def _stacks(stacks: Sequence[Stack]) -> Iterator[str]:
    """The most frequent, and how many others there are."""
    for one in stacks[:1]:
        share = "" if len(stacks) == 1 else f", {one.count} of the first {sum(each.count for each in stacks)} times"
        yield f"  called from{share}:"
        for number, frame in enumerate(one.frames[:MOST_FRAMES]):
            yield f"    #{number:<3}{frame_words(frame)}"
        if len(one.frames) > MOST_FRAMES:
            yield f"    and {len(one.frames) - MOST_FRAMES} more"
    if len(stacks) > 1:
        yield f"  and from {len(stacks) - 1} more place{'s' * (len(stacks) > 2)} (--format json has all)"


def frame_words(frame: Called) -> str:
    """A frame in one line, as debuggers tell one."""
    if frame.signal:
        return frame.function
    name = shown(frame.function) or f"{frame.address:#x}"
    if frame.line is not None:
        where = f" at {shown(frame.line.path)}:{frame.line.number}"
    else:
        where = f"+{frame.function_offset:#x}" * bool(frame.function)
        where += f" in {shown(os.path.basename(frame.module) or frame.module)}" * bool(frame.module)
    return name + where + ", inlined" * frame.inlined + " (by frame pointers)" * frame.guessed


def _names(processes: Sequence[Process]) -> Iterator[str]:
    yield from map(process_name, processes[:1])
    if len(processes) > 1:
        yield f"{len(processes) - 1} more"
