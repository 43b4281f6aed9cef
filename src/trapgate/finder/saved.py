"""Keeps a report as JSON, and reads it back."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

from trapgate.errors import TrapgateError
from trapgate.exits import BusLock
from trapgate.finder.explaining import CACHE_LINE
from trapgate.finder.findings import Block, Called, Finding, Kind, Process, Report, Run, Site, Stack, Suppressed
from trapgate.finder.lines import Line

FORMAT = 1  # another where a name changes its meaning or goes
T = TypeVar("T")
_BY_NUMBER = {kind.value[0]: kind for kind in Kind}


class SavedError(TrapgateError):
    """What was to be a report is none."""


def value(report: Report) -> dict[str, object]:
    """The report as what JSON has."""
    one = report.runs[0] if len(report.runs) == 1 else Run(())
    return {
        "format": FORMAT,
        "program": list(one.program),
        "status": one.status,
        "signal": one.signal,
        "runs": [{"program": list(run.program), "status": run.status, "signal": run.signal} for run in report.runs],
        "notes": list(report.notes),
        "suppressed": [{"name": one.name, "findings": one.findings, "count": one.count} for one in report.suppressed],
        "findings": [finding_value(one) for one in report.findings],
    }


def finding_value(finding: Finding) -> dict[str, object]:
    """A finding as what JSON has."""
    site, lock, (number, name) = finding.site, finding.lock, finding.kind.value
    return {
        "kind": number,
        "name": name,
        "fingerprint": finding.fingerprint,
        "known": finding.known,
        "cpl": lock.cpl,
        "count": finding.count,
        "site": {
            "rip": lock.rip,
            "address": site.address,
            "instruction": site.words or None,
            "bytes": site.code.hex(),
            "module": site.module or None,
            "offset": site.offset if site.module else None,
            "function": site.function or None,
            "function_offset": site.function_offset if site.function else None,
            **_line(site.line),
            "source": [{"line": number, "text": text} for number, text in site.source],
            "note": site.note or None,
        },
        "operand": {
            "address": lock.address,
            "size": lock.size,
            "line_offset": lock.address % CACHE_LINE,
            "mapping": finding.operand or None,
            "variable": finding.owner or None,
            "variable_offset": finding.owner_offset if finding.owner else None,
            "member": finding.member or None,
            "variable_in": finding.owner_in or None,
            "mapping_offset": finding.operand_offset,
            "block": None if finding.block is None else {"size": finding.block.size, "offset": finding.block.offset},
        },
        "processes": [{"name": one.name, "pid": one.pid, "thread": one.thread, "count": one.count} for one in finding.processes],
        "stacks": [{"count": one.count, "frames": [_frame(frame) for frame in one.frames]} for one in finding.stacks],
    }


def _line(line: Line | None) -> dict[str, object]:
    return {"file": line.path if line else None, "line": line.number if line else None}


def _frame(frame: Called) -> dict[str, object]:
    return {
        "address": frame.address,
        "module": frame.module or None,
        "offset": frame.offset if frame.module else None,
        "function": frame.function or None,
        "function_offset": frame.function_offset if frame.function else None,
        **_line(frame.line),
        "inlined": frame.inlined,
        "signal": frame.signal,
        "guessed": frame.guessed,
    }


def read(text: str, name: str) -> Report:
    """A report that was kept as JSON in a file of that name. SavedError."""
    try:
        whole = _as(dict, json.loads(text))
        if whole["format"] != FORMAT:
            raise SavedError(f"{name} is a report of format {whole['format']!r}, which this version does not read")
        return _report(whole)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SavedError(f"{name} is no report of trapgate's (--format json makes one)") from error


def _report(whole: dict[str, Any]) -> Report:
    runs = [_as(dict, one) for one in _list(whole.get("runs", [whole]))]
    return Report(
        tuple(
            Run(tuple(_as(str, word) for word in _list(one["program"])), _perhaps(int, one["status"]), _perhaps(int, one["signal"]))
            for one in runs
        ),
        tuple(_finding(_as(dict, one)) for one in _list(whole["findings"])),
        tuple(_as(str, one) for one in _list(whole["notes"])),
        tuple(
            Suppressed(_as(str, one["name"]), _number(one["findings"]), _number(one["count"]))
            for one in whole.get("suppressed", [])
        ),
    )


def _finding(one: dict[str, Any]) -> Finding:
    site, operand = _as(dict, one["site"]), _as(dict, one["operand"])
    return Finding(
        _BY_NUMBER[_as(str, one["kind"])],
        Site(
            _number(site["address"]),
            bytes.fromhex(_as(str, site["bytes"])),
            _text(site["instruction"]),
            _text(site["module"]),
            _number(site["offset"]),
            _text(site["function"]),
            _number(site["function_offset"]),
            _read_line(site),
            _text(site["note"]),
            tuple((_number(line["line"]), _text(line["text"])) for line in _list(site.get("source", []))),
        ),
        BusLock(_number(site["rip"]), _number(operand["address"]), _number(operand["size"]), _number(one["cpl"])),
        _text(operand["mapping"]),
        _text(operand["variable"]),
        _number(operand["variable_offset"]),
        [
            Process(_text(each["name"]), _number(each["pid"]), _number(each["thread"]), _number(each["count"]))
            for each in _list(one["processes"])
        ],
        [Stack(tuple(map(_read_frame, _list(each["frames"]))), _number(each["count"])) for each in _list(one.get("stacks", []))],
        _text(one.get("fingerprint")),
        bool(one.get("known")),
        _perhaps(_number, operand.get("mapping_offset")),
        _text(operand.get("member")),
        _perhaps(lambda block: Block(_number(block["size"]), _number(block["offset"])), operand.get("block")),
        _text(operand.get("variable_in")),
    )


def _read_frame(one: dict[str, Any]) -> Called:
    return Called(
        _number(one["address"]),
        _text(one["module"]),
        _number(one["offset"]),
        _text(one["function"]),
        _number(one["function_offset"]),
        _read_line(one),
        bool(one["inlined"]),
        bool(one["signal"]),
        bool(one["guessed"]),
    )


def _read_line(one: dict[str, Any]) -> Line | None:
    return None if one["file"] is None else Line(_as(str, one["file"]), _number(one["line"]))


def _as(kind: type[T], given: object) -> T:
    if not isinstance(given, kind) or isinstance(given, bool):
        raise TypeError(f"{given!r} is no {kind.__name__}")
    return given


def _list(given: object) -> list[Any]:
    return _as(list, given)


def _perhaps(kind: Callable[[Any], T], given: object) -> T | None:
    return None if given is None else kind(given)


def _number(given: object) -> int:
    return 0 if given is None else _as(int, given)


def _text(given: object) -> str:
    return "" if given is None else _as(str, given)
