"""Makes the command line fail as it should: one line on standard error and an exit status that a script can rely on."""

import signal

from trapgate.errors import TrapgateError
from trapgate.sandbox import ending
from trapgate.stops import STATUS, ExitKind

OK = 0  # the guest powered itself off
GUEST_FAILURE = 1  # a triple fault, or a demo whose guest read something wrong
HOST_FAILURE = 1  # the host refused something that trapgate needs
USAGE = 2  # bad options, or an input that cannot be used
GUEST_FAILED = 3  # of `trapgate exec`: the guest or the host, not the program
TIMED_OUT, NOT_EXECUTABLE, NOT_FOUND = 124, 126, 127  # the same, as timeout(1) and shells have them
INTERNAL = 70  # EX_SOFTWARE of sysexits(3): a fault of trapgate itself
INTERRUPTED = 128 + signal.SIGINT  # Ctrl-C
OUTPUT_CLOSED = 128 + signal.SIGPIPE  # nobody reads what we write


STATUSES = (
    ("0", "the guest powered off or asked for a reset; or you quit: Ctrl-A x, gdb's `kill`"),
    ("1", "a device of ours broke under the guest; or the host lacks what a run takes"),
    ("2", "wrong usage, or an image that cannot be used"),
    (str(STATUS[ExitKind.DEAD]), "the guest halted for good, with interrupts disabled: the end of many a panic"),
    (str(STATUS[ExitKind.SHUTDOWN]), "the guest crashed: a triple fault"),
    (str(ending.STATUS), "the sandbox stopped a call that no run makes: a guest broke out, or the sandbox is wrong"),
    (str(INTERNAL), "a fault of trapgate itself"),
    (str(INTERRUPTED), "SIGINT (Ctrl-C where standard input is no terminal); 143: SIGTERM"),
    ("odd", "what the guest wrote to its exit port (F4h, 501h): value * 2 + 1, low 8 bits. Writing 0 gives 1"),
)
"""What `trapgate run` ends with, and what each means: the table in its help."""


class Failure(TrapgateError):
    """The command cannot go on. The text is one line: what was wrong and what to do about it."""

    def __init__(self, text: str, status: int = USAGE) -> None:
        super().__init__(" ".join(text.split()))
        self.status = status
