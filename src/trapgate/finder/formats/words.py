"""Says in words what several formats have in common."""

import codecs
import os

from trapgate.finder.findings import Called, Finding, Kind, Process, Site

HELP = {
    Kind.SPLIT: "Align what is locked to its size, so that it lies in one cache line: no packing around it, alignas, or padding.",
    Kind.NOT_WRITE_BACK: "Do not lock memory of devices, or that is mapped uncached: keep what is locked in ordinary memory.",
}
"""What usually mends a kind."""
EXPLAINED = {
    Kind.SPLIT: "A locked operand crosses a line of 64 bytes: every CPU of the machine waits while it is accessed.",
    Kind.NOT_WRITE_BACK: "A locked operand lies in memory of another type: every CPU of the machine waits while it is accessed.",
}

_ESCAPE = codecs.getencoder("unicode_escape")  # found now: reports are written where nothing can be loaded any more


def _escaped(one: str) -> str:
    return _ESCAPE(one, "surrogatepass")[0].decode()


def shown(text: str) -> str:
    """Any text in one line, whatever is in it."""
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


def plain(text: str) -> str:
    """Any text as what XML and UTF-8 can hold: what is no character of theirs is escaped."""
    return "".join(
        one if one in "\t\n" or (one.isprintable() and ord(one) <= 0xFFFF) or 0x10000 <= ord(one) < 0x110000 else _escaped(one)
        for one in text
    )


def times(count: int) -> str:
    """How often."""
    return "once" if count == 1 else f"{count} times"


def place_of(site: Site) -> str:
    """A place in one line, for people and `grep`."""
    offset = f"+{site.offset:#x}" if site.offset else ""
    where = shown(os.path.basename(site.module)) + offset if site.module else f"{site.address:#x}"
    parts = [f"{shown(site.line.path)}:{site.line.number}"] if site.line else []
    parts += [f"in {shown(site.function)}"] if site.function else []
    return f"{' '.join(parts)} ({where})" if parts else where


def whose(finding: Finding) -> str:
    """Whose memory is locked, in words; "" where nothing is known of it."""
    if finding.owner:
        part = f"{shown(finding.owner + finding.member)}, " if finding.member else ""
        inside = f" of {shown(finding.owner_in)}" if finding.owner_in else ""
        return f"{part}the variable {shown(finding.owner)}{inside}, {finding.owner_offset} bytes from its beginning"
    if finding.block is not None:
        return f"a block of {finding.block.size} bytes of the heap, {finding.block.offset} bytes from its beginning"
    at = "" if finding.operand_offset is None else f" at {finding.operand_offset:#x}"
    return f"{shown(finding.operand)}{at}" if finding.operand else ""


def message(finding: Finding) -> str:
    """A finding in a sentence, without its place."""
    lock, (_, name) = finding.lock, finding.kind.value
    what = f"{finding.site.words.split(' [')[0]}: " if finding.site.words else ""
    owner = f" of {shown(finding.owner + finding.member)}" if finding.owner else f" in {whose(finding)}" if whose(finding) else ""
    return f"{name}: {what}{lock.size} bytes{owner} at byte {lock.address % 64} of a line of 64, {times(finding.count)}"


def process_name(process: Process) -> str:
    """A process, as the guest calls it."""
    return f"{shown(process.name)}[{process.pid}]" if process.pid else "a process that is not known"


def frame_name(frame: Called) -> str:
    """A frame's function, or where it is."""
    if frame.function:
        return frame.function
    return f"{os.path.basename(frame.module) or '?'}+{frame.offset:#x}" if frame.module else f"{frame.address:#x}"
