"""`trapgate run --record` and `trapgate replay`: a recording says the same anywhere, to the last byte, or to where it was cut."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from programs import build, race
from trapgate.gdb.address import UnixAddress
from trapgate.gdb.client import Client

pytestmark = pytest.mark.skipif(bool(build.missing_tools()), reason=f"not installed: {build.missing_tools()}")
TRAPGATE = str(Path(sys.executable).with_name("trapgate"))
DEMO = Path(__file__).parents[2] / "src" / "trapgate" / "guests" / "demo.elf"
TYPED = 40  # bytes, one at a time


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return race.image(tmp_path_factory.mktemp("race"))


def trapgate(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [TRAPGATE, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL)


def started(image: Path, file: Path) -> "subprocess.Popen[bytes]":
    command = [TRAPGATE, "run", str(image), "--memory", "16M", "--record", str(file)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def typed(run: "subprocess.Popen[bytes]", count: int) -> bytes:
    """Type bytes, each when the one before has come back; what the guest has said then."""
    assert run.stdin is not None and run.stdout is not None
    said = b""
    for number in range(count):
        run.stdin.write(b"abcdefghij"[number % 10 : number % 10 + 1])
        run.stdin.flush()
        said += os.read(run.stdout.fileno(), 4096)
        if b"\n" in said:
            break
    return said


def test_it_says_the_same_elsewhere(image: Path, tmp_path: Path) -> None:
    file, folder = tmp_path / "run.rec", tmp_path / "moved"
    with started(image, file) as run:
        said = typed(run, TYPED)
        assert run.stdin is not None and run.stdout is not None
        run.stdin.write(b"q")
        run.stdin.close()
        said += run.stdout.read()
    assert race.LOST in said or race.WHOLE in said
    folder.mkdir()
    moved = file.rename(folder / "elsewhere")
    again = trapgate("replay", moved)
    assert (again.stdout.encode(), again.stderr, again.returncode) == (said, "", run.returncode)


def test_one_that_was_killed_is_replayed_up_to_there(image: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.rec"
    with started(image, file) as run:
        said = typed(run, 8)
        time.sleep(0.2)
        run.send_signal(signal.SIGKILL)
        assert run.stdout is not None
        said += run.stdout.read()
    again = trapgate("replay", file)
    assert again.stdout.encode() == said
    assert ("the recording ends here" in again.stderr, again.returncode) == (True, 1)
    data = file.read_bytes()
    file.write_bytes(data[:-5])  # a last record that is a part
    assert trapgate("replay", file).stdout.encode() == said
    file.write_bytes(data[:-40] + bytes((data[-40] ^ 0xFF,)) + data[-39:])
    broken = trapgate("replay", file)
    assert broken.returncode == 2 and "the recording is damaged at byte" in broken.stderr and broken.stderr.count("\n") == 1


def test_bad_files_are_refused_in_a_line(image: Path, tmp_path: Path) -> None:
    saved, empty, other = tmp_path / "saved", tmp_path / "empty", tmp_path / "other.rec"
    assert (
        trapgate("run", image, "--memory", "16M", "--record", other, "--serial", f"file:{os.devnull}", "--gdb", "stdio").returncode
        == 0
    )
    empty.write_bytes(b"")
    no_machine = "no machine that trapgate has saved"
    for file, said in ((tmp_path / "none", "cannot be read"), (empty, no_machine), (DEMO, no_machine)):
        refused = trapgate("replay", file)
        assert refused.returncode == 2 and said in refused.stderr and refused.stderr.count("\n") == 1, refused.stderr
    data = other.read_bytes()
    version = data.index(b'"trapgate":"') + len(b'"trapgate":"')
    cut = data[: data.index(b'{"":["Head"') - 8]
    saved.write_bytes(cut)
    assert "without a recording" in trapgate("replay", saved).stderr
    saved.write_bytes(data[:version] + b"9" + data[version + 1 :])
    assert "damaged" in trapgate("replay", saved).stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--clock", "host"), "leave out --clock host"),
        (("--engine", "kvm"), "needs --engine soft"),
        (("--disk", "x.img"), "from a disk"),
    ],
)
def test_what_cannot_be_recorded(words: tuple[str, ...], said: str, image: Path) -> None:
    refused = trapgate("run", image, "--record", "x.rec", *words)
    assert refused.returncode == 2 and said in refused.stderr


def test_the_demo_guest_never_knows(tmp_path: Path) -> None:
    """Every debug exception: alone, recorded, replayed, and in gdb stepped through, gone back in and run to its end."""
    file, socket = tmp_path / "demo.rec", tmp_path / "gdb"
    alone = trapgate("run", DEMO, "--memory", "64M")
    assert "#DB" in alone.stdout or len(alone.stdout) > 500
    recorded = trapgate("run", DEMO, "--memory", "64M", "--record", file)
    assert (recorded.stdout, recorded.returncode) == (alone.stdout, alone.returncode)
    again = trapgate("replay", file)
    assert (again.stdout, again.returncode) == (alone.stdout, alone.returncode)
    command = [TRAPGATE, "replay", str(file), "--gdb", f"unix:{socket}"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stderr is not None and run.stdout is not None
        run.stderr.readline()
        with Client(UnixAddress(str(socket)), timeout=60) as client:
            last = int(client.monitor("when").split()[-1])
            for place in (last // 7, last // 3, last // 2, last - 3000):
                client.monitor(f"goto {place}")
                for _ in range(300):
                    client.step()
                client.monitor(f"goto {place - 50}")
            client.monitor("goto start")
            client.detach()
        out = run.stdout.read()
    assert out.decode() == alone.stdout
    assert run.returncode == alone.returncode
