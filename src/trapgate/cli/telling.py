"""Tells the user something: lines on standard error that say who speaks."""

import contextlib
import sys


def tell(text: str) -> None:
    """One or more lines for the user, on standard error."""
    with contextlib.suppress(OSError, ValueError):
        print(lines(text), end="", file=sys.stderr, flush=True)


def lines(text: str) -> str:
    """What is written for one or more lines."""
    return "".join(f"trapgate: {line}\n" for line in text.splitlines())
