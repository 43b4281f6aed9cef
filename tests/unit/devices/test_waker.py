"""Mailbox, deadline thread and input thread."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trapgate.clock import HostClock
from trapgate.devices.waker import CHUNK, DeadlineThread, InputThread, Mailbox

MS = 1_000_000


class Bell:
    """Counts rings; `wait` for a number of them."""

    def __init__(self) -> None:
        self.rings = threading.Semaphore(0)

    def __call__(self) -> None:
        self.rings.release()

    def wait(self, seconds: float = 5) -> bool:
        return self.rings.acquire(timeout=seconds)


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def deadlines(bell: Bell) -> Iterator[tuple[HostClock, DeadlineThread]]:
    clock = HostClock()
    thread = DeadlineThread(clock, bell)
    yield clock, thread
    thread.close()


def test_fires_after_the_deadline_and_once(deadlines: tuple[HostClock, DeadlineThread], bell: Bell) -> None:
    clock, thread = deadlines
    for _ in range(3):
        moment = clock.now() + 5 * MS
        thread.arm(moment)
        assert bell.wait()
        assert clock.now() >= moment
    assert not bell.wait(0.03)


def test_an_earlier_deadline_overtakes_and_a_later_one_delays(deadlines: tuple[HostClock, DeadlineThread], bell: Bell) -> None:
    clock, thread = deadlines
    thread.arm(clock.now() + 10_000 * MS)
    time.sleep(0.01)
    thread.arm(clock.now() + 5 * MS)
    assert bell.wait()
    thread.arm(clock.now() + 10 * MS)
    later = clock.now() + 50 * MS
    thread.arm(later)
    assert bell.wait()
    assert clock.now() >= later


def test_disarmed_is_silent_and_past_is_now(deadlines: tuple[HostClock, DeadlineThread], bell: Bell) -> None:
    clock, thread = deadlines
    thread.arm(clock.now() + 10 * MS)
    thread.arm(None)
    assert not bell.wait(0.05)
    thread.arm(clock.now() - MS)
    assert bell.wait()


def test_closing_without_ever_arming() -> None:
    DeadlineThread(HostClock(), lambda: None).close()


class TestMailbox:
    """Order, waking, waiting."""

    def test_first_in_first_out_and_kicks(self, bell: Bell) -> None:
        mailbox, seen = Mailbox(), list[int]()
        mailbox.kick = bell
        for number in range(3):
            mailbox.post(lambda number=number: seen.append(number))  # type: ignore[misc]
        assert mailbox
        while (call := mailbox.take()) is not None:
            call()
        assert seen == [0, 1, 2]
        assert not mailbox
        assert all(bell.wait(0) for _ in range(3))

    def test_wait_ends_with_a_post_or_with_time(self) -> None:
        mailbox = Mailbox()
        start = time.monotonic()
        mailbox.wait(0.02)
        assert time.monotonic() - start >= 0.02
        threading.Timer(0.02, mailbox.post, [lambda: None]).start()
        mailbox.wait(10)
        assert mailbox.take() is not None
        assert time.monotonic() - start < 5

    def test_a_post_before_the_wait_is_not_missed(self) -> None:
        mailbox = Mailbox()
        mailbox.post(lambda: None)
        start = time.monotonic()
        mailbox.wait(10)
        assert time.monotonic() - start < 5


def collect(mailbox: Mailbox, got: list[bytes], until: int) -> None:
    """Run posted calls until so many bytes, or the end, have come."""
    limit = time.monotonic() + 5
    while sum(map(len, got)) < until or (until == 0 and (not got or got[-1])):
        assert time.monotonic() < limit
        mailbox.wait(0.1)
        while (call := mailbox.take()) is not None:
            call()


def test_a_pipe_and_its_end() -> None:
    mailbox, got = Mailbox(), list[bytes]()
    reader, writer = os.pipe()
    thread = InputThread(reader, mailbox, got.append, lambda: True)
    os.write(writer, b"abc")
    collect(mailbox, got, 3)
    os.write(writer, b"def")
    os.close(writer)
    collect(mailbox, got, 0)
    thread.close()
    os.close(reader)
    assert b"".join(got) == b"abcdef"


def test_a_plain_file(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(bytes(range(256)) * 64)
    mailbox, got = Mailbox(), list[bytes]()
    with path.open("rb") as file:
        thread = InputThread(file.fileno(), mailbox, got.append, lambda: True)
        collect(mailbox, got, 0)
        thread.close()
    assert b"".join(got) == path.read_bytes()


def test_no_more_is_read_than_there_is_room_for(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"x" * 10 * CHUNK)
    mailbox, got = Mailbox(), list[bytes]()
    posted = 0

    def room() -> bool:
        nonlocal posted
        posted += 1
        return posted <= 2

    with path.open("rb") as file:
        thread = InputThread(file.fileno(), mailbox, got.append, room)
        time.sleep(0.15)
        thread.close()
    while (call := mailbox.take()) is not None:
        call()
    assert sum(map(len, got)) == 2 * CHUNK


def test_closing_while_waiting_for_input() -> None:
    reader, writer = os.pipe()
    thread = InputThread(reader, Mailbox(), lambda data: None, lambda: True)
    start = time.monotonic()
    thread.close()
    assert time.monotonic() - start < 5
    os.close(reader)
    os.close(writer)
