"""Golden transcripts: what a client sends (`>`) and what the stub answers (`<`), packet by packet, over the pretend guest.

`!` lets the guest run until it stops, `^` is an interrupt, `&` gives it names, `%` has it recorded;
`@` begins a session with a guest of this architecture. Frames, acknowledgements and run lengths are left out here.
"""

from pathlib import Path

import pytest

from gdb.pretend import PretendTarget
from trapgate.gdb.architecture import Architecture
from trapgate.gdb.framing import Packet, Reader, frame
from trapgate.gdb.session import Session
from trapgate.gdb.target import Names

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


def said(data: bytes) -> list[str]:
    """Payloads as text; bytes that are not printable as \\xNN, long ones cut."""
    texts = []
    for event in Reader(runs=True).feed(data):
        if isinstance(event, Packet):
            text = event.payload.decode("latin-1").encode("unicode_escape").decode()
            texts.append(text if len(text) <= 200 else f"{text[:100]}... {len(text)}")
    return texts


def play(script: str) -> str:
    """The transcript as it really goes: the same `>`, `!`, `^` and `#` lines, with the answers of today."""
    target = PretendTarget(cpus=2)
    session = Session(target)
    sent: list[bytes] = []
    target.on_stop = lambda stop: sent.append(session.stopped(stop))
    lines = []
    for line in script.splitlines():
        if line.startswith("<"):
            continue
        lines.append(line)
        if line.startswith("> "):
            sent.append(session.receive(frame(line[2:].encode().decode("unicode_escape").encode("latin-1"))))
        elif line == ">":
            sent.append(session.receive(frame(b"")))
        elif line.startswith("@ "):
            target.described_as = Architecture(line[2:])
            session = Session(target)
        elif line == "&":
            target.named = Names(lambda: b"\x7fELF made of it", ("a kernel of four words",))
        elif line == "%":
            target.recorded = True
        elif line == "!":
            target.run(100_000)
        elif line == "^":
            sent.append(session.receive(b"\x03"))
        lines += [f"< {text}".rstrip() for text in said(b"".join(sent))]
        sent.clear()
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    assert play(path.read_text()) == path.read_text()


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 6
