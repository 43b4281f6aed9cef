"""`trapgate run` with what users really give it: every mistake is one clear line and an exit status, never a traceback."""

import os
import pty
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from system import exec_runs
from system.exec_runs import needs_kernel
from trapgate import guests
from trapgate.stencil import identity
from trapgate.stencil.cache import Cache, default_directory
from trapgate.stencil.library import load_library
from trapgate.stops import STATUS, ExitKind

TRAPGATE = str(Path(sys.executable).with_name("trapgate"))
ELF = guests.DEMO.read_bytes()
HELLO = bytes.fromhex("baf803b021eeebfe")  # mov dx, 3F8h; mov al, '!'; out dx, al; jmp .
TRIPLE_FAULT = bytes.fromhex("0f011e0a7ccc") + bytes(10)  # lidt [7C0Ah]: limit 0; int3


def trapgate(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [TRAPGATE, "run", *arguments], capture_output=True, text=True, timeout=110, check=False,
        stdin=subprocess.DEVNULL, env=os.environ | environment,
    )  # fmt: skip


def refused(done: "subprocess.CompletedProcess[str]", *words: str) -> None:
    """One line, exit status 2, and the words that tell what was wrong."""
    assert done.returncode == 2, done
    assert done.stderr.startswith("trapgate: error: ")
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


def boot_sector(folder: Path, code: bytes) -> str:
    path = folder / "image"
    path.write_bytes(code.ljust(510, b"\0") + b"\x55\xaa")
    return str(path)


def bzimage(setup_sectors: int = 1, protected: int = 4096) -> bytearray:
    """The header of a Linux kernel (Documentation/arch/x86/boot.rst), with nothing sensible to run."""
    image = bytearray((setup_sectors + 1) * 512 + protected)
    image[0x1F1] = setup_sectors
    image[0x1F4:0x1F8] = (protected // 16).to_bytes(4, "little")
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x200:0x202] = b"\xeb\x66"
    image[0x202:0x206] = b"HdrS"
    image[0x206:0x208] = (0x20C).to_bytes(2, "little")
    image[0x211] = 1  # LOADED_HIGH
    image[0x214:0x218] = (0x100000).to_bytes(4, "little")  # code32_start
    image[0x22C:0x230] = (0x7FFFFFFF).to_bytes(4, "little")  # initrd_addr_max
    image[0x230:0x234] = (0x200000).to_bytes(4, "little")  # kernel_alignment
    image[0x234] = 1  # relocatable
    image[0x236:0x238] = (1).to_bytes(2, "little")  # XLF_KERNEL_64
    image[0x238:0x23C] = (255).to_bytes(4, "little")  # cmdline_size
    image[0x258:0x260] = (0x1000000).to_bytes(8, "little")  # pref_address
    image[0x260:0x264] = (0x100000).to_bytes(4, "little")  # init_size
    return image


