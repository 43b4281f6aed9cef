"""Tries what a process under the sandbox may do and what not, each in a process of its own, and prints what came of it as JSON.

Arguments: a directory that is allowed, and one that is not. With a third, `ENOSYS` or `EPERM`, the kernel is made to have no
sandbox first.
"""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import pty
import signal
import socket
import sys
import termios
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

from trapgate.sandbox import kernel
from trapgate.sandbox.bpf import Action, Row, program
from trapgate.sandbox.calls import NUMBERS
from trapgate.sandbox.confine import Hold, confine
from trapgate.sandbox.landlock import KEEP
from trapgate.sandbox.policy import HOSTILE, Needs

inside, outside = Path(sys.argv[1]), Path(sys.argv[2])
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
page = mmap.mmap(-1, 4096)
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
master, slave = pty.openpty()
go = threading.Event()
old_call = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
old_call.write(bytes.fromhex("b814000000 cd80 c3"))  # mov eax, 20 (getpid of i386); int 80h; ret
old_getpid = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(old_call)))


def open_for(flags: int, path: Path) -> Callable[[], object]:
    return lambda: os.close(os.open(path, flags, 0o600))


def hostile_call() -> None:
    kernel.call("execve", 0, 0, 0)


def another_handler() -> None:
    """Who has the process wants to go on after a call that ends it."""
    with suppress(PermissionError):
        signal.signal(signal.SIGSYS, signal.SIG_IGN)
    hostile_call()


def blocked() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGSYS})
    hostile_call()


def sent() -> None:
    os.kill(os.getpid(), signal.SIGSYS)


def keep_a_file() -> None:
    (inside / ".new").write_bytes(b"x")
    os.replace(inside / ".new", inside / "kept")
    assert (inside / "kept").read_bytes() == b"x"
    (inside / "kept").unlink()


def serve() -> None:
    met = listener.accept()[0]
    client.sendall(b"x")
    assert met.recv(1) == b"x"


def on_a_thread() -> None:
    done: list[str] = []
    thread = threading.Thread(target=lambda: done.append(outcome(open_for(os.O_RDONLY, outside / "file"))))
    thread.start()
    thread.join()
    assert done == ["EACCES"], done


ATTEMPTS: dict[str, Callable[[], object]] = {
    "read outside": open_for(os.O_RDONLY, outside / "file"),
    "write outside": open_for(os.O_WRONLY, outside / "file"),
    "create outside": open_for(os.O_WRONLY | os.O_CREAT, outside / "made"),
    "list outside": lambda: os.listdir(outside),
    "unlink outside": lambda: (outside / "file").unlink(),
    "truncate outside": lambda: os.truncate(outside / "file", 0),
    "chmod outside": lambda: (outside / "file").chmod(0o777),
    "mkdir outside": lambda: (outside / "folder").mkdir(),
    "move to outside": lambda: os.rename(inside / "file", outside / "moved"),
    "link to outside": lambda: os.link(inside / "file", outside / "linked"),
    "symlink inside": lambda: os.symlink("/etc/passwd", inside / "linked"),
    "own memory": open_for(os.O_RDWR, Path("/proc/self/mem")),
    "a file of the system": open_for(os.O_RDONLY, Path("/etc/passwd")),
    "write a module": open_for(os.O_WRONLY | os.O_CREAT, Path(kernel.__file__)),
    "a socket": lambda: socket.socket(),
    "a UNIX socket": lambda: socket.socket(socket.AF_UNIX),
    "a pair of sockets": socket.socketpair,
    "connect": lambda: client.connect(("127.0.0.1", 1)),
    "bind": lambda: listener.bind(("127.0.0.1", 0)),
    "a child": os.fork,
    "memory to write and run": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC),
    "new memory to run": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    "memory made to run": lambda: kernel.call("mprotect", address, 4096, mmap.PROT_READ | mmap.PROT_EXEC),
    "signal another process": lambda: os.kill(os.getppid(), 0),
    "type into the terminal": lambda: fcntl.ioctl(slave, termios.TIOCSTI, b"x"),
    "a call to come": lambda: ctypes.CDLL(None, use_errno=True).syscall(999) and raise_errno(),
    "keep a file": keep_a_file,
    "serve a client": serve,
    "another thread": on_a_thread,
    "an earlier thread": lambda: go.set() or earlier.join() or raise_number(found[0]),
    "load a library": lambda: __import__("llvmlite.binding"),
    "settings of the terminal": lambda: termios.tcsetattr(slave, termios.TCSANOW, termios.tcgetattr(slave)),
    "signal itself": lambda: os.kill(os.getpid(), 0),
    "a 32-bit call": old_getpid,
    "an x32 call": lambda: ctypes.CDLL(None).syscall(0x40000000 | 39),
    "another handler": another_handler,
    "a blocked signal": blocked,
    "SIGSYS": sent,
    "run a program": lambda: os.execv("/bin/true", ["true"]),
    **{f"call {name}": partial(kernel.call, name, 0, 0, 0, 0, 0, 0) for name in HOSTILE.split()},
}
found: list[int] = []
earlier: threading.Thread


def raise_number(number: int) -> None:
    if number:
        raise OSError(number, "")


def raise_errno() -> None:
    raise_number(ctypes.get_errno())


def ask_for_a_socket() -> None:
    go.wait()
    try:
        socket.socket().close()
        found.append(0)
    except OSError as error:
        found.append(error.errno or 0)


def outcome(attempt: Callable[[], object]) -> str:
    """'done', or the name of the errno."""
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def tried(attempt: Callable[[], object]) -> str:
    """The same in a process of its own, under the sandbox; what ended it, if it was not its end."""
    global earlier
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            earlier = threading.Thread(target=ask_for_a_socket, daemon=True)
            earlier.start()
            confine(Needs(debugger=True), [(inside, KEEP)])
            os.write(writer, outcome(attempt).encode())
        except BaseException as error:
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return said if not status else f"status {os.WEXITSTATUS(status)}"


def main() -> None:
    (inside / "file").touch()
    (outside / "file").touch()
    if len(sys.argv) > 3:
        without(Action.MISSING if sys.argv[3] == "ENOSYS" else Action.REFUSED)
        hold: Hold = confine(Needs(), [(inside, KEEP)])
        print(json.dumps(asdict(hold) | {"read outside": outcome(ATTEMPTS["read outside"])}))
    else:
        print(json.dumps({name: tried(attempt) for name, attempt in ATTEMPTS.items()}))


def without(action: Action) -> None:
    """The kernel, from now on, without Landlock and seccomp."""
    lacking = ("seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self")
    kernel.no_new_privileges()
    kernel.install_filter(program([(NUMBERS[name], (Row(action),)) for name in lacking], 999, Action.ALLOW, Action.ALLOW))


main()
