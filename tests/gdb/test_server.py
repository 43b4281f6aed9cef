"""Sockets: clients that come, go, die, dawdle or are one too many; and our own client against the stub."""

import contextlib
import os
import socket
import stat
import threading
import time
from pathlib import Path

import pytest

from gdb.pretend import CODE, DATA, INC_AT, JUMP_AT, PretendMachine
from trapgate.gdb import door
from trapgate.gdb.address import Address, AddressError, StdioAddress, TcpAddress, UnixAddress, is_exposed, parse_address
from trapgate.gdb.client import Client, ClientError
from trapgate.gdb.door import MOST_WAITING
from trapgate.gdb.framing import frame
from trapgate.gdb.target import SIGINT, BreakKind, Exited, Stopped, Why


def raw(machine: PretendMachine) -> socket.socket:
    """A bare connection to a machine's stub."""
    address = machine.stub.address
    assert isinstance(address, TcpAddress)
    return socket.create_connection((address.host, address.port), timeout=10)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":1234", TcpAddress("127.0.0.1", 1234)),
        ("0.0.0.0:1", TcpAddress("0.0.0.0", 1)),
        ("[::1]:99", TcpAddress("::1", 99)),
        ("unix:/tmp/x", UnixAddress("/tmp/x")),
        ("stdio", StdioAddress()),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "1234", ":", ":x", ":65536", ":-1", "::1:5", "unix:", "unix:" + "a" * 101, ":\uff11"])
def test_bad_addresses(text: str) -> None:
    with pytest.raises(AddressError) as error:
        parse_address(text)
    assert "\n" not in str(error.value)


def test_port_in_use_is_one_clear_line() -> None:
    with PretendMachine() as machine, pytest.raises(AddressError, match="in use") as error:
        PretendMachine(machine.stub.address)
    assert "\n" not in str(error.value)


def test_our_client_does_it_all() -> None:
    with PretendMachine() as machine, Client(machine.stub.address) as client:
        assert client.registers()["cs"] == 8
        client.set_register("rip", CODE)
        client.set_register("rax", 0)
        assert client.step() == Stopped(1)
        assert client.register("rip") == CODE + 1
        client.insert(BreakKind.SOFTWARE, INC_AT)
        assert client.go() == Stopped(1, why=Why.SOFTWARE)
        assert client.register("rip") == INC_AT
        client.remove(BreakKind.SOFTWARE, INC_AT)
        client.insert(BreakKind.READ, DATA, 4)
        assert client.go() == Stopped(1, why=Why.READ, address=DATA)
        client.remove(BreakKind.READ, DATA, 4)
        client.write_memory(DATA + 16, bytes(range(256)))
        assert client.read_memory(DATA + 16, 256) == bytes(range(256))
        assert len(client.read_memory(CODE, 0x10000)) == 0x2000
        with pytest.raises(ClientError, match="0x9000 is not mapped: its PDE at 0x7000"):
            client.read_memory(0x9000, 4)
        client.set_register("rip", CODE)
        assert client.go(f"r{CODE:x},{JUMP_AT:x}") == Stopped(1)
        assert client.register("rip") == JUMP_AT
        client.resume()
        client.interrupt()
        assert client.wait() == Stopped(1, SIGINT)
        assert "guest-physical 0x2000" in client.monitor(f"translate {DATA:x}")
        with pytest.raises(ClientError, match="refuses"):
            client.set_register("cr0", 0)
        client.detach()
        machine.settle("detach")


def test_exit_status_is_told_before_the_connection_closes() -> None:
    with PretendMachine(program=b"\xf4", waiting=True) as machine, Client(machine.stub.address) as client:
        client.set_register("rax", 7)
        assert client.go() == Exited(7)
        with pytest.raises(ClientError, match="the stub"):
            client.ask(b"qC")
        assert machine.join()


def test_kill_without_waiting_is_a_kill() -> None:
    with PretendMachine() as machine:
        with raw(machine) as client:
            client.sendall(frame(b"k"))
        assert machine.join()
        assert machine.target.log[-1] == "kill"


