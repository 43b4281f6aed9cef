"""Speaks a debugger's side of the protocol: for tests, and for showing the stub where gdb is not installed. Blocking."""

import socket
import time
from collections import deque
from typing import Self

from trapgate.gdb import framing
from trapgate.gdb.address import Address, TcpAddress, UnixAddress
from trapgate.gdb.description import NUMBERS, PC, WIDE, size
from trapgate.gdb.target import BreakKind, Exited, Killed, Stop, Stopped, Why


class ClientError(Exception):
    """The stub refused, went away, or did not answer in time."""


class ClientTimeoutError(ClientError):
    """The stub did not answer in time."""


class Client:
    """A connection to a stub: `timeout` seconds for every answer. ClientError when one fails or does not come."""

    def __init__(self, address: Address, timeout: float = 10.0) -> None:
        where: object
        match address:
            case UnixAddress(path=path):
                family, where = socket.AF_UNIX, path
            case TcpAddress(host=host, port=port):
                family, where = socket.AF_INET6 if ":" in host else socket.AF_INET, (host, port)
            case _:
                raise ClientError(f"{address} is nothing to connect to")
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        self._timeout = timeout
        self._reader = framing.Reader(runs=True)
        self._events: deque[framing.Event] = deque()
        self._acks = True
        self.console = ""
        """What the stub told the user so far."""
        try:
            self._socket.connect(where)
            if family != socket.AF_UNIX:  # an acknowledgment and the packet behind it need not wait for one another
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.features = self._answered(b"qSupported:swbreak+;hwbreak+;vContSupported+;error-message+").decode().split(";")
            if "QStartNoAckMode+" in self.features and self._ask(b"QStartNoAckMode") == b"OK":
                self._acks = False
        except OSError as error:
            self._socket.close()
            raise ClientError(f"cannot talk to the stub on {address}: {error}") from error
        except ClientError:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up without a word; the stub lets the guest run on."""
        self._socket.close()

    # Packets

    def send(self, payload: bytes) -> None:
        """Send a packet and do not wait."""
        try:
            self._socket.sendall(framing.frame(payload))
        except OSError as error:
            raise ClientError(f"the stub is gone: {error}") from error

    def receive(self, timeout: float | None = None) -> bytes:
        """The payload of the next packet that is no console output."""
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        while True:
            while self._events:
                event = self._events.popleft()
                if isinstance(event, framing.Packet):
                    if self._acks:
                        self._socket.sendall(b"+")
                    if event.payload[:1] != b"O" or event.payload == b"OK":
                        return event.payload
                    self.console += bytes.fromhex(event.payload[1:].decode()).decode("utf-8", "replace")
                elif isinstance(event, framing.Damaged | framing.Refused):
                    raise ClientError(f"the stub sent a bad packet: {event.reason}")
            self._fill(deadline)

    def _fill(self, deadline: float) -> None:
        try:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            data = self._socket.recv(1 << 16)
        except TimeoutError:
            raise ClientTimeoutError("the stub did not answer in time") from None
        except OSError as error:
            raise ClientError(f"the stub is gone: {error}") from error
        finally:
            self._socket.settimeout(self._timeout)
        if not data:
            raise ClientError("the stub closed the connection")
        self._events.extend(self._reader.feed(data))

    def _ask(self, payload: bytes) -> bytes:
        self.send(payload)
        return self.receive()

    def may_ask(self, payload: bytes) -> bytes:
        """The reply to a packet, whatever it is; empty when the stub does not understand."""
        return self._ask(payload)

    def receive_within(self, patience: float) -> bytes | None:
        """The payload of the next packet, or None when none comes within so many seconds."""
        try:
            return self.receive(patience)
        except ClientTimeoutError:
            return None

    def ask(self, payload: bytes) -> bytes:
        """The reply to a packet; ClientError when it is an error or empty (not understood)."""
        reply = self._answered(payload)
        if not reply:
            raise ClientError(f"{payload[:40]!r}: not understood")
        return reply

    def _answered(self, payload: bytes) -> bytes:
        """The reply to a packet, empty when it is not understood; ClientError when it is an error."""
        reply = self._ask(payload)
        if reply.startswith(b"E."):
            raise ClientError(f"{payload[:40]!r}: {reply[2:].decode('ascii', 'replace')}")
        if len(reply) == 3 and reply.startswith(b"E"):
            raise ClientError(f"{payload[:40]!r}: error {reply[1:].decode()}")
        return reply

    # Registers and memory

    def registers(self) -> dict[str, int]:
        """The registers of the standard groups by their vCPU names; `rip` is linear, as gdb sees it."""
        digits = self.ask(b"g")
        values = {}
        for register in WIDE.in_g:
            text, digits = digits[: 2 * size(register)], digits[2 * size(register) :]
            if text.strip(b"x"):
                values["rip" if register.name == PC else register.name] = int.from_bytes(bytes.fromhex(text.decode()), "little")
        return values

    def register(self, name: str) -> int:
        """One register, system registers included."""
        return int.from_bytes(bytes.fromhex(self.ask(b"p%x" % NUMBERS[name]).decode()), "little")

    def set_register(self, name: str, value: int) -> None:
        """Change one register."""
        number = NUMBERS[name]
        self.ask(b"P%x=%b" % (number, value.to_bytes(size(WIDE.registers[number]), "little").hex().encode()))

    def read_memory(self, address: int, length: int) -> bytes:
        """Memory at a guest-virtual address; short where it stops being mapped."""
        data = b""
        while len(data) < length:
            try:
                piece = self.ask(b"x%x,%x" % (address + len(data), min(length - len(data), 0x8000)))[1:]
            except ClientError:
                if not data:
                    raise
                break
            data += piece
        return data

    def write_memory(self, address: int, data: bytes) -> None:
        """Change memory."""
        for at in range(0, len(data), 0x8000):
            piece = data[at : at + 0x8000]
            self.ask(b"X%x,%x:%b" % (address + at, len(piece), piece))

    # Breakpoints and running

    def insert(self, kind: BreakKind, address: int, length: int = 1) -> None:
        """Arm a breakpoint or watchpoint."""
        self.ask(b"Z%x,%x,%x" % (kind.value, address, length))

    def remove(self, kind: BreakKind, address: int, length: int = 1) -> None:
        """Disarm it."""
        self.ask(b"z%x,%x,%x" % (kind.value, address, length))

    def resume(self, action: str = "c") -> None:
        """Let the guest go and do not wait: "c" runs, "s" steps, "rSTART,END" steps inside a range."""
        self.send(b"vCont;" + action.encode())

    def go(self, action: str = "c", timeout: float | None = None) -> Stop:
        """Let the guest go and wait until it stops."""
        self.resume(action)
        return self.wait(timeout)

    def step(self) -> Stop:
        """One instruction."""
        return self.go("s")

    def interrupt(self) -> None:
        """Ask a running guest to stop; `wait` tells when it did."""
        self._socket.sendall(b"\x03")

    def wait(self, timeout: float | None = None) -> Stop:
        """The next stop."""
        return parse_stop(self.receive(timeout))

    def monitor(self, command: str) -> str:
        """What a `monitor` command says."""
        before = len(self.console)
        self.ask(b"qRcmd," + command.encode().hex().encode())
        return self.console[before:]

    def detach(self) -> None:
        """Let the guest run on without us."""
        self.ask(b"D")
        self.close()

    def kill(self) -> None:
        """End the machine."""
        self.send(b"k")
        self.close()


def parse_stop(reply: bytes) -> Stop:
    """A stop reply as a value; ClientError when it is none."""
    try:
        if reply[:1] == b"W":
            return Exited(int(reply[1:3], 16))
        if reply[:1] == b"X":
            return Killed(int(reply[1:3], 16))
        if reply[:1] not in (b"T", b"S"):
            raise ValueError("no stop reply")
        thread, why, address = 1, Why.PLAIN, 0
        for item in reply[3:].decode("ascii").split(";"):
            name, _, value = item.partition(":")
            if name == "thread":
                thread = int(value, 16)
            elif name and name in {each.value for each in Why}:
                why, address = Why(name), int(value or "0", 16)
        return Stopped(thread, int(reply[1:3], 16), why, address)
    except ValueError as error:
        raise ClientError(f"no stop reply: {reply[:60]!r}") from error
