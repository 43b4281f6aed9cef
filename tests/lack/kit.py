"""Commands of which one call to the host fails: a C library that counts them, and what is to be seen of such a run."""

import errno
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from trapgate.gdb.address import UnixAddress
from trapgate.gdb.client import Client, ClientError
from trapgate.gdb.target import Stopped
from trapgate.stencil.cache import Cache
from trapgate.stencil.library import load_library

SOURCE = Path(__file__).with_name("shim.c")
KINDS = tuple(re.findall(r'"(\w+)"', SOURCE.read_text().split("kinds[] = {")[1].split("}")[0]))
"""The kinds of calls, in the order in which their numbers lie in the shim's file."""
DESCRIPTORS = ("open", "pipe", "socket", "socketpair", "accept", "epoll_create", "eventfd", "timerfd_create", "dup", "fcntl")
ERRNOS = {  # what a call fails with where the host lacks something; all others: EIO
    **dict.fromkeys(DESCRIPTORS, errno.EMFILE),
    **dict.fromkeys(("read", "mmap", "mprotect", "malloc", "poll", "opendir"), errno.ENOMEM),
    **dict.fromkeys(("write", "ftruncate", "fsync", "mkdir", "rename"), errno.ENOSPC),
    **dict.fromkeys(("chmod", "unlink", "bind", "listen", "memfd_create"), errno.EPERM),
    "pthread_create": errno.EAGAIN,
    "syscall": errno.ENOMEM,
}
LIMIT = 10.0  # seconds that no run may take
DRIVER = """
import ctypes, fcntl, resource, sys, termios
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from trapgate.cli.entry import main
if sys.stdin.isatty():
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
sys.argv = ["trapgate", *sys.argv[1:]]
ctypes.CDLL(None).lack_begin()
main()
"""
# mov dx, 3F9h; mov al, 2; out dx, al; dec dx; mov al, '!'; out dx, al; mov cx, 3000; again: loop again; wait: mov dx, 3FDh;
# in al, dx; test al, 1; jz wait; mov dx, 3F8h; in al, dx; out dx, al; mov al, 10; out dx, al; mov al, 5; out F4h, al; hlt
GUEST = bytes.fromhex("baf903 b002 ee 4a b021 ee b9b80b e2fe bafd03 ec a801 74f8 baf803 ec ee b00a ee b005 e6f4 f4")
"""Prints, has a transmitter interrupt, which takes a timer, waits for a key, prints it, and leaves by its exit port."""
BEYOND_US = (  # not to be settled from where we stand
    "Exception ignored in thread started by",  # Python's own part of a thread, in front of ours, found no memory
    "memory allocation of",  # the decoder's library ends the process
)
STATUS, PRINTED = 11, b"!k\n"
SCENARIOS = ("pipe", "terminal", "gdb", "demo")


def missing() -> str:
    """What these tests lack, or ''."""
    return "" if shutil.which("gcc") else "no gcc"


@lru_cache
def folder() -> Path:
    """Where the library and the guest lie, made once."""
    made = Path(tempfile.mkdtemp(prefix="trapgate-test-"))
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", str(made / "shim.so"), str(SOURCE), "-ldl"], check=True, timeout=60)
    load_library(Cache())  # so that no run has to compile it
    (made / "image").write_bytes(GUEST.ljust(510, b"\0") + b"\x55\xaa")
    return made


@dataclass(frozen=True, slots=True)
class Run:
    """How one run went: `status` is None where it hung, `counts` says how often each kind was called."""

    status: int | None
    output: bytes
    complaint: str
    sane: bool  # the terminal
    counts: dict[str, int]

    def wrong(self) -> str:
        """What is not as it must be: all well, or one line that says what the host lacks; '' when nothing is."""
        lines = self.complaint.splitlines()
        if any(words in self.complaint for words in BEYOND_US):
            return ""
        if self.status is None:
            return "it hangs"
        if not self.sane:
            return "the terminal is not as it was"
        if "Traceback" in self.complaint or "internal error" in self.complaint:
            return "a fault of ours"
        if self.status == STATUS:
            told = [line for line in lines if "listening for gdb" not in line]
            return "" if PRINTED in self.output.replace(b"\r", b"") and len(told) <= 1 else "well, but for what it printed"
        if self.status == 0 or b"wrong: " in self.output:  # the demo: a debugger that was dropped gets less than it wants
            return "" if len(lines) <= 1 else "well, but with complaints"
        errors = [line for line in lines if line.startswith("trapgate: error: ")]
        if self.status in (1, 2) and len(errors) == 1 and lines[-1] == errors[0]:
            return ""
        return f"status {self.status} and {len(errors)} errors in {len(lines)} lines"


def run(scenario: str, call: str = "", nth: int = 0) -> Run:
    """One run, of which the nth call of a kind fails."""
    place = folder()
    path = place / "gdb"
    with suppress(FileNotFoundError):
        path.unlink()
    environment = os.environ | {
        "LD_PRELOAD": str(place / "shim.so"), "LACK_COUNTS": str(place / "counts"),
        "LACK_CALL": call, "LACK_NTH": str(nth), "LACK_ERRNO": str(ERRNOS.get(call, errno.EIO)),
        "PYTHONDONTWRITEBYTECODE": "1",  # the first run would have more calls than those behind it
    }  # fmt: skip
    arguments = ["run", str(place / "image"), "-m", "16M"] + (["--gdb", f"unix:{path}", "--wait"] if scenario == "gdb" else [])
    command = [sys.executable, "-c", DRIVER, *(["demo", "--quiet"] if scenario == "demo" else arguments)]
    if scenario == "terminal":
        return _on_a_terminal(command, environment)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        if scenario == "gdb":
            threading.Thread(target=_debug, args=(process, path), daemon=True).start()
        try:
            output, complaint = process.communicate(b"k", timeout=LIMIT)
            status: int | None = process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            output, complaint = process.communicate()
            status = None
    return Run(status, output, complaint.decode(errors="replace"), True, _counts())


def _debug(process: "subprocess.Popen[bytes]", path: Path) -> None:
    """A debugger that lets the guest go, and comes again when it is dropped."""
    while process.poll() is None:
        with suppress(ClientError), Client(UnixAddress(str(path)), timeout=LIMIT) as client:
            client.register("rip")
            client.step()
            while isinstance(client.go(), Stopped):
                pass
        time.sleep(0.01)


def _on_a_terminal(command: list[str], environment: dict[str, str]) -> Run:
    master, slave = pty.openpty()
    before, output, typed, end = termios.tcgetattr(slave), b"", False, time.monotonic() + LIMIT
    os.set_blocking(master, False)
    try:
        with subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=subprocess.PIPE, env=environment, start_new_session=True
        ) as process:
            while process.poll() is None and time.monotonic() < end:
                with suppress(BlockingIOError):
                    output += os.read(master, 1000)
                if b"!" in output and not typed:
                    typed = bool(os.write(master, b"k"))
                time.sleep(0.005)
            status = process.poll()
            process.kill()
            complaint = process.communicate()[1].decode(errors="replace")
        with suppress(BlockingIOError):
            output += os.read(master, 1000)
        return Run(status, output, complaint, termios.tcgetattr(slave) == before, _counts())
    finally:
        os.close(master)
        os.close(slave)


def _counts() -> dict[str, int]:
    data = (folder() / "counts").read_bytes()
    return dict(zip(KINDS, struct.unpack_from(f"<{len(KINDS)}q", data), strict=True))
