"""A program of this host in the guest of `trapgate exec`: what it writes, how it ends, what reaches it."""

import ctypes
import fcntl
import os
import pwd
import resource
import shutil
import signal
import struct
import subprocess
import termios
import time
from functools import partial
from pathlib import Path

import pytest

from system.exec_runs import TRAPGATE, Ended, Typist, guest, needs_kernel, ran, same
from trapgate.stencil.cache import default_directory

RT_SIGACTION = 13
PIPES = 1 << 20  # bytes that a program can surely write while nobody reads: the pipe in the guest has as much


@pytest.fixture(scope="module", autouse=True)
def booted() -> None:
    needs_kernel()
    done = guest("true")
    assert done.status == 0, done.err


@pytest.mark.parametrize(
    "command",
    [
        ["false"],
        ["echo", "", "two words", "-n", "ä"],
        ["ls", "-lA", "/etc"],
        ["sh", "-c", "seq 1 2000 | tr 0-9 a-j | sort -r | tail -n 3; exit 42"],
        ["sh", "-c", "echo one; echo two >&2; echo three; exec /bin/kill -s SEGV $$"],
        ["sh", "-c", "id; pwd; umask; ulimit -n; echo $HOME; hostname"],
    ],
    ids=" ".join,
)
def test_it_is_as_here(command: list[str]) -> None:
    same(*command)


