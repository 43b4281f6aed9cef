"""Starts the command in front of everything that it loads: what a host lacks even for that is told in one line."""

import gc
import os
import sys

HOST_FAILURE = 1  # as in `errors`, which may be what cannot be loaded


def main() -> None:
    """The command `trapgate`; it does not return."""
    gc.disable()  # until all is loaded: modules are no garbage
    try:
        from trapgate.cli import streams

        streams.fill()
        from trapgate.cli.main import main as command
    except (ImportError, OSError, MemoryError, SystemError) as error:
        text = " ".join(f"trapgate: error: the host lacks what starting takes: {type(error).__name__}: {error}".split())
        os.write(2, text.encode(errors="replace") + b"; see its limits (ulimit -a), or install trapgate again\n")
        sys.exit(HOST_FAILURE)
    command()
