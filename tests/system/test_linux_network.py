"""Debian's kernels on the host's network: an address by DHCP, megabytes from and to the host's loopback, passt's end."""

import base64
import hashlib
import http.server
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from system.test_run import TRAPGATE
from tools import linux_guest
from tools.guests.sources import GuestError

MODULES = ("virtio_ring", "virtio", "virtio_mmio", "failover", "net_failover", "virtio_net", "af_packet")
DATA = random.Random(1).randbytes(4 << 20)
SCRIPT = """cat > /tmp/script <<END
#!/bin/sh
test -n "\\$ip" && ifconfig eth0 \\$ip netmask \\$subnet && route add default gw \\$router
END
chmod +x /tmp/script
ip link set eth0 up
udhcpc -i eth0 -n -q -s /tmp/script
ip addr show eth0
wget -q -O /tmp/data http://10.0.2.2:{port}/
md5sum /tmp/data
base64 /tmp/data > /tmp/text
wget -q -O - --post-file /tmp/text http://10.0.2.2:{port}/
"""
DOWN = "ip link set eth0 up; sleep 1; cat /sys/class/net/eth0/carrier; echo kill now; sleep 5; cat /sys/class/net/eth0/carrier\n"


@pytest.fixture
def server() -> Iterator[http.server.HTTPServer]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, form: str, *words: object) -> None:
            """Nothing."""

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(DATA)

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"posted " + hashlib.md5(data).hexdigest().encode() + b"\n")

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


def command(series: str, script: str, folder: Path) -> list[str]:
    """What runs a script in a guest with a network; the test is skipped where that cannot be."""
    if shutil.which("passt") is None:
        pytest.skip("needs passt")
    try:
        (folder / "initrd").write_bytes(linux_guest.with_drivers(series, script.encode(), MODULES))
        kernel = linux_guest.kernel(series)
    except (GuestError, OSError) as error:
        pytest.skip(str(error))
    line = f"{linux_guest.CONSOLE} quiet trapgate.run=sh,/m/test.sh"
    return [TRAPGATE, "run", str(kernel), "--initrd", str(folder / "initrd"), "--append", line, "--net", "user"]


@pytest.mark.linux
@pytest.mark.timeout(900)
@pytest.mark.parametrize("series", ["6.1", "6.12", "backports"])
def test_a_server_on_the_hosts_loopback(series: str, server: http.server.HTTPServer, tmp_path: Path) -> None:
    words = command(series, SCRIPT.format(port=server.server_port), tmp_path)
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "inet 10.0.2.15/24" in done.stdout
    digest = hashlib.md5(DATA).hexdigest()
    assert f"{digest}  /tmp/data" in done.stdout
    assert f"posted {hashlib.md5(base64.encodebytes(DATA)).hexdigest()}" in done.stdout  # busybox posts text alone
    assert done.stderr == ""


@pytest.mark.linux
def test_passt_ends_and_the_link_is_down(tmp_path: Path) -> None:
    words = command("6.12", DOWN, tmp_path)
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said = ""
        while "kill now" not in said:
            said += (line := process.stdout.readline())
            assert line, said
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        (passt,) = [int(one) for one in children if "passt" in Path(f"/proc/{one}/comm").read_text()]
        os.kill(passt, signal.SIGKILL)
        said += process.stdout.read()
        told = process.stderr.read()
        assert process.wait(120) == 0
    assert [line for line in said.splitlines() if line in ("0", "1")] == ["1", "0"], said
    assert told.startswith("trapgate: passt has ended, and the guest's network with it: ")
    assert told.count("\n") == 1


def test_without_passt_it_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "python").symlink_to(sys.executable)
    image = tmp_path / "image"
    image.write_bytes(b"\xf4".ljust(510, b"\0") + b"\x55\xaa")
    done = subprocess.run(
        [TRAPGATE, "run", str(image), "--net", "user"],
        capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
        env={**os.environ, "PATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "install the package passt" in done.stderr
