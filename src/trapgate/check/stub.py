"""Speaks the debugger's side of the protocol with no more than every stub has: g or p, m and M, Z and z, c and s, or vCont."""

import re

from trapgate.gdb.address import Address
from trapgate.gdb.client import Client, ClientError, parse_stop
from trapgate.gdb.description import NUMBERS, PC
from trapgate.gdb.target import SIGINT, BreakKind, Stopped
from trapgate.values import dataclass

ANSWER = 10.0  # s for an answer
I386_REGISTERS = (176, 308, 312)  # bytes of `g` for i386: without XMM, with, with one that Linux adds


@dataclass(frozen=True, slots=True)
class Counter:
    """The program counter in a stub's layout: its number, its hexadecimal digits, and their place in `g`."""

    number: int
    digits: int

    @property
    def at(self) -> int:
        """Digits before it: all registers before it are as long."""
        return self.number * self.digits


RIP, EIP = Counter(NUMBERS[PC], 16), Counter(8, 8)  # as gdb has them for i386:x86-64 and for i386
_TOLD = re.compile(rb"(?:^T..|;)(?:%02x:([0-9a-f]{16})|%02x:([0-9a-f]{8}))(?=;|$)" % (RIP.number, EIP.number))


class StubError(Exception):
    """The stub cannot be talked to any more, or does not do what no debugger can do without; one line."""


class NotOfferedError(Exception):
    """The stub does not know this kind of breakpoint; one line."""


@dataclass(frozen=True, slots=True)
class Halt:
    """Where the guest stopped; `asked`: by our interrupt, as far as the signal tells."""

    rip: int
    asked: bool


class Stub:
    """A stub that the guest is in the hands of. StubError from every method."""

    def __init__(self, address: Address, answer: float = ANSWER) -> None:
        self._answer = answer
        self._counter: Counter | None = None  # a guest in 32-bit mode may be i386 to its stub
        try:
            self._client = Client(address, timeout=answer)
        except ClientError as error:
            raise StubError(str(error)) from error
        try:
            self._continues = self._client.may_ask(b"vCont?").startswith(b"vCont;")
            self._client.ask(b"?")
        except ClientError as error:
            self._client.close()
            raise StubError(str(error)) from error

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def _ask(self, payload: bytes) -> bytes:
        try:
            return self._client.ask(payload)
        except ClientError as error:
            raise StubError(str(error)) from error

    def read(self, address: int, length: int) -> bytes:
        """Guest memory."""
        data = b""
        while len(data) < length:
            part = min(length - len(data), 0x400)
            reply = self._ask(b"m%x,%x" % (address + len(data), part))
            try:
                piece = bytes.fromhex(reply.decode("ascii"))
            except ValueError:
                piece = b""
            if len(piece) != part:
                raise StubError(f"the stub answered {part} bytes of memory at {address + len(data):#x} with {reply[:40]!r}")
            data += piece
        return data

    def read_int(self, address: int) -> int:
        """A quadword of guest memory."""
        return int.from_bytes(self.read(address, 8), "little")

    def write_int(self, address: int, value: int) -> None:
        """Change a quadword of guest memory."""
        reply = self._ask(b"M%x,8:%s" % (address, value.to_bytes(8, "little").hex().encode()))
        if reply != b"OK":
            raise StubError(f"the stub does not write memory: {reply[:40]!r}")

    def insert(self, kind: BreakKind, address: int, length: int) -> None:
        """Arm a breakpoint; NotOfferedError where the stub cannot."""
        try:
            reply = self._client.may_ask(b"Z%x,%x,%x" % (kind.value, address, length))
        except ClientError as error:
            raise StubError(str(error)) from error
        if reply != b"OK":
            raise NotOfferedError(f"the stub has no Z{kind.value}" + (f": {reply.decode('ascii', 'replace')}" if reply else ""))

    def remove(self, kind: BreakKind, address: int, length: int) -> None:
        """Disarm it."""
        self._ask(b"z%x,%x,%x" % (kind.value, address, length))

    def resume(self, step: bool = False) -> None:
        """Let the guest go, or for one instruction."""
        action = b"s" if step else b"c"
        try:
            self._client.send(b"vCont;" + action if self._continues else action)
        except ClientError as error:
            raise StubError(str(error)) from error

    def halted(self, patience: float) -> Halt | None:
        """The next stop; None when none comes within so many seconds."""
        try:
            reply = self._client.receive_within(patience)
            if reply is None:
                return None
            stop = parse_stop(reply)
        except ClientError as error:
            raise StubError(str(error)) from error
        if not isinstance(stop, Stopped):
            raise StubError(f"the machine has ended: {reply[:40].decode('ascii', 'replace')}")
        told = _TOLD.search(reply)
        rip = _number(told[1] or told[2]) if told else self.rip()
        return Halt(rip, stop.signal in (0, SIGINT))

    def interrupt(self) -> Halt:
        """Stop the guest."""
        try:
            self._client.interrupt()
        except OSError as error:
            raise StubError(f"the stub is gone: {error}") from error
        halt = self.halted(self._answer)
        if halt is None:
            raise StubError(f"the stub did not stop the guest in {self._answer:.0f} s")
        return halt

    def rip(self) -> int:
        """RIP or EIP, by p, or by g where that is not known."""
        try:
            counter = self._counter = self._counter or self._layout()
            reply = self._client.may_ask(b"p%x" % counter.number) or self._client.ask(b"g")[counter.at :]
            return _number(reply[: counter.digits])
        except (ClientError, ValueError) as error:
            raise StubError(f"the stub does not tell RIP: {error}") from error

    def _layout(self) -> Counter:
        """Which registers the stub has: the number of RIP is ST0's for i386, and `g` is shorter."""
        if reply := self._client.may_ask(b"p%x" % RIP.number):
            return RIP if len(reply) == RIP.digits else EIP
        return EIP if len(self._client.ask(b"g")) in [2 * size for size in I386_REGISTERS] else RIP


def _number(digits: bytes) -> int:
    return int.from_bytes(bytes.fromhex(digits.decode("ascii")), "little")
