"""Started with standard input, output or error closed: nothing of ours gets their number, and each command does what it does."""

import os
import shutil
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest

TRAPGATE = str(Path(sys.executable).with_name("trapgate"))
CASES = Path(__file__).parent.parent / "cases"
CLOSED = [some for count in (1, 2, 3) for some in combinations((0, 1, 2), count)]
BUILD = "gcc -m64 -nostdlib -static -no-pie -Wl,-Ttext=0x100000,-e,start,--build-id=none -o"
STREAMS = """
import os, sys
from trapgate.cli import streams
streams.fill()
streams.fill()
print("said")
print("complained", file=sys.stderr)
assert sys.stdin is not None
kinds = [os.readlink(f"/proc/self/fd/{n}") for n in range(3)]
os.write(int(sys.argv[1]), " ".join(kinds).encode())
"""


def started(command: list[str], closed: tuple[int, ...], keep: tuple[int, ...] = ()) -> "subprocess.CompletedProcess[bytes]":
    """Run a command with some of its streams closed, and what it wrote to the others."""

    def close() -> None:
        for descriptor in closed:
            os.close(descriptor)

    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False, preexec_fn=close, pass_fds=keep
    )


@pytest.mark.parametrize("closed", CLOSED, ids=str)
def test_what_is_closed_becomes_the_null_device(closed: tuple[int, ...]) -> None:
    reader, writer = os.pipe()
    done = started([sys.executable, "-c", STREAMS, str(writer)], closed, (writer,))
    os.close(writer)
    kinds = os.read(reader, 1000).decode().split()
    os.close(reader)
    assert done.returncode == 0
    assert [number for number in range(3) if kinds[number] == os.devnull and number != 0] == [n for n in closed if n]
    assert kinds[0] == os.devnull  # as it was given, or because it was closed
    assert done.stdout == (b"" if 1 in closed else b"said\n")
    assert done.stderr == (b"" if 2 in closed else b"complained\n")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_what_the_guest_prints_is_not_executed(tmp_path: Path) -> None:
    image = str(tmp_path / "image")
    subprocess.run([*BUILD.split(), image, str(CASES / "closed_streams.S")], check=True, timeout=60)
    for closed in CLOSED:
        done = started([TRAPGATE, "run", image, "-m", "16M"], closed)
        assert (done.returncode, done.stderr) == (1, b""), closed
        assert len(done.stdout) == (0 if 1 in closed else 65536 + 64 * 64), closed


def test_code_has_no_descriptor(tmp_path: Path) -> None:
    """No number leads to translated code once it is mapped: neither a closed stream's nor any other."""
    program = (
        "import os; from trapgate.stencil.library import Library; from trapgate.soft.state.codebuffer import CodeBuffer\n"
        "before = set(os.listdir('/proc/self/fd')); code = CodeBuffer(Library({}, b'\\xc3', {'f': 0}))\n"
        "assert set(os.listdir('/proc/self/fd')) == before; assert 'trapgate-code' in open('/proc/self/maps').read()"
    )
    assert started([sys.executable, "-c", program], ()).stderr == b""


COMMANDS = (("cache", "show"), ("doctor",), ("demo", "--quiet"))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_other_commands_with_all_three_closed(command: tuple[str, ...]) -> None:
    assert started([TRAPGATE, *command], (0, 1, 2)).returncode == 0


@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_other_commands_with_any_closed(command: tuple[str, ...]) -> None:
    usual = started([TRAPGATE, *command], ())
    for closed in CLOSED:
        done = started([TRAPGATE, *command], closed)
        assert (done.returncode, done.stderr) == (usual.returncode, b"")
        if 1 not in closed:
            assert done.stdout.count(b"\n") == usual.stdout.count(b"\n")