def test_a_client_that_dies_in_a_packet_leaves_a_running_guest_without_breakpoints() -> None:
    with PretendMachine() as machine:
        with raw(machine) as client:
            client.sendall(frame(b"Z0,100b,1") + frame(b"c"))
            assert b"OK" in client.recv(100)
            client.sendall(b"$m1000,")
        machine.settle("detach")
        assert machine.target.armed == []
        assert machine.target.running
        with Client(machine.stub.address) as again:
            assert again.step() == Stopped(1)


KNOCKS = [
    b"",
    b"GET / HTTP/1.1\r\n\r\n",
    b"+GET /",
    b"+",
    b"-",
    b"\x03",
    b"$k#00",
    b"$k",
    b"$D#4",
    b"$}#7d",
    b"\x16\x03\x01\0$k#6b",
]


@pytest.mark.parametrize("waiting", [True, False])
def test_who_knocks_without_a_valid_packet_leaves_the_guest_as_it_is(waiting: bool) -> None:
    with PretendMachine(waiting=waiting) as machine:
        for data in KNOCKS:
            with raw(machine) as client:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):
                    while client.recv(100):
                        pass
        seen: list[object] = []
        machine.call(lambda: seen.extend((machine.target.running, machine.stub.attached, *machine.target.log)))
        assert seen == [not waiting, False]
        with Client(machine.stub.address) as client:
            assert client.step() == Stopped(1)
            assert machine.target.log == ["attach", "resume"]


@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\n\r\n", b"+POST", b"\x03x"])
def test_who_speaks_another_language_is_hung_up_on(words: bytes) -> None:
    with PretendMachine() as machine, raw(machine) as client:
        client.sendall(words)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(10) == b""


def test_a_second_client_is_told_and_the_first_stays() -> None:
    with PretendMachine() as machine, Client(machine.stub.address) as first:
        for _ in range(3):
            with pytest.raises(ClientError, match=r"a debugger at 127.0.0.1:\d+ is connected to this guest already"):
                Client(machine.stub.address)
        assert first.ask(b"qC") == b"QC1"
        assert len(machine.told) == 1, "more than one line a second"
        assert machine.told[0].endswith("is connected; one at a time")


def test_who_is_sent_away_reads_why_whatever_it_was_still_sending() -> None:
    with PretendMachine() as machine, Client(machine.stub.address), raw(machine) as second:
        second.sendall(frame(b"qSupported") + frame(b"m0,1") * 200)
        heard = b""
        while piece := second.recv(4096):
            heard += piece
        assert b"already" in heard


def test_who_is_sent_away_is_hung_up_on_even_when_it_goes_on_sending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "_LEAVE", 0.2)
    with PretendMachine() as machine, Client(machine.stub.address), raw(machine) as second:
        end = time.monotonic() + 10
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < end:
                second.sendall(frame(b"?"))
        assert time.monotonic() < end


def test_silent_clients_keep_nobody_out_and_are_let_in_when_they_speak() -> None:
    with PretendMachine(waiting=True) as machine, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(raw(machine)) for _ in range(MOST_WAITING - 1)]
        silent[0].sendall(b"+")
        silent[1].sendall(b"$qC")
        with Client(machine.stub.address) as client:
            assert client.ask(b"qC") == b"QC1"
            client.detach()
        machine.settle("detach")
        silent[1].sendall(b"#b4")
        assert silent[1].recv(100) == b"+$QC1#c5"


def test_more_silent_clients_than_there_is_room_for_push_the_oldest_out() -> None:
    with PretendMachine(waiting=True) as machine, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(raw(machine)) for _ in range(3 * MOST_WAITING)]
        assert silent[0].recv(10) == b""
        assert len(machine.stub._server._door._visitors) <= MOST_WAITING  # type: ignore[union-attr]
        silent[-1].sendall(frame(b"qC"))
        assert silent[-1].recv(100) == b"+$QC1#c5"


def test_two_descriptors_for_one_debugger() -> None:
    ours_in, theirs_out = os.pipe()
    theirs_in, ours_out = os.pipe()
    with PretendMachine(StdioAddress(ours_in, ours_out), waiting=True) as machine:
        os.write(theirs_out, frame(b"qC") + frame(b"x1000,400"))
        heard = b""
        while heard.count(b"#") < 2:
            heard += os.read(theirs_in, 4096)
        assert heard.startswith(b"+$QC1#c5+$b")
        os.close(theirs_out)
        assert machine.join()
        assert machine.target.log == ["attach", "detach", "kill"]
    assert os.read(theirs_in, 10) == b""
    os.close(theirs_in)


