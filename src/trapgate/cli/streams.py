"""Makes standard input, output and error that were closed when we started /dev/null, before anything else is opened.

Otherwise whatever is opened next takes their number: the guest's output would go into a file, a socket or memory of ours.
"""

import os
import sys

from trapgate.hostcall import asking

STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
closed = set[int]()
"""The descriptors that were closed when we started."""


def fill() -> None:
    """Open what is closed; OSError where there is no /dev/null. Again is harmless."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < len(STREAMS):
        closed.add(descriptor)
        os.set_inheritable(descriptor, True)  # programs that we start have their three streams as well
    os.close(descriptor)
    for number, (name, mode) in enumerate(STREAMS):
        if getattr(sys, name) is None:  # as Python leaves it where the descriptor was closed
            setattr(sys, name, os.fdopen(number, mode, closefd=False, errors="replace"))


def give_away() -> tuple[int, int]:
    """Descriptors of standard input and output for somebody who is to have them alone. HostError.

    Whoever reads standard input finds its end from now on, and what is written to standard output goes to standard error.
    """
    with asking("copies of standard input and output (dup)"):
        taken = os.dup(0), os.dup(1)
        os.dup2(2, 1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
    return taken
