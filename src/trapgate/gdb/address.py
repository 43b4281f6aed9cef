"""The debugger connects here: at `[HOST]:PORT` (loopback when no host is given), at `unix:PATH`, or on `stdio`."""

import contextlib
import errno
import ipaddress
import os
import socket
import stat
from dataclasses import field

from trapgate.hostcall import SCARCE, HostError
from trapgate.values import dataclass, replace

LOOPBACK = "127.0.0.1"
_BACKLOG = 16  # connections that wait to be accepted


class AddressError(Exception):
    """An address that cannot be listened on; the text is one line that says what to do."""


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A TCP port; 0 lets the host choose one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A UNIX socket, open to its owner alone. `file`: the one that listening made, by device and inode."""

    path: str
    file: tuple[int, int] | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class StdioAddress:
    """Two descriptors that the debugger holds the other ends of: standard input and output, or copies of them."""

    reader: int = 0
    writer: int = 1

    def __str__(self) -> str:
        return "stdio"


Address = TcpAddress | UnixAddress | StdioAddress


def parse_address(text: str) -> Address:
    """An address as given by the user; AddressError when it is none. An IPv6 host stands in brackets."""
    if text == "stdio":
        return StdioAddress()
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path or "\0" in path or len(os.fsencode(path)) > 100:
            raise AddressError(f"{text!r}: the path of a UNIX socket has 1 to 100 bytes")
        return UnixAddress(path)
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise AddressError(f"{text!r} is no address for gdb: give [HOST]:PORT with a port up to 65535, unix:PATH or stdio")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise AddressError(f"{text!r}: put an IPv6 address in brackets, as in [::1]:1234")
    return TcpAddress(host or LOOPBACK, int(port))


def is_exposed(address: Address) -> bool:
    """Whether other hosts may connect."""
    if not isinstance(address, TcpAddress):
        return False
    try:
        return not ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return address.host != "localhost"


def listen(address: TcpAddress | UnixAddress) -> tuple[socket.socket, TcpAddress | UnixAddress]:
    """A listening socket and its address as it came out (with the port that the host chose); AddressError, HostError."""
    try:
        if isinstance(address, UnixAddress):
            return _listen_unix(address)
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        listener = socket.create_server((address.host, address.port), family=family, backlog=_BACKLOG)
        return listener, TcpAddress(address.host, listener.getsockname()[1])
    except OSError as error:
        if error.errno in SCARCE:
            raise HostError(f"to listen for gdb on {address}", error.errno) from error
        if error.errno == errno.EADDRINUSE:
            raise AddressError(f"cannot listen for gdb on {address}: it is in use; choose another, or end who uses it") from error
        raise AddressError(f"cannot listen for gdb on {address}: {error.strerror or error}") from error


def _listen_unix(address: UnixAddress) -> tuple[socket.socket, UnixAddress]:
    path = address.path
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        os.chmod(path, 0o600)  # before listen: until then nobody can connect
        made = os.lstat(path)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener, replace(address, file=(made.st_dev, made.st_ino))


def _remove_stale(path: str) -> None:
    """Remove a socket that a dead process left behind; anything else in the way stays, and bind says so."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(1)
                try:
                    probe.connect(path)
                except ConnectionRefusedError:
                    os.unlink(path)


def forget(address: TcpAddress | UnixAddress) -> None:
    """Remove what listening left on the disk, if it lies there still: whatever took its place is somebody else's."""
    if isinstance(address, UnixAddress) and address.file is not None:
        with contextlib.suppress(OSError):
            there = os.lstat(address.path)
            if stat.S_ISSOCK(there.st_mode) and (there.st_dev, there.st_ino) == address.file:
                os.unlink(address.path)
