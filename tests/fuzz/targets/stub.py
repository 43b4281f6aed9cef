"""The gdb stub: whatever a client sends to a pretend guest that stands or runs, framed or not.

A line is a packet's payload; behind `monitor ` what a user types; behind `~` bytes as they are; `^` is Ctrl-C.
"""

from fuzz.target import Target
from gdb.pretend import DATA, PretendTarget
from trapgate.gdb.context import Context, State
from trapgate.gdb.framing import PACKET_SIZE, Junk, Packet, Reader, frame
from trapgate.gdb.monitor import COMMANDS
from trapgate.gdb.packets import PACKETS
from trapgate.gdb.session import Session
from trapgate.gdb.target import Stop, Stopped

_INSTRUCTIONS = 40  # that the guest runs between two lines
_SILENT = (b"k", b"R")  # packets without a reply
MOST_LINES = 200


class Conversation:
    """A client and a session; `heard` is every reply so far."""

    def __init__(self) -> None:
        self.target = PretendTarget(cpus=2)
        self.session = Session(self.target)
        self.target.on_stop = self._stopped
        self._reader = Reader(runs=True)
        self.heard: list[bytes] = []
        self._whole = True  # no bytes that may have begun a frame came before

    def _stopped(self, stop: Stop) -> None:
        self.target.alive &= isinstance(stop, Stopped)
        self._hear(self.session.stopped(stop))

    def _hear(self, data: bytes) -> None:
        assert len(data) <= 8 * PACKET_SIZE, f"{len(data)} bytes of an answer"
        for event in self._reader.feed(data):
            assert not isinstance(event, Junk), "bytes outside a frame"
            if isinstance(event, Packet):
                self.heard.append(event.payload)

    def say(self, line: bytes) -> None:
        """One line; what it was owes the one reply that it has."""
        if line.startswith(b"~"):
            self._whole = False
            self._hear(self.session.receive(line[1:]))
            return
        if line == b"^":
            self._hear(self.session.receive(b"\x03"))
            return
        whole, self._whole = self._whole, True
        word = b"monitor "
        payload = b"qRcmd," + line[len(word) :].hex().encode() if line.startswith(word) else line
        before, count = self.session.state, len(self.heard)
        self._hear(self.session.receive(frame(payload)))
        replies = [one for one in self.heard[count:] if not one.startswith(b"O") or one == b"OK"]
        goes = self.session.state is State.RUNNING and before is State.STOPPED
        if whole and before is not State.DISCONNECTED and not goes and not payload.startswith(_SILENT):
            assert len(replies) == 1, f"{len(replies)} replies to {payload!r}"

    def run(self) -> None:
        """The guest runs if it is to; one that stopped for a client that waits has told it."""
        self.target.run(_INSTRUCTIONS)
        assert self.session.state is not State.RUNNING or self.target.running


def run(data: bytes) -> str:
    """Talk, with the guest running in between."""
    conversation = Conversation()
    conversation.say(b"~+")
    for line in data.split(b"\n")[:MOST_LINES]:
        conversation.say(line)
        conversation.run()
    state = conversation.session.state.value
    conversation.session.disconnected()
    assert conversation.session.state is State.DISCONNECTED
    assert not (conversation.target.armed and conversation.target.alive), "breakpoints are left"
    return state


def plant() -> None:
    """Threads that there are not can be chosen."""

    def check_thread(self: Context, thread: int) -> int:
        return thread

    Context.check_thread = check_thread  # type: ignore[method-assign]


SESSIONS = (
    b"qSupported:xmlRegisters=i386;swbreak+;hwbreak+;error-message+;multiprocess+\nvCont?\nqXfer:features:read:target.xml:0,ffb\n?",
    b"QThreadSuffixSupported\nqXfer:features:read:target.xml:0,fff\nqXfer:threads:read::0,1000\nqfThreadInfo\nqsThreadInfo\nqC\nT1",
    b"Z0,100b,1;X3,220127X1,27\nvCont;c\n\n^\nz0,100b,1\nZ1,1006,1\nc\ng",
    b"Z0,1006,1;X6,220a22030527\nc\n^\nZ2,2000,1\nZ3,2000,4\nZ4,2001,2\nvCont;c:-1\nD",
    b"m1000,20\nx1000,20\nM2000,2:abcd\nX2000,2:ab\nqSearch:memory:1000;2000;\x88\x07",
    b"p0\nP0=1100000000000000\nG" + b"11" * 64 + b"\nHg2\nHc1\ns\nS05;1000\nC05\n^\nHg1\ng\nvCont;r1000,1010:1;s:2",
    b"monitor help\nmonitor info system\nmonitor msr 1d9 4\nmonitor translate 1000\nmonitor physical 1000 20\nmonitor reset",
    b"~$g#00$g#67-+\x03$m1000,4#2b\nQStartNoAckMode\nqRcmd,zz\nvMustReplyEmpty\n!\nR00\nvKill;1",
)
WORDS = (
    *(row.prefix for row in PACKETS),
    *(b"monitor " + command.words.encode() for command in COMMANDS),
    *(b"^\n", b";X3,220127", b";X6,262000110027", b";X1,28", b"%x,10" % DATA, b"target.xml:0,fff", b"0,4", b":-1", b"vCont;s:1;c"),
    *(b"\nHg2\n", b"\nHg3\n", b"\nHc9\ns\n", b"\ng\n"),  # threads that there are, and are not
)

TARGET = Target(run, SESSIONS, plant, lines=True, words=WORDS, short=3000)
