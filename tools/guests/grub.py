"""GRUB as a kernel, and on disks: its core image with a script of ours, made by its own grub-mkimage, out of Debian's packages."""

import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools.guests.needs import APT, need
from tools.guests.packages import Report, fetch, keep, silent, unpack
from tools.guests.sources import GuestError

NAME = "grub.img"
PACKAGES = ("grub-common", "grub-pc-bin")
MODULES = ("serial", "terminal", "echo", "lsmmap", "halt", "normal")
SCRIPT = """serial --unit=0 --speed=115200
terminal_output serial
echo hello from grub
lsmmap
halt
"""


DISK_MODULES = ("biosdisk", "part_msdos", "ext2", "serial", "terminal", "echo", "linux", "boot", "normal")
DISK_SCRIPT = """serial --unit=0 --speed=115200
terminal_output serial
echo grub starts linux
linux (hd0,msdos1)/vmlinuz {line}
initrd (hd0,msdos1)/initrd
boot
"""
SECTOR, TABLE, SIGNATURE = 512, 446, 510  # bytes of a sector; where its partition table and its signature lie
FIRST = 1 << 20  # byte of a disk at which its partition begins: GRUB's core image lies before
LINUX = 0x83  # kind of partition
MIB = 1 << 20


def make(folder: Path, report: Report = silent) -> Path:
    """The image, a multiboot one, made when it is not there. GuestError."""
    path = folder / NAME
    if path.is_file():
        return path
    with unpacked(folder, report) as place:
        return keep(path, core(place, SCRIPT, MODULES))


@contextmanager
def unpacked(folder: Path, report: Report = silent) -> Iterator[Path]:
    """Debian's packages of GRUB, in a folder that is there as long as this is. GuestError."""
    need(*APT)
    archives = [fetch(name, folder / "packages", report) for name in PACKAGES]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for archive in archives:
            unpack(archive, Path(scratch))
        yield Path(scratch)


def core(place: Path, script: str, modules: Sequence[str], form: str = "i386-pc") -> bytes:
    """GRUB with modules and a script that it begins with, out of its unpacked packages. GuestError."""
    (place / "script").write_text(script)
    parts = ("-d", str(place / "usr/lib/grub/i386-pc"), "-c", str(place / "script"))
    _run(str(place / "usr/bin/grub-mkimage"), "-O", form, "-p", "/", *parts, "-o", str(place / NAME), *modules)
    return (place / NAME).read_bytes()


def disk(path: Path, folder: Path, kernel: Path, initrd: Path, line: str) -> Path:
    """A disk of one partition with a kernel on it, which GRUB starts with a command line. GuestError.

    Without root: the boot sector and the core image, which looks for its rest in the second sector, go where grub-install would
    have put them.
    """
    need("mke2fs")
    with unpacked(folder) as place:
        boot = bytearray((place / "usr/lib/grub/i386-pc/boot.img").read_bytes())
        image = core(place, DISK_SCRIPT.replace("{line}", line), DISK_MODULES)
        files = place / "files"
        files.mkdir()
        (files / "vmlinuz").write_bytes(kernel.read_bytes())
        (files / "initrd").write_bytes(initrd.read_bytes())
        size = (sum(one.stat().st_size for one in files.iterdir()) * 5 // 4 + 4 * MIB) // MIB * MIB
        entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", LINUX, b"\xfe\xff\xff", FIRST // SECTOR, size // SECTOR)
        boot[TABLE:SIGNATURE] = entry.ljust(SIGNATURE - TABLE, b"\0")
        boot[SIGNATURE:] = b"\x55\xaa"
        assert SECTOR + len(image) <= FIRST, "GRUB's core image does not fit before the partition"
        path.write_bytes(bytes(boot) + image)
        os.truncate(path, FIRST + size)
        _run("mke2fs", "-q", "-t", "ext2", "-d", str(files), "-E", f"offset={FIRST}", str(path), f"{size // 1024}k")
    return path


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise GuestError(f"{Path(command[0]).name} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
