"""Tells what the host's CPU is and has, as the kernel says: /proc/cpuinfo, read once."""

import os
from functools import cache
from pathlib import Path


@cache
def fields() -> dict[str, str]:
    """The first processor's entries, `vendor_id`, `model name`, `flags` and so on; empty where there is no /proc."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    entries = (line.partition(":") for line in text.split("\n\n", 1)[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in entries}


@cache
def features() -> frozenset[str] | None:
    """The CPU's features by the kernel's names; None where nobody tells."""
    flags = fields().get("flags")
    return None if flags is None else frozenset(flags.split())


def identity() -> str:
    """What tells one kind of host CPU from another."""
    found = fields()
    return (
        "\n".join(f"{name}: {found.get(name, '')}" for name in ("vendor_id", "model", "model name", "flags"))
        if found
        else (
            " ".join(os.uname())  # what is kept is good for this host alone
        )
    )