def test_a_disk_image_that_is_not_raw(tmp_path: Path) -> None:
    (tmp_path / "d.qcow2").write_bytes(b"QFI\xfb\0\0\0\x03".ljust(1 << 16, b"\0"))
    image = boot_sector(tmp_path, HELLO)
    refused(trapgate(image, "--disk", str(tmp_path / "d.qcow2")), "a qcow2 disk image", "qemu-img convert -f qcow2 -O raw")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (bytes(range(256)) * 8, "unknown kind of image"),
        (ELF[:20], "cut short"),
        (ELF[:600], "cut short"),
        (bytes(bzimage()[:1000]), "cut short"),
    ],
    ids=["empty", "unknown", "ELF header", "ELF segments", "kernel"],
)
def test_images_cut_short_or_unknown(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    refused(trapgate(str(path)), word)


def test_an_initrd_larger_than_ram(tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(bzimage())
    with (tmp_path / "initrd").open("wb") as file:
        file.truncate(64 << 20)
    refused(
        trapgate(str(tmp_path / "kernel"), "--initrd", str(tmp_path / "initrd"), "-m", "32M"), "no room for", "give it more memory"
    )


def test_a_missing_initrd(tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(bzimage())
    refused(trapgate(str(tmp_path / "kernel"), "--initrd", str(tmp_path / "nothing")), "nothing does not exist")


def test_a_command_line_longer_than_the_kernel_takes(tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(bzimage())
    refused(trapgate(str(tmp_path / "kernel"), "--append", "x" * 300), "command line", "255")


@pytest.mark.parametrize(
    ("cpu", "word"),
    [
        ("EPYC-Milano", "known: EPYC-Turin, SapphireRapids"),
        ("EPYC-Turin,+nonsense", "unknown CPU feature 'nonsense'"),
        ("EPYC-Turin,+avx512f", "not implemented"),
        ("EPYC-Turin,sse", "+feature or -feature"),
    ],
)
def test_cpus_that_there_are_not(cpu: str, word: str) -> None:
    refused(trapgate(str(guests.DEMO), "--cpu", cpu), word)


@pytest.mark.parametrize("memory", ["0", "-1", "lots", "9999999T"])
def test_memory_that_cannot_be(memory: str) -> None:
    done = trapgate(str(guests.DEMO), "--memory", memory)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "memory" in done.stderr.lower()


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(trapgate(str(guests.DEMO), "--gdb", f"127.0.0.1:{port}"), str(port), "in use")


def test_a_serial_file_that_cannot_be_made(tmp_path: Path) -> None:
    refused(trapgate(str(guests.DEMO), "--serial", f"file:{tmp_path}/no/such/file"), "no/such/file")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 64 KiB; only root can mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", str(place)]
    if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here: that takes root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_under_the_cache(tiny_disk: Path) -> None:
    """The guest runs all the same; a note says that nothing could be kept."""
    done = trapgate(str(guests.DEMO), TRAPGATE_CACHE=str(tiny_disk / "cache"))
    assert done.returncode == 1, done.stderr
    assert "0 wrong" in done.stdout
    assert "could not be written: No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path for path in tiny_disk.rglob("*") if path.is_file() and path.stat().st_size > 1 << 16] == []


def test_a_read_only_cache_with_a_damaged_file(tiny_disk: Path) -> None:
    """It cannot be removed, so each start says so; the guest runs."""
    key = f"stencils-{identity.digest(identity.STENCILS)}"
    load_library(Cache())  # so that there is one to copy
    subprocess.run(["mount", "-o", "remount,size=8m", str(tiny_disk)], check=True)
    shutil.copy(default_directory() / key, tiny_disk / key)
    loops = tiny_disk / f"loops-{identity.digest(identity.BLOCKS)}"
    loops.write_bytes(bytes(100))
    loops.chmod(0o600)
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    for _ in range(2):
        done = trapgate(str(guests.DEMO), TRAPGATE_CACHE=str(tiny_disk))
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert "is damaged, and cannot be removed: Read-only file system; it is built again at each start" in done.stderr
        assert "0 wrong" in done.stdout
    assert loops.exists()


def test_a_host_that_gives_no_memory_for_code() -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))  # a memfd counts as a file
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    done = subprocess.run(
        [TRAPGATE, "run", str(guests.DEMO)], capture_output=True, text=True, timeout=100, check=False,
        stdin=subprocess.DEVNULL, preexec_fn=small_files,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith("trapgate: error: the host refused executable memory")


def test_a_damaged_cache_file_is_built_again(private_caches: Path) -> None:
    assert trapgate(str(guests.DEMO)).returncode == 1
    files = sorted(path for path in private_caches.rglob("stencils*") if path.is_file())
    assert files
    for path in files:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0x10
        path.write_bytes(data)
    done = trapgate(str(guests.DEMO))
    assert done.returncode == 1
    assert "0 wrong" in done.stdout
    assert "damaged; it is built again" in done.stderr
    assert trapgate(str(guests.DEMO)).stderr == ""


def test_a_triple_fault_shows_the_cpu_and_its_last_exceptions(tmp_path: Path) -> None:
    done = trapgate(boot_sector(tmp_path, TRIPLE_FAULT))
    assert done.returncode == STATUS[ExitKind.SHUTDOWN]
    for word in ("exception #", "#DF", "RIP=", "CR0=", "IDT base"):
        assert word in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("key", "status"), [(b"\x01x", 0), (None, 128 + signal.SIGTERM)], ids=["Ctrl-A x", "SIGTERM"])
def test_the_terminal_is_sane_afterwards(tmp_path: Path, key: bytes | None, status: int) -> None:
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    become = "import os, fcntl, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    become += f"os.execv({TRAPGATE!r}, {[TRAPGATE, 'run', boot_sector(tmp_path, HELLO)]!r})"
    with subprocess.Popen([sys.executable, "-c", become], stdin=slave, stdout=slave, stderr=subprocess.PIPE) as process:
        ready, _, _ = select.select([master], [], [], 60)
        assert ready
        end = time.monotonic() + 60
        seen = b""
        while b"!" not in seen:
            assert time.monotonic() < end
            seen += os.read(master, 100)
        assert termios.tcgetattr(slave) != before
        os.write(master, b"\x03")  # Ctrl-C belongs to the guest
        time.sleep(0.2)
        assert process.poll() is None
        if key is not None:
            os.write(master, key)
        else:
            process.terminate()
        assert process.wait(20) == status
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def test_too_little_memory_for_a_program_names_the_kernel() -> None:
    needs_kernel()
    done = exec_runs.guest("true", options=["-m", "16M"])
    assert done.status == 2
    assert re.fullmatch(
        rb"trapgate: error: no room for kernel vmlinuz-\S+ \(.*\) in the guest's 16 MiB: give it more memory\n", done.err
    )
