"""Command lines, a word a line. What a command would do is not done: it is asked for, or refused in one line."""

import contextlib
import io
import os
from types import ModuleType

from fuzz.target import Target
from trapgate.arch.models import CpuModel, ModelError
from trapgate.cli import cache, demo, doctor, errors, habits, main, options
from trapgate.cli import run as runner
from trapgate.cli.request import Request
from trapgate.gdb import address
from trapgate.memory import PAGE_SIZE

MOST_WORDS = 30
os.environ["TRAPGATE_DEBUG"] = "1"  # an error that nobody expected comes out as it is
_asked: list[object] = []


def _stub(module: ModuleType, *names: str) -> None:
    """Commands are noted, not carried out."""
    for name in names:

        def noted(*arguments: object, name: str = name, **more: object) -> int:
            _asked.append(arguments[0] if arguments else name)
            return errors.OK

        setattr(module, name, noted)


_stub(runner, "run")
_stub(demo, "run")
_stub(doctor, "run")
_stub(cache, "show", "clear")


def run(data: bytes) -> str:
    """Run a command line."""
    words = data.replace(b"\0", b"").decode("utf-8", "surrogateescape").split("\n")[:MOST_WORDS]  # no argument holds a NUL
    _asked.clear()
    said, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
        status = main.status_of(words)
    lines = told.getvalue().splitlines()
    assert status in (errors.OK, errors.USAGE), f"status {status}: {told.getvalue()}"
    if status == errors.USAGE and not (lines and lines[0].startswith("Usage:")):
        assert len(lines) == 1, f"{len(lines)} lines: {told.getvalue()}"
        assert len(lines[0]) < 1000 + len(data)
    for request in _asked:
        if isinstance(request, Request):
            _check(request)
    return f"{status} {len(_asked)}"


def _check(request: Request) -> None:
    """A request that may be carried out."""
    assert options.MEMORY_LEAST <= request.memory <= options.MEMORY_MOST
    assert request.memory % PAGE_SIZE == 0
    if request.cpu is not None:
        with contextlib.suppress(ModelError):
            CpuModel.parse(request.cpu)


def plant() -> None:
    """What is no address for gdb was not expected."""
    right = address.parse_address

    def parse_address(text: str) -> address.Address:
        try:
            return right(text)
        except address.AddressError as error:
            raise IndexError(str(error)) from error

    address.parse_address = parse_address


_PLAIN = (
    "run\nkernel.elf\n--gdb\n:1234\n--wait",
    "run\nbzImage\n--initrd\ni.gz\n--append\nconsole=ttyS0\n-m\n1G\n--cpu\nEPYC-Turin,-bus-lock-detect",
    "run\nx\n--bus-locks\nlimit:100\n--clock\ninstructions\n--serial\nfile:out\n--debugcon\nnone",
    "run\nx\n--load-at\n0x7c00\n--gdb\nunix:sock\n--gdb-arch\ni8086\n--bus-locks\nstop:user",
    "run\nx\n--module\nfile text\n--module\nother\n--profile\n--symbols\nvmlinux\n--cpus\n1\n--engine\nsoft",
    "run\n-kernel\nx\n-s\n-S",
    "run\nx\n--gdb\ntcp:127.0.0.1:1234,server\n--cpu\nhost",
    "run\nx\n--gdb\n[::1]:65535\n--memory=0x10",
    "demo\n--quiet",
    "demo\n-q",
    "doctor",
    "cache\nclear\n--stencils",
    "cache\nshow",
    "--version",
    "run\n--help",
)

TARGET = Target(
    run,
    [line.encode() for line in _PLAIN],
    plant,
    lines=True,
    words=(
        *(word.encode() + b"\n" for word in habits.OPTIONS),
        b"512M\n",
        b"1T\n",
        b"1024T\n",
        b"--gdb\n",
        b"--cpu\n",
        b"\xff",
        b"=",
        b":",
    ),
    short=300,
)
