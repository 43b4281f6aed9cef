"""A client whose bytes the machine's thread reads itself: in order, only while it waits, and it is never left alone."""

import queue
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from trapgate.gdb import server as module
from trapgate.gdb.address import TcpAddress
from trapgate.gdb.framing import frame
from trapgate.gdb.server import Server

FIRST = frame(b"?")  # what makes one who has connected a debugger


class Machine:
    """Stands in for the machine's thread, which is the test's; `got` is what came, `posts` how often it was woken."""

    def __init__(self) -> None:
        self.inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.got: list[bytes] = []
        self.posts = 0
        self.server = Server(TcpAddress("127.0.0.1", 0), self, self.post, lends=True)
        assert isinstance(self.server.address, TcpAddress)
        self.client = socket.create_connection((self.server.address.host, self.server.address.port), timeout=10)

    def post(self, call: Callable[[], None]) -> None:
        self.posts += 1
        self.inbox.put(call)
        if hasattr(self, "server"):
            self.server.nudge()

    def turn(self) -> None:
        """What `DebugHost.run` does while the guest stands."""
        if self.inbox.empty():
            self.server.wait(self.inbox.empty)
        else:
            self.inbox.get()()

    def until(self, count: int) -> None:
        while len(self.got) < count:
            self.turn()

    def connected(self) -> None:
        pass

    def received(self, data: bytes) -> None:
        self.got.append(data)

    def disconnected(self) -> None:
        self.got.append(b"(gone)")


@pytest.fixture
def machine() -> Iterator[Machine]:
    one = Machine()
    yield one
    one.client.close()
    one.server.close()


def lent(machine: Machine) -> None:
    """The client has asked twice, and is lent: whoever has just come is not."""
    for data in (FIRST, b"1"):
        machine.client.sendall(data)
        machine.until(len(machine.got) + 1)
    machine.got.remove(FIRST)


def test_what_comes_while_it_waits_goes_through_no_other_thread(machine: Machine) -> None:
    lent(machine)
    before = machine.posts
    for n in range(50):
        machine.client.sendall(b"%d" % n)
        machine.until(n + 2)
    assert machine.got == [b"1", *(b"%d" % n for n in range(50))]
    assert machine.posts == before


def test_a_wake_that_the_host_refuses_is_made_up_for(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    lent(machine)
    monkeypatch.setattr(machine.server, "nudge", lambda: None)
    late = threading.Timer(0.2, machine.post, (lambda: machine.received(b"posted"),))
    late.start()
    machine.until(2)
    late.join()
    assert machine.got == [b"1", b"posted"]


def test_what_was_posted_comes_first(machine: Machine) -> None:
    lent(machine)
    machine.client.sendall(b"2")
    machine.post(lambda: machine.got.append(b"posted"))
    machine.until(3)
    assert machine.got == [b"1", b"posted", b"2"]


@pytest.mark.parametrize("by", ["take_back", "nobody"])
def test_while_it_runs_the_guest_the_server_listens(machine: Machine, by: str) -> None:
    """Given back, or not: of a thread that does not come to wait a client is taken back."""
    lent(machine)
    if by == "take_back":
        machine.server.take_back()
    machine.client.sendall(b"2")
    machine.inbox.get(timeout=60)()
    assert machine.got == [b"1", b"2"]
    machine.client.sendall(b"3")  # and is lent again
    machine.until(3)


def test_bytes_read_on_both_sides_stay_in_order(machine: Machine) -> None:
    lent(machine)
    machine.got.clear()
    for n in range(200):
        machine.client.sendall(b"%03d" % n)
        if n % 3 == 0:
            machine.server.take_back()
        if n % 2:
            machine.turn()
    while len(b"".join(machine.got)) < 600:
        machine.turn()
    assert b"".join(machine.got) == b"".join(b"%03d" % n for n in range(200))


def test_one_that_leaves_while_it_is_lent(machine: Machine) -> None:
    lent(machine)
    machine.client.sendall(b"2")
    machine.client.close()
    machine.until(3)
    assert machine.got == [b"1", b"2", b"(gone)"]


def test_who_comes_when_a_lent_one_has_just_left_has_its_place(machine: Machine) -> None:
    """The machine's thread, whose client it was, has not seen that yet."""
    lent(machine)
    machine.client.close()
    assert isinstance(machine.server.address, TcpAddress)
    with socket.create_connection((machine.server.address.host, machine.server.address.port), timeout=10) as second:
        second.sendall(FIRST)
        machine.inbox.get(timeout=10)()  # it is gone: nobody but the server's thread can have told
        machine.until(3)
    assert machine.got == [b"1", b"(gone)", FIRST]


def test_one_that_reads_no_answers_is_not_asked_for_more(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ENOUGH_QUEUED", 1)
    lent(machine)
    answer = bytes(8 << 20)
    machine.server.send(answer)
    machine.client.sendall(b"2")
    machine.post(lambda: None)
    machine.turn()
    assert machine.got == [b"1"]
    seen = 0
    while seen < len(answer):
        seen += len(machine.client.recv(1 << 20))
    machine.until(2)
