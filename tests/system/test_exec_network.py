"""Programs of this host in a guest that reach this host's network: `trapgate exec --net user`."""

import functools
import hashlib
import http.server
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from system.exec_runs import TRAPGATE, Ended, guest, needs_kernel, ran
from trapgate import execute
from trapgate.passt import NetworkError

ROOT = Path(__file__).resolve().parents[2]
NET = ("--net", "user")
DATA = random.Random(2).randbytes(3 << 20)
FETCH = """
import hashlib, sys, urllib.request
got = urllib.request.urlopen(sys.argv[1]).read()
sent = urllib.request.urlopen(sys.argv[1], data=got).read()
print(hashlib.md5(got).hexdigest(), sent.decode())
"""
ASK = "import socket, sys; print(sorted({one[4][0] for one in socket.getaddrinfo(sys.argv[1], 80, socket.AF_INET)}))"
SLEEP = "exec 2>&1; echo ready; while test $(cat /sys/class/net/eth0/carrier) = 1; do sleep 0.1; done; echo down; exit 5"


@pytest.fixture(autouse=True)
def kernel() -> None:
    needs_kernel()


@pytest.fixture(autouse=True)
def passt(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("linux") and shutil.which("passt") is None:
        pytest.skip("needs passt")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """What is served on this host's loopback, and where the guest finds it."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, form: str, *words: object) -> None:
            """Nothing."""

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(hashlib.md5(data).hexdigest().encode())

    handler = functools.partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield tmp_path, f"http://10.0.2.2:{found.server_port}"
        found.shutdown()


@pytest.mark.linux
@pytest.mark.timeout(600)
def test_python_fetches_and_posts(folder: tuple[Path, str]) -> None:
    (folder[0] / "data").write_bytes(DATA)
    digest = hashlib.md5(DATA).hexdigest()
    for _ in range(2):  # the first boots the guest, the second takes the one that was kept
        found = guest(sys.executable, "-c", FETCH, f"{folder[1]}/data", options=NET)
        assert found == Ended(f"{digest} {digest}\n".encode(), b"", 0)


@pytest.mark.linux
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_clones_by_http(folder: tuple[Path, str], tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    shutil.copytree(ROOT / "docs", origin)
    commit = "git -c user.name=a -c user.email=b commit -qm one && git update-server-info && git log --format=%H"
    made = subprocess.run(["sh", "-c", f"git init -q . && git add . && {commit}"], cwd=origin, check=True, capture_output=True)
    script = f"cd /tmp && git clone -q {folder[1]}/origin/.git new && cd new && git log --format=%H && git fsck && ls index.md"
    found = guest("sh", "-c", script, options=NET)
    assert (found.out, found.status) == (made.stdout + b"index.md\n", 0), found.err


@pytest.mark.linux
@pytest.mark.timeout(600)
def test_names_as_the_host_finds_them() -> None:
    name = next((one for one in ("deb.debian.org", "pypi.org", "example.org") if _known(one)), None)
    if name is None:
        pytest.skip("this host finds no names")
    assert guest(sys.executable, "-c", ASK, name, options=NET) == ran([sys.executable, "-c", ASK, name])


def _known(name: str) -> bool:
    try:
        return bool(socket.getaddrinfo(name, 80, socket.AF_INET))
    except OSError:
        return False


@pytest.mark.linux
@pytest.mark.timeout(600)
def test_passt_ends_and_the_program_goes_on() -> None:
    command = [TRAPGATE, "exec", *NET, "sh", "-c", SLEEP]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"ready\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        (its,) = [int(one) for one in children if "passt" in Path(f"/proc/{one}/comm").read_text()]
        os.kill(its, signal.SIGKILL)
        assert process.stdout.read() == b"down\n"
        said = process.stderr.read()
    assert process.returncode == 5
    assert said.startswith(b"trapgate: passt has ended, and the guest's network with it: ")
    assert said.count(b"\n") == 1


@pytest.mark.linux
@pytest.mark.timeout(600)
def test_the_library(folder: tuple[Path, str]) -> None:
    (folder[0] / "data").write_bytes(b"from the host")
    code = "import sys, urllib.request; sys.stdout.buffer.write(urllib.request.urlopen(sys.argv[1]).read())"
    done = execute([sys.executable, "-c", code, f"{folder[1]}/data"], net="user")
    assert (done.status, done.stdout, done.stderr) == (0, b"from the host", b"")


def test_without_passt_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = guest("true", options=NET, env={**os.environ, "PATH": str(tmp_path)})
    assert (found.out, found.status) == (b"", 2)
    assert b"install the package passt" in found.err
    assert found.err.count(b"\n") == 1
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NetworkError, match="install the package passt"):
        execute(["true"], net="user")