def test_clients_one_after_another() -> None:
    with PretendMachine() as machine:
        for _ in range(10):
            with Client(machine.stub.address) as client:
                client.step()
                client.detach()
            machine.settle("detach")
            machine.target.log.clear()


def test_a_slow_reader_is_dropped_and_the_guest_goes_on() -> None:
    with PretendMachine(patience=0.5) as machine:
        machine.target.pages[DATA][:] = os.urandom(4096)  # does not shrink
        client = raw(machine)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stop = threading.Event()

        def flood() -> None:
            with contextlib.suppress(OSError):
                while not stop.is_set():
                    client.sendall(10 * frame(b"m1000,2000"))

        writer = threading.Thread(target=flood)
        writer.start()
        machine.settle("detach")
        writer.join(10)
        stop.set()
        client.close()
        assert not writer.is_alive()
        with Client(machine.stub.address) as again:
            assert again.ask(b"qC") == b"QC1"


def test_flooding_waits_for_the_machine() -> None:
    """What the machine's thread has not taken stays in the client's own buffers."""
    with PretendMachine() as machine, raw(machine) as client:
        blocked = threading.Event()
        machine._inbox.put(lambda: (blocked.wait(10), None)[1])
        client.setblocking(False)
        sent = 0
        for _ in range(100):
            try:
                sent += client.send(b"+" * 65536)
            except BlockingIOError:
                threading.Event().wait(0.002)
        assert machine._inbox.qsize() <= 5
        blocked.set()


def test_unix_socket_is_ours_alone(tmp_path: Path) -> None:
    path = tmp_path / "gdb"
    with PretendMachine(UnixAddress(str(path))) as machine:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        with Client(machine.stub.address) as client:
            assert client.ask(b"qC") == b"QC1"
        with pytest.raises(AddressError, match="in use"):
            PretendMachine(UnixAddress(str(path)))
        assert path.exists()
    assert not path.exists()


def test_unix_socket_of_a_dead_process_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "gdb"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    with PretendMachine(UnixAddress(str(path))) as machine, Client(machine.stub.address) as client:
        assert client.ask(b"qC") == b"QC1"
    path.write_text("precious")
    with pytest.raises(AddressError):
        PretendMachine(UnixAddress(str(path)))
    assert path.read_text() == "precious"


@pytest.mark.parametrize("kind", ["file", "link", "socket", "nothing"])
def test_what_took_the_sockets_place_stays(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "gdb", socket.socket(socket.AF_UNIX)
    with PretendMachine(UnixAddress(str(path))):
        path.unlink()
        (tmp_path / "another file").write_text("")  # a file system may give the inode that has become free anew
        match kind:
            case "file":
                path.write_text("precious")
            case "link":
                path.symlink_to("elsewhere")
            case "socket":
                other.bind(str(path))
    other.close()
    assert os.path.lexists(path) == (kind != "nothing")


def test_missing_directory_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(AddressError, match="No such file"):
        PretendMachine(UnixAddress(str(tmp_path / "no" / "gdb")))


def test_close_does_not_wait_for_a_silent_client() -> None:
    with PretendMachine() as machine, raw(machine) as client:
        machine.call(lambda: None)
        machine.call(machine.target.kill)
        assert machine.join()
        with contextlib.suppress(ConnectionResetError):  # where it was not let in yet
            assert client.recv(10) == b""


def test_a_client_that_hears_nothing_says_so() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    try:
        with pytest.raises(ClientError, match="in time"):
            Client(TcpAddress("127.0.0.1", listener.getsockname()[1]), timeout=0.2)
    finally:
        listener.close()
    with pytest.raises(ClientError, match="cannot talk"):
        Client(TcpAddress("127.0.0.1", listener.getsockname()[1] if listener.fileno() >= 0 else 1), timeout=0.2)


@pytest.mark.parametrize("text", [":1", "localhost:1", "[::1]:1", "127.8.0.1:1", "unix:s"])
def test_addresses_for_this_host_alone(text: str) -> None:
    assert not is_exposed(parse_address(text))


@pytest.mark.parametrize("text", ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "host.example:1"])
def test_addresses_for_others_too(text: str) -> None:
    assert is_exposed(parse_address(text))
