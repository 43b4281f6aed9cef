"""Each table, queue and work of the stub has a bound that is looked at before it grows; what goes beyond is refused in words."""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from engine import TestEngine
from gdb.pretend import CODE, DATA, PretendMachine, PretendTarget
from gdb.pretend_vcpu import PretendVcpu
from trapgate.debug.breakpoints import MAX_HARDWARE, MAX_LENGTH, MAX_SOFTWARE
from trapgate.gdb import agent, answer_data, server
from trapgate.gdb.adapter import MachineTarget
from trapgate.gdb.address import TcpAddress
from trapgate.gdb.answer_data import MOST_CONDITION_BYTES, MOST_CONDITIONS, MOST_SEARCHED
from trapgate.gdb.client import Client, ClientError
from trapgate.gdb.context import State
from trapgate.gdb.framing import PACKET_SIZE, Packet, Reader, frame
from trapgate.gdb.session import MOST_ANSWERED, Session
from trapgate.gdb.target import Stopped, Why
from trapgate.machine import Machine, MachineConfig

YES, NO = bytes.fromhex("220127"), bytes.fromhex("220027")
FOR_EVER = bytes.fromhex("210000")  # goto 0
READS = b"\x23" + DATA.to_bytes(2, "big") + bytes.fromhex("1729210000")  # reads a byte, forgets it, and again


def reply(session: Session, payload: bytes) -> bytes:
    events = [event for event in Reader().feed(session.receive(frame(payload))) if isinstance(event, Packet)]
    return events[-1].payload


@pytest.fixture
def session() -> Session:
    session = Session(PretendTarget())
    assert reply(session, b"qSupported:error-message+;swbreak+;hwbreak+")
    return session


@pytest.fixture
def real() -> Iterator[Session]:
    """A session with a real machine's breakpoint table."""
    machine = Machine(MachineConfig(memory=1 << 20), TestEngine(PretendVcpu))
    session = Session(MachineTarget(machine, going=False))
    assert reply(session, b"qSupported:error-message+;swbreak+;hwbreak+")
    yield session
    machine.close()


def z(address: int, *conditions: bytes, kind: int = 0) -> bytes:
    return b"Z%d,%x,1" % (kind, address) + b"".join(b";X%x,%b" % (len(code), code.hex().encode()) for code in conditions)


@pytest.mark.parametrize(("kind", "most", "word"), [(0, MAX_SOFTWARE, b"software"), (1, MAX_HARDWARE, b"hardware")])
def test_breakpoints(real: Session, kind: int, most: int, word: bytes) -> None:
    assert {reply(real, z(4 * number, kind=kind)) for number in range(most)} == {b"OK"}
    assert reply(real, z(4 * most, kind=kind)).startswith(b"E.%d %b breakpoints are " % (most, word))
    assert reply(real, z(0, kind=kind)) == b"OK"
    assert reply(real, b"z%d,0,1" % kind) == b"OK"
    assert reply(real, z(4 * most, kind=kind)) == b"OK"


def test_bytes_of_a_watchpoint(real: Session) -> None:
    assert reply(real, b"Z2,1000,%x" % MAX_LENGTH) == b"OK"
    assert reply(real, b"Z2,1000,%x" % (MAX_LENGTH + 1)) == b"E.a watchpoint covers 1 to 65536 bytes, not 65537"


def test_conditions_of_a_breakpoint(session: Session) -> None:
    assert reply(session, z(CODE, *[YES] * MOST_CONDITIONS)) == b"OK"
    assert reply(session, z(CODE, *[YES] * (MOST_CONDITIONS + 1))) == b"E.a breakpoint has 64 conditions at most"


def test_bytes_of_a_condition(session: Session) -> None:
    assert reply(session, z(CODE, YES.rjust(agent.LONGEST, b"\x29"))) == b"OK"
    assert reply(session, z(CODE, bytes(agent.LONGEST + 1))) == b"E.a condition has 1 to 4096 bytes, not 4097"
    assert reply(session, b"Z0,1000,1;Xffffffff,00").startswith(b"E.a condition has 1 to 4096 bytes")


def test_bytes_of_all_conditions(session: Session) -> None:
    each = [bytes(agent.LONGEST)] * 15  # what one packet holds
    most = MOST_CONDITION_BYTES // (15 * agent.LONGEST)
    for number in range(most):
        assert reply(session, z(CODE + number, *each)) == b"OK"
    refused = reply(session, z(CODE + most, *each))
    assert refused == b"E.the conditions of all breakpoints take more than 1048576 bytes; remove some"
    assert (CODE + most) not in [address for _, address, _ in session._context.target.breakpoints()]
    assert reply(session, z(CODE, *each)) == b"OK", "the same again takes no more room"
    assert reply(session, b"z0,%x,1" % CODE) == b"OK"
    assert reply(session, z(CODE + most, *each)) == b"OK"


