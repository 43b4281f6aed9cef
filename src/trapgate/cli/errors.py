"""How the command line fails: one line on standard error and an exit status that a script can rely on."""

import signal

OK = 0  # the guest powered itself off
GUEST_FAILURE = 1  # a triple fault, or a demo whose guest read something wrong
HOST_FAILURE = 1  # the host refused something that trapgate needs
USAGE = 2  # bad options, or an input that cannot be used
INTERNAL = 70  # EX_SOFTWARE of sysexits(3): a fault of trapgate itself
INTERRUPTED = 128 + signal.SIGINT  # Ctrl-C
OUTPUT_CLOSED = 128 + signal.SIGPIPE  # nobody reads what we write


class Failure(Exception):
    """The command cannot go on. The text is one line: what was wrong and what to do about it."""

    def __init__(self, text: str, status: int = USAGE) -> None:
        super().__init__(" ".join(text.split()))
        self.status = status
