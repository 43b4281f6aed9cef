"""What the emulated CPU below KVM gets wrong without it, in the nested machine of `make test-kvm` (`tools.nested.alone`)."""

import json
from functools import cache

from tools.nested.alone import DEMO, NO_END, PLACE


@cache
def _known() -> dict[str, list[str]]:
    return dict(json.loads(PLACE.read_bytes())) if PLACE.is_file() else {}


def demo_rows() -> frozenset[str]:
    """The demo guest's cases."""
    return frozenset(_known().get(DEMO, ()))


def excused(program: str, wrong: list[str], ended: bool) -> str:
    """Why nothing can be said of a program that went wrong in these lines or did not end; '' when something can."""
    known = _known().get(program, [])
    if NO_END not in known and not (known and ended and set(wrong) <= set(known)):  # where it does not end it has not come to all
        return ""
    return f"the host's CPU does so without KVM, too: {known[0].partition(': vector')[0]}" + (
        f" and {len(known) - 1} more" if len(known) > 1 else ""
    )
