"""Reads suppressions: patterns of findings that are not to be told.

A suppression is a name, what kind it is of, and the frames of a stack from the innermost on, each by a pattern with * and ?:

    {
       known in the vendor's library
       TG0001
       fun:vendor_*
       ...
       obj:*/libvendor.so*
    }

`fun:` is a function, inlined ones among them, `obj:` a program or library, `src:` a file of source, with `:LINE` or without, and
`...` any number of frames. What follows the last pattern does not matter. `*` instead of the kind means all. Lines that begin with
# are comments. A finding is suppressed when each of its stacks matches.
"""

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from trapgate.errors import TrapgateError
from trapgate.finder.findings import Called, Finding, Kind, Stack
from trapgate.values import dataclass

ANY, MORE = "*", "..."
KINDS = (*(kind.value[0] for kind in Kind), ANY)
MOST_NAMED = 8  # frames that a made suppression names
_GLOB = re.compile(r"[*?\[]")


class SuppressionError(TrapgateError):
    """A line of a file of suppressions is none of what it may be."""


@dataclass(frozen=True, slots=True)
class Suppression:
    """See the module. `frames`: (what, pattern), or (MORE, "")."""

    name: str
    kind: str
    frames: tuple[tuple[str, str], ...]

    def matches(self, finding: Finding) -> bool:
        """Whether it is to be kept from telling."""
        if self.kind not in (ANY, finding.kind.value[0]):
            return False
        return all(_matches(self.frames, one.frames) for one in stacks_of(finding))


def stacks_of(finding: Finding) -> Sequence[Stack]:
    """The stacks of a finding; where none is known, that of the instruction alone."""
    site = finding.site
    own = Called(site.address, site.module, site.offset, site.function, site.function_offset, site.line)
    return finding.stacks or [Stack((own,), finding.count)]


def _source(frame: Called) -> str:
    return "" if frame.line is None else f"{frame.line.path}:{frame.line.number}"


_WHAT: dict[str, Callable[[Called, str], bool]] = {
    "fun": lambda frame, pattern: fnmatchcase(frame.function, pattern),
    "obj": lambda frame, pattern: fnmatchcase(frame.module, pattern),
    "src": lambda frame, pattern: (
        fnmatchcase(_source(frame), pattern) or (frame.line is not None and fnmatchcase(frame.line.path, pattern))
    ),
}


def _matches(patterns: Sequence[tuple[str, str]], frames: Sequence[Called]) -> bool:
    """Whether the first frames match all patterns: by which numbers of frames those up to each may have matched."""
    reached = {0}
    for what, pattern in patterns:
        if what == MORE:
            reached = set(range(min(reached), len(frames) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(frames) and _WHAT[what](frames[at], pattern)}
        if not reached:
            return False
    return True


def read(text: str, path: str) -> list[Suppression]:
    """The suppressions of a file. SuppressionError names the line."""
    found: list[Suppression] = []
    inside: list[str] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        word = line.strip()
        if not word or word.startswith("#"):
            continue
        try:
            if inside is None:
                if word != "{":
                    raise SuppressionError("a suppression begins with a line {")
                inside = []
            elif word == "}":
                found.append(_made(inside))
                inside = None
            else:
                inside.append(_checked(word, len(inside)))
        except SuppressionError as error:
            raise SuppressionError(f"{path}:{number}: {error}") from error
    if inside is not None:
        raise SuppressionError(f"{path}: the last suppression has no line }} at its end")
    return found


def _checked(word: str, place: int) -> str:
    if place == 1 and word not in KINDS:
        raise SuppressionError(f"{word!r} is no kind: {', '.join(KINDS)}")
    if place > 1 and word != MORE and (word.partition(":")[0] not in _WHAT or not word.partition(":")[2]):
        raise SuppressionError(f"{word!r} is none of fun:PATTERN, obj:PATTERN, src:PATTERN and {MORE}")
    return word


def _made(lines: list[str]) -> Suppression:
    if len(lines) < 3:
        raise SuppressionError("a suppression has a name, a kind and a frame, each in its line")
    frames = [(line, "") if line == MORE else (line.partition(":")[0], line.partition(":")[2]) for line in lines[2:]]
    return Suppression(lines[0], lines[1], tuple(frames))


def made(finding: Finding) -> list[str]:
    """A suppression of a finding, line by line, ready for a file."""
    frames = stacks_of(finding)[0].frames if len(finding.stacks) < 2 else stacks_of(finding)[0].frames[:1]
    lines = ["{", f"   {finding.kind.value[0]} {finding.fingerprint}", f"   {finding.kind.value[0]}"]
    for frame in frames[:MOST_NAMED]:
        if frame.function:
            lines.append(f"   fun:{_literally(frame.function)}")
        elif frame.module:
            lines.append(f"   obj:{_literally(frame.module)}")
        else:
            break
    if len(lines) == 3:
        lines.append(f"   {MORE}")
    return [*lines, "}"]


def _literally(text: str) -> str:
    """A pattern that matches just this, in one line."""
    escaped = _GLOB.sub(lambda found: f"[{found[0]}]", text)
    return "".join(one if one.isprintable() else "?" for one in escaped)