def test_both_streams_in_one_keep_their_order() -> None:
    script = ["sh", "-c", "for n in 1 2 3 4 5 6 7 8; do echo out $n; echo err $n >&2; done"]
    found = subprocess.run([TRAPGATE, "exec", *script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True)
    assert found.stdout.split() == [word for n in range(1, 9) for word in (b"out", b"%d" % n, b"err", b"%d" % n)]


def test_input_of_a_pipe_comes_whole() -> None:
    data = os.urandom(700_000)
    assert guest("sh", "-c", "cat; echo end", given=data) == Ended(data + b"end\n", b"", 0)


@pytest.mark.parametrize("size", [300_000, 700_000, 3_000_000])
def test_a_slow_reader_gets_all(size: int) -> None:
    """It reads nothing until the program has ended, or cannot go on, whatever of pipes and queues is full by then."""
    command = [TRAPGATE, "exec", "sh", "-c", f"head -c {size} /dev/zero; echo end; echo ended >&2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as found:
        assert found.stdout is not None
        assert found.stderr is not None
        if size < PIPES:
            assert found.stderr.readline() == b"ended\n"
        time.sleep(1)
        assert found.stdout.read() == bytes(size) + b"end\n"
    assert found.returncode == 0


def test_what_of_a_file_is_not_used_is_left(tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"".join(b"%d\n" % n for n in range(5)))
    with (tmp_path / "lines").open("rb") as file:
        assert ran([TRAPGATE, "exec", "sh", "-c", "read one; read two; echo $two"], None, stdin=file).out == b"1\n"
        assert file.read() == b"2\n3\n4\n"


def test_a_reader_that_leaves() -> None:
    with subprocess.Popen([TRAPGATE, "exec", "yes"], stdout=subprocess.PIPE) as found:
        assert found.stdout is not None
        assert found.stdout.read(4) == b"y\ny\n"
    assert found.returncode == -signal.SIGPIPE


@pytest.mark.parametrize(
    ("command", "status", "told"),
    [
        (["no-such-program"], 127, "no-such-program: No such file or directory"),
        (["/etc/passwd"], 126, "/etc/passwd: Permission denied"),
    ],
)
def test_programs_that_cannot_be_started(command: list[str], status: int, told: str) -> None:
    assert guest(*command) == Ended(b"", f"trapgate: error: {told}\n".encode(), status)


def test_another_root(tmp_path: Path) -> None:
    """Where the working directory is not to be found, nothing runs; what is there can be run by its own path."""
    found = guest("true", options=["--share", str(tmp_path)], cwd="/usr")
    assert found == Ended(b"", b"trapgate: error: the guest could not begin: the working directory: No such file or directory\n", 3)
    shutil.copy("/bin/busybox", tmp_path / "busybox") if Path("/bin/busybox").exists() else pytest.skip("no busybox")
    found = guest("/busybox", "ls", "/", options=["--share", str(tmp_path)], cwd="/")
    assert found == Ended(b"busybox\ndev\nproc\nsys\n", b"", 0)


def test_what_it_writes_is_gone_but_where_it_may_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "kept").mkdir()
    script = "echo a > gone; echo b > kept/made; mkdir kept/below; echo c > kept/below/two; cat gone kept/made; rm old"
    (tmp_path / "old").write_text("old")
    assert guest("sh", "-c", script, cwd=tmp_path, options=["--write", "kept"]) == Ended(b"a\nb\n", b"", 0)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["kept", "old"]
    assert (tmp_path / "kept/made").read_text() == "b\n"
    assert (tmp_path / "kept/below/two").read_text() == "c\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_from_outside(number: signal.Signals) -> None:
    script = f"trap 'echo caught; exit 9' {number.name.removeprefix('SIG')}; echo ready; while :; do sleep 0.05; done"
    plain = partial(signal.pthread_sigmask, signal.SIG_SETMASK, ())  # whatever the tests before have blocked
    with subprocess.Popen([TRAPGATE, "exec", "sh", "-c", script], stdout=subprocess.PIPE, preexec_fn=plain) as found:
        assert found.stdout is not None
        assert found.stdout.readline() == b"ready\n"
        found.send_signal(number)
        assert found.stdout.read() == b"caught\n"
    assert found.returncode == 9


def test_time_that_is_up() -> None:
    before = time.monotonic()
    found = guest("sh", "-c", "echo begun; sleep 1000", options=["--timeout", "1"])
    assert (found.out, found.status) == (b"begun\n", 124)
    assert time.monotonic() - before > 1


STREAMS = (
    "for n in 0 1 2; do test -e /proc/self/fd/$n && echo $n open >&9; done; cat - >&9; echo to stdout; echo $? >&9; echo x >&2"
)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_closed_as_natively(closed: str, tmp_path: Path) -> None:
    """What a program finds of each, and what its reads and writes give: the same as without a guest."""
    results = []
    for word in ("", f"{TRAPGATE} exec --write {tmp_path}"):
        script = f"{word} sh -c 'exec 9> {tmp_path}/told; {STREAMS}' {closed}"
        found = subprocess.run(["bash", "-c", script], capture_output=True, check=False, stdin=subprocess.DEVNULL)
        results.append((found.stdout, found.stderr, found.returncode, (tmp_path / "told").read_text()))
    assert results[0] == results[1]


def test_a_terminal() -> None:
    assert (one := Typist(TRAPGATE, "exec", "sh", "-c", "stty size; tty; stty -a | grep -c opost")).end() == 0
    assert one.said == b"33 99\r\n/dev/pts/0\r\n1\r\n"


def test_a_terminal_that_others_write_to() -> None:
    one = Typist("/bin/sh", "-c", f"{TRAPGATE} exec sh -c 'echo to the terminal >&2; read x; echo $x' | cat")
    assert one.until(b"terminal").type(b"piped\n").end() == 0
    assert one.said == b"to the terminal\r\npiped\r\npiped\r\n"


def test_what_is_typed() -> None:
    one = Typist(TRAPGATE, "exec", "sh", "-c", "read line; echo got $line; cat; echo end; exec cat")
    one.type(b"words\n").until(b"got words\r\n").type(b"more\n").until(b"more\r\nmore\r\n")
    one.type(b"\x04").until(b"end\r\n").type(b"\x03")
    assert one.end() == -signal.SIGINT


def test_a_terminal_of_another_size() -> None:
    one = Typist(TRAPGATE, "exec", "sh", "-c", "trap 'stty size; exit 7' WINCH; echo ready; while :; do sleep 0.05; done")
    one.until(b"ready")
    fcntl.ioctl(one.terminal, termios.TIOCSWINSZ, struct.pack("4H", 40, 120, 0, 0))
    assert one.until(b"40 120\r\n").end() == 7


def test_a_job_that_is_stopped_goes_on() -> None:
    program = f"{TRAPGATE} exec sh -c 'echo ready; read x; echo got $x'"
    one = Typist("/bin/bash", "--norc", "-ic", f"PS1=; {program}; echo stopped $?; fg; echo $?")
    one.until(b"ready").type(b"\x1a").until(b"stopped 147").type(b"on\n").until(b"got on")
    one.end()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can become another user, with setpriv")
def test_another_user_whose_cache_cannot_be_written(tmp_path: Path) -> None:
    """He may read all files, for this Python may lie where only root may; but write none."""
    nobody = pwd.getpwnam("nobody")
    cache = Path(shutil.copytree(default_directory(), tmp_path / "cache"))
    for one in (cache, *cache.iterdir()):
        one.chmod(0o500)
        os.chown(one, nobody.pw_uid, nobody.pw_gid)
    as_nobody = [
        *("setpriv", "--reuid", "nobody", "--regid", str(nobody.pw_gid), "--clear-groups"),
        *(
            "--inh-caps",
            "-all,+dac_read_search",
            "--ambient-caps",
            "-all,+dac_read_search",
            "--bounding-set",
            "-all,+dac_read_search",
        ),
    ]
    environment = {**os.environ, "HOME": str(tmp_path), "TRAPGATE_CACHE": str(cache)}
    script = "id; touch /etc/x; pwd; sleep 0"
    found = ran([*as_nobody, TRAPGATE, "exec", "sh", "-c", script], cwd="/", env=environment)
    assert found.out == ran([*as_nobody, "sh", "-c", script], cwd="/").out
    assert b"touch: cannot touch '/etc/x': Permission denied\n" in found.err
    assert found.status == 0


def test_limits_are_the_programs() -> None:
    ignored = struct.pack("=QQQQ", 1, 0, 0, 0)  # struct sigaction of the kernel: SIG_IGN

    def lower() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, (signal.SIGUSR1, signal.SIGWINCH))
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        for number in (32, 33, signal.SIGRTMAX):  # the first two are libc's own: it sets neither for us
            assert not ctypes.CDLL(None).syscall(RT_SIGACTION, number, ignored, None, 8)
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.umask(0o077)

    same("sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -c; umask; grep -E 'Sig(Blk|Ign)' /proc/self/status", preexec_fn=lower)
