"""passt in front of programs that play it: what it is told, frames both ways, and what is said when there is none, or it ends."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trapgate.devices.virtio.net import MOST_WAITING, Net
from trapgate.passt import NetworkError, Passt

ECHO = """
import os, sys
socket = int(sys.argv[sys.argv.index("-F") + 1])
received = b""
while data := os.read(socket, 1 << 16):
    received += data
    while len(received) >= 4 and len(received) >= 4 + int.from_bytes(received[:4], "big"):
        length = 4 + int.from_bytes(received[:4], "big")
        frame, received = received[:length], received[length:]
        if frame[4:8] == b"DIES":
            print("No external routable interface", file=sys.stderr)
            print("Failed to send 3 bytes to syslog", file=sys.stderr)
            sys.exit(1)
        while frame:
            frame = frame[os.write(socket, frame[:7]):]
"""


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def play(program: str) -> None:
        path = tmp_path / "passt"
        path.write_text(f"#!{sys.executable}\n{program}")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return play


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_frames_go_there_and_come_back(play: Callable[[str], None]) -> None:
    play(ECHO)
    passt, got = Passt(), list[bytes]()
    net = Net(passt.port)
    net.feed = lambda frame: (got.append(frame), passt.port.done(len(frame)))[0]  # type: ignore[method-assign]
    passt.port.lead_to(net, lambda call: call())
    frames = [os.urandom(14 + 97 * at) for at in range(100)]
    for frame in frames:
        passt.port.output(frame)
    until(lambda: len(got) == len(frames))
    assert got == frames
    passt.close()
    passt.close()
    assert passt._process.poll() is not None


def test_what_nobody_takes_is_bounded_and_goes_on(play: Callable[[str], None]) -> None:
    play(ECHO)
    passt, posted = Passt(), list[Callable[[], None]]()
    net = Net(passt.port)
    passt.port.lead_to(net, posted.append)
    for _ in range(200):
        passt.port.output(bytes(65_000))
    time.sleep(0.3)
    assert passt.port.waiting() <= MOST_WAITING + 65_000
    before = len(posted)
    passt.port.done(passt.port.waiting())
    until(lambda: len(posted) > before)
    passt.close()


def test_its_end_is_a_link_that_is_down_and_one_line(play: Callable[[str], None]) -> None:
    play(ECHO)
    told = list[str]()
    passt = Passt(told.append)
    passt.port.output(b"DIES" + bytes(60))
    until(lambda: bool(told))
    assert not passt.port.up
    assert told == ["passt has ended, and the guest's network with it: No external routable interface"]
    passt.port.output(bytes(60))
    passt.close()


def test_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    before = os.listdir("/proc/self/fd")
    with pytest.raises(NetworkError, match="install the package passt"):
        Passt()
    (tmp_path / "passt").write_text("")
    with pytest.raises(NetworkError, match="cannot be started: Permission denied"):
        Passt()
    assert os.listdir("/proc/self/fd") == before


def test_it_ends_at_its_start(play: Callable[[str], None]) -> None:
    play("import sys; print('Failed to send 31 bytes to syslog', 'No routable interface', '', sep='\\n', file=sys.stderr)")
    with pytest.raises(NetworkError, match="passt has ended at its start: No routable interface"):
        Passt()
    play("pass")
    with pytest.raises(NetworkError, match="it does not say why"):
        Passt()
