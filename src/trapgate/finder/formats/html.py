"""Tells a report as an HTML page that asks for nothing from anywhere: a table, a flame graph, each finding in full."""

import os
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files

from trapgate.finder.explaining import CACHE_LINE
from trapgate.finder.findings import Called, Finding, Report, Stack
from trapgate.finder.formats import flames
from trapgate.finder.formats.words import EXPLAINED, HELP, frame_name, place_of, process_name, shown, times, whose
from trapgate.finder.suppressions import made

MOST_STACKS = 20  # of a finding
_STYLE = files(__package__).joinpath("page.css").read_text()


def render(report: Report) -> Iterator[str]:
    """See `registry.Renderer`."""
    programs = ", ".join(" ".join(run.program) for run in report.runs) or "nothing"
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    yield f"<title>Bus locks of {_text(programs)}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>"
    yield f"<h1>Bus locks</h1>\n<p class=program><code>{_text(programs)}</code></p>"
    whole = sum(one.count for one in report.findings)
    places = len(report.findings)
    yield f"<p>{times(whole).capitalize() if whole else 'None'}, at {places} place{'s' * (places != 1)}.</p>"
    for note in report.notes:
        yield f"<p class=note>{_text(note)}</p>"
    for silent in report.suppressed:
        yield f"<p class=note>Suppressed by {_text(silent.name)}: {silent.findings}, {times(silent.count)}.</p>"
    if report.findings:
        yield from _table(report.findings)
        yield "<h2>Where from</h2>"
        yield from flames.graph(report.findings)
        for number, one in enumerate(report.findings, 1):
            yield from _finding(number, one)
    yield "</body>\n</html>"


def _text(text: str) -> str:
    return escape(shown(text))


def _table(findings: Sequence[Finding]) -> Iterator[str]:
    heads = "<th class=short>Kind<th>Where<th class=short>Bytes<th>Object<th class=number>How often"
    yield f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>"
    for number, one in enumerate(findings, 1):
        first = one.lock.address % CACHE_LINE
        known = " <span class=known>known</span>" if one.known else ""
        yield f'<tr><td class=short>{one.kind.value[0]}{known}<td><a href="#finding-{number}">{escape(place_of(one.site))}</a>'
        yield f"<td class=short>{first} to {first + one.lock.size - 1}<td>{_text(one.owner + one.member or one.operand)}"
        yield f"<td class=number>{one.count}</tr>"
    yield "</tbody>\n</table>"


def _finding(number: int, finding: Finding) -> Iterator[str]:
    site, lock, (kind, name) = finding.site, finding.lock, finding.kind.value
    yield f'<section id="finding-{number}">\n<h2>{kind} {_text(name)}: {times(finding.count)}</h2>'
    yield f"<p class=place>{escape(place_of(site))}</p>"
    if site.words:
        yield f"<p><code>{site.address:#x}: {escape(site.words)}</code> <code class=bytes>{site.code.hex(' ')}</code></p>"
    if site.note:
        yield f"<p class=note>{_text(site.note)}</p>"
    if site.line is not None and site.source:
        yield f"<pre class=source>{''.join(_source(site.line.number, each, text) for each, text in site.source)}</pre>"
    yield f"<p>{lock.size} bytes at <code>{lock.address:#x}</code>{_owner(finding)}:</p>"
    yield from line_picture(lock.address % CACHE_LINE, lock.size)
    yield f"<p>{EXPLAINED[finding.kind]} {HELP[finding.kind]}</p>"
    for place, stack in enumerate(finding.stacks[:MOST_STACKS]):
        yield from _stack(stack, opened=not place)
    who = ", ".join(f"{process_name(one)} {times(one.count)}" for one in finding.processes[:MOST_STACKS])
    more = f" and {len(finding.processes) - MOST_STACKS} more" if len(finding.processes) > MOST_STACKS else ""
    yield f"<p>By {escape(who)}{more}.</p>"
    suppression = escape("\n".join(made(finding)))
    yield f"<details><summary>Suppression</summary><pre>{suppression}</pre></details>\n</section>"


def _owner(finding: Finding) -> str:
    return f", in {_text(whose(finding))}" if whose(finding) else ""


def _source(line: int, number: int, text: str) -> str:
    mark = " class=here" if number == line else ""
    return f"<span{mark}>{number:>6}  {_text(text)}</span>\n"


def _stack(stack: Stack, *, opened: bool) -> Iterator[str]:
    yield f"<details{' open' if opened else ''}><summary>Called from, {times(stack.count)} of the first</summary>\n<ol start=0>"
    for frame in stack.frames:
        yield f"<li>{_frame(frame)}"
    yield "</ol></details>"


def _frame(frame: Called) -> str:
    where = f"{frame.line.path}:{frame.line.number}" if frame.line is not None else os.path.basename(frame.module)
    words = [word for word, so in (("inlined", frame.inlined), ("by frame pointers", frame.guessed)) if so]
    marks = f" <small>{', '.join(words)}</small>" if words else ""
    return f"<code>{_text(frame_name(frame))}</code> <span class=where>{_text(where)}</span>{marks}"


def line_picture(first: int, size: int) -> Iterator[str]:
    """An operand on its cache lines, a box a byte: `first` is its offset in the first of them."""
    lines = -(-(first + size) // CACHE_LINE)
    box, gap = 8, 10
    width = max(2, lines) * (CACHE_LINE * box + gap)  # pictures of all findings have one scale
    yield f'<svg class=line viewBox="0 0 {width} 34" role=img aria-label="bytes {first} to {first + size - 1}">'
    for line in range(lines):
        left = line * (CACHE_LINE * box + gap)
        for byte in range(CACHE_LINE):
            locked = first <= line * CACHE_LINE + byte < first + size
            yield f'<rect class="{"locked" if locked else "byte"}" x="{left + byte * box}" y="0" width="{box - 1}" height="16"/>'
        yield (
            f'<text x="{left}" y="30">byte {line * CACHE_LINE} of the first line</text>'
            if not line
            else (f'<text x="{left}" y="30">the next line</text>')
        )
    yield "</svg>"
