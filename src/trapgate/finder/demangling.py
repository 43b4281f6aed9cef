"""Reads the names that C++ and Rust compilers give to linkers as source has them.

By two parsers in plain Python: they need no library of the host's, which a sandbox would bar amid a run (Itanium C++ ABI, 5.1; Rust
RFC 2603). A name that they do not know stays as it is.
"""

import re
import sys
from collections.abc import Callable
from functools import lru_cache
from types import FrameType

import itanium_demangler
import rust_demangler

LONGEST = 4096  # characters of a name that is read
MOST_CALLS = 20_000  # of Python functions in reading one: names can say in a line what would be gigabytes
_KEPT = 1 << 14
_REFERENCES = {"lvalue": "&", "rvalue": "&&"}
_RUST = re.compile(r"_ZN.*17h[0-9a-f]{16}E")
_SUFFIX = re.compile(r"(?:\.(?:constprop|isra|part|cold|lto_priv|llvm)(?:\.[0-9A-Za-z]+)*)+$")
_HASH = re.compile(r"::h[0-9a-f]{16}$")


class _Beyond(BaseException):
    """A name takes more than any that is in earnest. No `Exception`: the parsers catch those."""


@lru_cache(_KEPT)
def demangled(name: str) -> str:
    """A function's or variable's name as source has it, with what a compiler has said of a part of it behind: "[cold]"."""
    if not name.startswith(("_Z", "_R")) or len(name) > LONGEST:
        return name
    cut = _SUFFIX.search(name)
    linked = name if cut is None else name[: cut.start()]
    try:
        found = _bounded(lambda: _read(linked))
    except (Exception, _Beyond):  # a guest's file has any names, and these parsers fail in many ways
        return name
    if found in ("", "Error") or not found.isprintable():
        return name
    return found if cut is None else f"{found} [{cut[0].strip('.').partition('.')[0]}]"


def _read(name: str) -> str:
    if name.startswith("_R") or _RUST.fullmatch(name):
        return _HASH.sub("", str(rust_demangler.demangle(name)))
    parsed = itanium_demangler.parse(name)
    if parsed is None:
        return ""
    behind: list[str] = []
    while parsed.kind == "func" and parsed.name.kind in ("cv_qual", *_REFERENCES):  # a method's own stand behind its parameters
        own = parsed.name
        behind[:0] = sorted(own.qual) if own.kind == "cv_qual" else [_REFERENCES[own.kind]]
        parsed = parsed._replace(name=own.value)
    return " ".join((str(parsed), *behind))


def _bounded(read: Callable[[], str]) -> str:
    """What is read, within `MOST_CALLS`."""
    left = MOST_CALLS

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal left
        left -= event == "call"
        if left < 0:
            raise _Beyond

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        return read()
    finally:
        sys.setprofile(before)
