"""Serial output in fewer pieces: whole, in order, soon, and nobody but its own thread waits for who takes it."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from trapgate.cli import gathering
from trapgate.cli.gathering import LIMIT, Gathered


class Reader:
    """A sink that takes nothing while it is held."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.free = threading.Event()
        self.free.set()

    def __call__(self, data: bytes) -> None:
        self.free.wait()
        self.pieces.append(data)

    @property
    def text(self) -> bytes:
        return b"".join(self.pieces)


@pytest.fixture
def reader() -> Iterator[Reader]:
    made = Reader()
    yield made
    made.free.set()


def send(output: Gathered, text: bytes) -> None:
    for byte in text:
        output.write(bytes([byte]))


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_lines_and_prompts_go_soon(reader: Reader) -> None:
    output = Gathered()
    output.lead_to(reader)
    for text in (b"one\r\n", b"login: ", b"Password: "):
        reader.pieces.clear()
        send(output, text)
        until(lambda text=text: reader.text == text)  # type: ignore[misc]
        assert len(reader.pieces) <= 3  # unless the host was so slow that parts were due already
    assert output.close()


def test_nothing_is_lost_or_out_of_order(reader: Reader) -> None:
    output = Gathered()
    output.lead_to(reader)
    text = b"".join(f"{n} ".encode() + b"\n" * (n % 7 == 0) for n in range(5000))
    send(output, text)
    assert output.close()
    assert output.close()
    assert reader.text == text
    assert len(reader.pieces) < len(text) // 10
    assert "serial output" not in threads()
    output.write(b"the last word")
    assert reader.text == text + b"the last word"


def test_who_writes_does_not_wait_for_the_reader(reader: Reader) -> None:
    """Past the limit it is said, and that there is room again when so much is taken; all arrives."""
    output, said = Gathered(), list[bool]()
    output.lead_to(reader, said.append)
    reader.free.clear()
    line, count = b"x" * 999 + b"\n", LIMIT // 1000 + 300
    begin = time.monotonic()
    for n in range(count):
        output.write(b"%04d" % n + line)
        assert len(said) <= 1
    assert time.monotonic() - begin < 5
    assert said == [True]
    reader.free.set()
    until(lambda: said == [True, False])
    assert output.close(lambda: False)
    assert reader.text == b"".join(b"%04d" % n + line for n in range(count))


def test_a_reader_that_comes_late_is_waited_for(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "PATIENCE", 0.05)
    output = Gathered()
    output.lead_to(reader)
    reader.free.clear()
    output.write(b"x")
    threading.Timer(0.4, reader.free.set).start()
    assert output.close(lambda: False)
    assert reader.text == b"x"


def test_a_sink_that_takes_nothing_does_not_hold_up_who_gives_up(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "PATIENCE", 0.05)
    output = Gathered()
    output.lead_to(reader)
    reader.free.clear()
    output.write(b"x")
    begin = time.monotonic()
    assert not output.close()
    assert time.monotonic() - begin < 2
    output.write(b"lost")
    reader.free.set()
    until(lambda: "serial output" not in threads())
    assert reader.text == b"x"


def test_who_drains_goes_on_when_all_is_taken(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "PATIENCE", 0.05)
    output = Gathered()
    output.lead_to(reader)
    for text in (b"one", b"two"):
        output.write(text)
        output.drain()
        assert reader.text.endswith(text)
    reader.free.clear()
    output.write(b"three")
    output.drain()  # nobody takes it: this ends all the same
    assert reader.text == b"onetwo"
    reader.free.set()
    output.drain()
    assert reader.text == b"onetwothree"
    output.close()


def test_a_sink_that_fails_says_so() -> None:
    failures: list[BaseException] = []

    def sink(data: bytes) -> None:
        raise OSError(5, "broken")

    output = Gathered()
    output.lead_to(sink, failed=failures.append)
    output.write(b"x")
    until(lambda: len(failures) == 1)
    assert not output.close(lambda: False)
