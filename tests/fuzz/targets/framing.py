"""Frames of gdb's protocol: bytes in pieces of any size, of requests and of replies."""

from fuzz.target import Target
from trapgate.gdb import framing
from trapgate.gdb.framing import Junk, Packet, Reader, Refused

_LIMIT = 64  # bytes of a frame: short ones meet it, too


def _together(events: list[framing.Event]) -> list[framing.Event]:
    """Junk that comes in several pieces is one piece of junk."""
    out: list[framing.Event] = []
    for event in events:
        if isinstance(event, Junk) and out and isinstance(out[-1], Junk):
            out[-1] = Junk(out[-1].data + event.data)
        else:
            out.append(event)
    return out


def run(data: bytes) -> str:
    """The first byte chooses the pieces; all at once or a piece at a time, the events are the same."""
    piece, runs = (data[0] & 0x3F) + 1 if data else 1, bool(data and data[0] & 0x40)
    data = data[1:]
    whole = _together(Reader(runs=runs, limit=_LIMIT).feed(data))
    reader, parts = Reader(runs=runs, limit=_LIMIT), list[framing.Event]()
    for at in range(0, len(data), piece):
        parts += reader.feed(data[at : at + piece])
        assert len(reader._data) <= _LIMIT + piece, "it holds more than a frame"
    assert _together(parts) == whole, f"{parts} in pieces of {piece}, {whole} at once"
    for event in whole:
        if isinstance(event, Packet):
            (again,) = Reader(limit=1 << 20).feed(framing.frame(event.payload))
            assert again == event
    return " ".join(sorted({event.reason if isinstance(event, Refused) else type(event).__name__ for event in whole}))


def plant() -> None:
    """An escape at the end of a packet is forgotten."""
    framing.unescape = lambda raw: bytes([raw[raw.index(b"}") + 1] ^ 0x20]) if b"}" in raw else raw


_FRAMES = b"".join(framing.frame(payload) for payload in (b"g", b"m1000,4", b"X2000,3:}#$", b"qSupported:xmlRegisters=i386"))

TARGET = Target(
    run,
    [b"\x3f" + _FRAMES, b"\0+-\x03" + _FRAMES, b"\x44$0* #" + b"3a", b"\x05$" + b"a" * 80 + b"#00$g#67", b"\x01$a}#de"],
    plant,
    words=(b"$?#3f", b"$}#7d", b"#00", b"$", b"*~"),
)
