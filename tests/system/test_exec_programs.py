"""Programs that people have, run natively and in the guest of `trapgate exec`: the same output, exit status and files."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from system.exec_runs import TRAPGATE, Ended, guest, needs_kernel, ran, same
from trapgate.exec import source
from trapgate.stencil.cache import Cache

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]
ROOT = Path(__file__).resolve().parents[2]
STOPPING = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
HARMLESS = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
KILLING = sorted(set(range(1, 32)) - STOPPING - HARMLESS)
I386 = """
.globl _start
_start:
    mov $4, %eax
    mov $1, %ebx
    mov $text, %ecx
    mov $5, %edx
    int $0x80
    mov $1, %eax
    mov $7, %ebx
    int $0x80
text: .ascii "i386\\n"
"""
SQUARE_ROOT = """
#include <stdio.h>
#include <math.h>
int main(void) { printf("%f\\n", sqrt(2)); return 9; }
"""
COMMANDS = {
    "python3": [sys.executable, "-c", "import json, zlib; print(zlib.crc32(json.dumps([*range(20000)]).encode()))"],
    "perl": ["perl", "-e", 'my %h; $h{$_ % 97} += $_ for 1..100000; print join(",", map {"$_=$h{$_}"} sort keys %h); exit 3'],
    "sqlite3": [
        *("sqlite3", ":memory:"),
        "with recursive c(x) as (select 1 union all select x + 1 from c where x < 20000) select sum(x * x), count(*) from c;",
    ],
    "openssl": ["openssl", "dgst", "-sha256", "/bin/bash"],
    "find": ["find", "/usr/lib", "-type", "f", "-size", "+100k"],
    "awk": ["awk", "BEGIN { for (n = 1; n < 200000; n++) s += sqrt(n); printf \"%.6f\\n\", s }"],
    "bash": ["bash", "-c", "for n in {1..200}; do (exit $((n % 3))); s=$s$?; done; echo $s; diff <(seq 5) <(seq 6)"],
    "tar": ["sh", "-c", "tar cf - -C / etc/apt | tar tvf - | sort"],
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def booted() -> None:
    needs_kernel()


@pytest.mark.parametrize("name", COMMANDS)
def test_programs(name: str) -> None:
    if shutil.which(COMMANDS[name][0]) is None:
        pytest.skip(f"{COMMANDS[name][0]} is not installed")
    same(*COMMANDS[name])


def test_ls_of_everything_installed() -> None:
    found = same("ls", "-lR", "/usr/bin", "/usr/include", "/usr/share/doc")
    assert found.out.count(b"\n") > 1000


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_gcc_makes_the_same_program(tmp_path: Path) -> None:
    (tmp_path / "one.c").write_text(
        '#include <stdio.h>\n#include <math.h>\nint main(void) { printf("%f\\n", sqrt(2)); return 9; }\n'
    )
    script = "gcc -O2 -g one.c -o one -lm && ./one; r=$?; sha256sum < one; exit $r"
    found = same("sh", "-c", script, cwd=tmp_path)
    assert found.status == 9
    (tmp_path / "one").unlink()
    (tmp_path / "made").mkdir()
    assert guest("gcc", "one.c", "-o", "made/one", "-lm", cwd=tmp_path, options=["--write", "made"]).status == 0
    assert ran([str(tmp_path / "made/one")]).status == 9


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_a_32_bit_program(tmp_path: Path) -> None:
    (tmp_path / "one.S").write_text(I386)
    subprocess.run(["gcc", "-m32", "-nostdlib", "-static", "-no-pie", "-o", "one", "one.S"], cwd=tmp_path, check=True)
    assert same(str(tmp_path / "one")) == Ended(b"i386\n", b"", 7)


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_clones(tmp_path: Path) -> None:
    """Objects are linked to: files and their links are one below the layer in memory as well."""
    origin = tmp_path / "origin"
    script = "git init -q . && git add . && git -c user.name=a -c user.email=b commit -qm one && git clone -q . ../again"
    shutil.copytree(ROOT / "docs", origin)
    subprocess.run(["sh", "-c", script], cwd=origin, check=True)
    script = "git clone -q origin new && cd new && git log --format=%H && git status --short && ls -A && git fsck"
    assert b"index.md" in same("sh", "-c", f"{script}; cd ..; rm -rf new", cwd=tmp_path).out


@pytest.mark.parametrize("number", KILLING)
def test_killed_by_each_signal(number: int) -> None:
    status = 128 + number if number == signal.SIGSYS else -number  # SIGSYS is the sandbox's: we cannot be killed by it
    assert guest("sh", "-c", f"ulimit -c 0; kill -{number} $$; echo lived") == Ended(b"", b"", status)


def test_a_gigabyte_of_input() -> None:
    """Far more than the guest has memory for."""
    piece = hashlib.sha256(b"piece").digest() * (1 << 15)
    total = hashlib.sha256()
    with subprocess.Popen([TRAPGATE, "exec", "-m", "256M", "sha256sum"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as found:
        assert found.stdin is not None
        assert found.stdout is not None
        for _ in range(1024):
            total.update(piece)
            found.stdin.write(piece)
        found.stdin.close()
        assert found.stdout.read().split()[0].decode() == total.hexdigest()
    assert found.returncode == 0


def test_much_output_to_a_slow_reader() -> None:
    with subprocess.Popen([TRAPGATE, "exec", "sh", "-c", "yes | head -c 100000000"], stdout=subprocess.PIPE) as found:
        assert found.stdout is not None
        count = 0
        while piece := os.read(found.stdout.fileno(), 1 << 20):
            count += len(piece)
        assert count == 100_000_000
    assert found.returncode == 0


def test_a_kernel_without_the_modules_fails(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(source.find(None, Cache(), lambda what, done, whole: None).get().image)
    found = guest("true", options=["--kernel", str(tmp_path / "vmlinuz")])
    assert found.status == 3
    assert b"trapgate init: the console's ports are not there" in found.err
    assert found.err.count(b"\n") == 1


def test_two_cpus() -> None:
    assert guest("sh", "-c", "nproc; seq 100000 | md5sum & wait", options=["--cpus", "2"]).out.startswith(b"2\n")