@pytest.mark.parametrize("code", [FOR_EVER, READS])
def test_steps_of_the_conditions_at_a_stop(session: Session, code: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """All conditions of a breakpoint together; then the guest stops, and the user reads why."""
    reads: list[int] = []
    target = session._context.target
    read = target.read_memory
    monkeypatch.setattr(target, "read_memory", lambda *words: (reads.append(1), read(*words))[1])
    target.set_register(1, "rip", CODE)
    assert reply(session, z(CODE, NO, *[code] * (MOST_CONDITIONS - 1))) == b"OK"
    session.receive(frame(b"c"))
    out = session.stopped(Stopped(1, why=Why.SOFTWARE))
    said = [event.payload for event in Reader().feed(out) if isinstance(event, Packet)]
    assert b"does not end within 10000 steps" in bytes.fromhex(said[0][1:].decode())
    assert said[1].startswith(b"T05")
    assert len(reads) <= agent.MOST_STEPS


def test_bytes_of_a_search(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest's page tables may map one page all over the address space."""
    looked: list[int] = []

    def read(thread: int, address: int, length: int) -> bytes:
        looked.append(length)
        return bytes(length)

    monkeypatch.setattr(session._context.target, "read_memory", read)
    monkeypatch.setattr(answer_data, "MOST_SEARCHED", 8 << 20)
    refused = reply(session, b"qSearch:memory:1000;ffffffffffff;x")
    assert refused == b"E.nothing found up to 0x801000, and that is enough for one search: go on from there"
    assert sum(looked) <= (8 << 20) + 1
    assert reply(session, b"qSearch:memory:1000;800000;x") == b"0"
    assert MOST_SEARCHED == 1 << 30


@pytest.mark.parametrize("word", [frame(b"x1000,2000"), b"-+", b"-+x", b"-" + frame(b"qC")])
def test_answers_to_one_piece(word: bytes) -> None:
    """So few bytes ask for so many: either they get little, or the session ends before there is too much."""
    target = PretendTarget()
    session = Session(target)
    target.pages = {address: bytearray(os.urandom(4096)) for address in range(0, 0x20000, 4096)}
    assert len(session.receive(frame(b"x0,fffe"))) > 65536
    for _ in range(8):
        answers = session.receive(word * (2048 // len(word)))
        assert len(answers) <= MOST_ANSWERED + 2 * PACKET_SIZE
    target.pages.clear()


def test_a_session_that_asks_for_too_much_ends_with_a_detach() -> None:
    target = PretendTarget()
    session = Session(target)
    target.pages = {address: bytearray(4096) for address in range(0, 0x20000, 4096)}
    answers = session.receive(frame(b"x0,fffe") * 300)
    assert MOST_ANSWERED < len(answers) <= MOST_ANSWERED + 2 * PACKET_SIZE
    assert session.state is State.DISCONNECTED
    assert target.log == ["attach", "detach"]


def test_answers_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is full: the client is hung up on, the user told, and the queue has never been longer."""
    monkeypatch.setattr(server, "MOST_QUEUED", 300_000)
    with PretendMachine(waiting=True) as machine:
        machine.target.pages |= {address: bytearray(os.urandom(4096)) for address in range(0x4000, 0x24000, 4096)}
        longest: list[int] = []
        send = machine.stub._server.send

        def watched(data: bytes) -> None:
            send(data)
            longest.append(machine.stub._server._queued)

        monkeypatch.setattr(machine.stub._server, "send", watched)
        assert isinstance(machine.stub.address, TcpAddress)
        with socket.create_connection((machine.stub.address.host, machine.stub.address.port)) as client:
            with contextlib.suppress(ConnectionError):  # it may be hung up on amid this
                client.sendall(frame(b"?") + frame(b"x4000,fffe") * 100)
            machine.settle("detach")
            until(lambda: bool(machine.told))
        assert max(longest) <= 300_000
        assert machine.told[0].endswith("does not read what it is sent; its connection is closed")
        with Client(machine.stub.address) as again:
            assert again.ask(b"qC") == b"QC1"


def test_what_a_monitor_command_takes() -> None:
    with PretendMachine() as machine, Client(machine.stub.address) as client:
        assert client.monitor("physical 0 1001") == "at most 1000 bytes at once\n"
        assert "is no hexadecimal number" in client.monitor("physical " + "f" * 50_000)
        assert len(client.monitor("x" * 50_000)) < 200
        with pytest.raises(ClientError, match="bad hex data"):
            client.ask(b"qRcmd,0")


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
