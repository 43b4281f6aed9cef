"""Tells a report as SARIF 2.1.0, which code hosts and editors show at the lines of source (OASIS, Static Analysis Results Format).

A file below the working directory is told from there on, relative to %SRCROOT%, as code hosts want it.
"""

import json
import os
from collections.abc import Iterator
from urllib.parse import quote

from trapgate.finder.findings import Called, Finding, Kind, Report, Run, Stack
from trapgate.finder.fingerprints import VERSION
from trapgate.finder.formats.github import relative
from trapgate.finder.formats.words import EXPLAINED, HELP, frame_name, message, shown
from trapgate.finder.lines import Line

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_ROOT = "%SRCROOT%"
Value = dict[str, object]


def render(report: Report) -> Iterator[str]:
    """See `registry.Renderer`."""
    notes = [{"level": "warning", "message": {"text": shown(note)}} for note in report.notes]
    invocations = [_invocation(one) for one in report.runs] or [{"executionSuccessful": True}]
    invocations[0] |= {"toolExecutionNotifications": notes} if notes else {}
    run = {
        "tool": {"driver": {"name": "trapgate", "rules": [_rule(kind) for kind in Kind]}},
        "invocations": invocations,
        "columnKind": "unicodeCodePoints",
        "results": [_result(one) for one in report.findings],
    }
    yield json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _rule(kind: Kind) -> Value:
    number, name = kind.value
    return {
        "id": number,
        "name": "".join(word.capitalize() for word in name.replace("-", " ").split()),
        "shortDescription": {"text": name.capitalize()},
        "fullDescription": {"text": EXPLAINED[kind]},
        "help": {"text": HELP[kind]},
        "defaultConfiguration": {"level": "error"},
    }


def _invocation(run: Run) -> Value:
    ended: Value = {} if run.status is None else {"exitCode": run.status}
    if run.signal is not None:
        ended = {"exitSignalNumber": run.signal}
    return {"executionSuccessful": bool(ended), "arguments": [shown(word) for word in run.program], **ended}


def _result(finding: Finding) -> Value:
    site, kinds = finding.site, list(Kind)
    frame = Called(site.address, site.module, site.offset, site.function, site.function_offset, site.line)
    location = _location(frame, finding.lock.rip)
    text = next((text for number, text in site.source if site.line is not None and number == site.line.number), None)
    if text is not None:
        location["physicalLocation"]["region"]["snippet"] = {"text": shown(text)}  # type: ignore[index]
    told: Value = {
        "ruleId": finding.kind.value[0],
        "ruleIndex": kinds.index(finding.kind),
        "level": "note" if finding.known else "error",
        "message": {"text": f"{message(finding)}. {HELP[finding.kind]}"},
        "locations": [location],
        "occurrenceCount": max(1, finding.count),
        "properties": {
            "instruction": site.words,
            "cpl": finding.lock.cpl,
            "operandAddress": hex(finding.lock.address),
            "operandSize": finding.lock.size,
            "lineOffset": finding.lock.address % 64,
            "object": shown(finding.owner + finding.member or finding.operand),
            "processes": [{"name": shown(one.name), "pid": one.pid, "count": one.count} for one in finding.processes],
        },
    }
    if finding.fingerprint:
        told["partialFingerprints"] = {VERSION: finding.fingerprint}
    if finding.stacks:
        told["stacks"] = [_stack(one) for one in finding.stacks]
    if finding.known:
        told["baselineState"] = "unchanged"
    return told


def _stack(stack: Stack) -> Value:
    frames = [{"location": _location(one, one.address), **_module(one)} for one in stack.frames]
    return {"message": {"text": f"{stack.count} of the first bus locks"}, "frames": frames}


def _module(frame: Called) -> Value:
    return {"module": shown(os.path.basename(frame.module))} if frame.module else {}


def _location(frame: Called, address: int) -> Value:
    if frame.line is not None:
        place: Value = {"artifactLocation": _artifact(frame.line.path), **_region(frame.line)}
    elif frame.module.startswith("/"):
        place = {"artifactLocation": _artifact(frame.module), "region": {"byteOffset": frame.offset, "byteLength": 1}}
    else:
        place = {"address": {"absoluteAddress": address & (1 << 63) - 1, "fullyQualifiedName": shown(frame_name(frame))}}
    logical = [{"name": shown(frame.function), "kind": "function"}] if frame.function else []
    return {"physicalLocation": place, **({"logicalLocations": logical} if logical else {})}


def _region(line: Line) -> Value:
    return {"region": {"startLine": line.number}} if line.number > 0 else {}


def _artifact(path: str) -> Value:
    """A file by its URI; of any bytes."""
    here = relative(path)
    try:
        text = quote(here.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:  # no name of a file is such
        text = quote(shown(here))
    if here != path or not path.startswith("/"):
        return {"uri": text, "uriBaseId": _ROOT}
    return {"uri": f"file://{text}"}
