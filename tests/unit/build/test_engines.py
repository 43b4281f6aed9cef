"""Engines are what satisfies their protocol: nobody looks which one it is, or what it happens to have."""

import re
from pathlib import Path

import trapgate

SOURCES = Path(trapgate.__file__).parent
ENGINES = SOURCES / "soft", SOURCES / "kvm", SOURCES / "build"
PROBES = re.compile(r"\bhasattr\(|\bisinstance\([^\n]*(?:SoftVcpu|KvmVcpu|SoftEngine|KvmEngine)")


def test_nobody_probes() -> None:
    probes = [
        f"{path.relative_to(SOURCES)}:{number}: {line.strip()}"
        for path in sorted(SOURCES.rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if PROBES.search(line)
    ]
    assert not probes


def test_only_their_makers_name_the_engines() -> None:
    """`build` makes them; `doctor` and `probe` ask the host for what they rest on."""
    named = re.compile(r"from trapgate\.(?:soft\.cpu|kvm\.cpu) import|from trapgate\.(?:soft|kvm) import cpu")
    outside = [
        str(path.relative_to(SOURCES))
        for path in sorted(SOURCES.rglob("*.py"))
        if named.search(path.read_text()) and not any(path.is_relative_to(one) for one in ENGINES)
    ]
    assert not outside
