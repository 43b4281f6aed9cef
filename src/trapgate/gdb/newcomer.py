"""Tells whether one who has connected is a debugger: a pure function of what it sends."""

from enum import Enum

from trapgate.gdb.framing import Damaged, Junk, Packet, Refused, frame, parse


class Verdict(Enum):
    """UNKNOWN: nothing has been said yet, and nothing is to be done for it. OTHER: no debugger; perhaps a browser or a scan."""

    UNKNOWN = "unknown"
    DEBUGGER = "debugger"
    OTHER = "other"


class Newcomer:
    """A client until its first valid packet: that makes it a debugger. Silence costs nobody anything, for as long as it likes."""

    def __init__(self) -> None:
        self.data = bytearray()
        """What it has sent, from the first thing on that is not dealt with: a debugger's first packet and what follows."""
        self.answer = b""
        """What it is to be sent."""

    def receive(self, data: bytes) -> Verdict:
        """What it is, by these bytes and those before. Holds one unfinished packet at the most."""
        self.data += data
        while self.data:
            event, used = parse(self.data)
            if isinstance(event, Packet):
                return Verdict.DEBUGGER
            if isinstance(event, Junk | Refused):
                return Verdict.OTHER
            if event is None:
                break
            del self.data[:used]
            if isinstance(event, Damaged):
                self.answer = b"-"
        return Verdict.UNKNOWN


def refusal(text: str) -> bytes:
    """What a debugger is told that comes too late, in answer to its first packet: gdb shows it as the reason."""
    return b"+" + frame(b"E." + text.encode("ascii", "replace"))
