"""Serial output in fewer pieces: whole, in order, soon, and no hindrance at the end."""

import threading
import time
from collections.abc import Callable

import pytest

from trapgate.cli import gathering
from trapgate.cli.gathering import Gathered


def gathered() -> tuple[Gathered, list[bytes]]:
    output, pieces = Gathered(), list[bytes]()
    output.lead_to(pieces.append)
    return output, pieces


def send(output: Gathered, text: bytes) -> None:
    for byte in text:
        output.write(bytes([byte]))


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_line_goes_at_once() -> None:
    output, pieces = gathered()
    send(output, b"one\r\n")
    assert b"".join(pieces) == b"one\r\n"
    assert len(pieces) <= 3  # unless the host was so slow that parts were due already
    output.close()


def test_a_prompt_goes_soon() -> None:
    output, pieces = gathered()
    for prompt in (b"login: ", b"Password: "):
        pieces.clear()
        send(output, prompt)
        until(lambda prompt=prompt: b"".join(pieces) == prompt)  # type: ignore[misc]
    output.close()


def test_nothing_is_lost_or_out_of_order() -> None:
    output, pieces = gathered()
    text = b"".join(f"{n} ".encode() + b"\n" * (n % 7 == 0) for n in range(5000))
    send(output, text)
    output.close()
    assert b"".join(pieces) == text
    assert len(pieces) < len(text) // 10


def test_what_waits_goes_when_asked_and_at_the_end() -> None:
    output, pieces = gathered()
    send(output, b"ab")
    output.flush()
    assert b"".join(pieces) == b"ab"
    send(output, b"cd")
    output.close()
    assert b"".join(pieces) == b"abcd"
    assert "serial output" not in [thread.name for thread in threading.enumerate()]


def test_a_sink_that_takes_nothing_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "PATIENCE", 0.05)
    held, free, output = threading.Event(), threading.Event(), Gathered()

    def sink(data: bytes) -> None:
        held.set()
        free.wait()

    output.lead_to(sink)
    output.write(b"x")
    assert held.wait(5)
    begin = time.monotonic()
    output.close()
    assert time.monotonic() - begin < 2
    free.set()
    output._thread.join()
