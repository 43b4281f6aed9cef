"""The QEMU whose TCG is the hardware: the installed one if it is new enough, else Debian's, unpacked in build/nested.

Before 9.1 VMRUN loads DR7 without arming the breakpoints that it enables, so no debugger's breakpoint is ever hit in the guest.
"""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tools.guests.needs import need
from tools.guests.sources import GuestError, Source, output_of

NAME = "qemu-system-x86_64"
PACKAGE = "qemu-system-x86"
LEAST = (9, 1)
SOURCE = Source("trixie")
LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/pulseaudio")
DATA = ("usr/share/qemu", "usr/share/seabios")


def version(command: Sequence[str]) -> tuple[int, ...]:
    """What `--version` says; GuestError when it says none."""
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    found = re.search(r"version (\d+)\.(\d+)\.(\d+)", done.stdout)
    if found is None:
        raise GuestError(f"{command[0]} --version tells no version: {(done.stderr or done.stdout).strip()[:200]}")
    return tuple(map(int, found.groups()))


def qemu(folder: Path, lists: Path) -> list[str]:
    """The command, to which QEMU's options are added. `folder`: where one is unpacked; `lists`: apt's. GuestError."""
    installed = shutil.which(NAME)
    if installed is not None and version([installed]) >= LEAST:
        return [installed]
    return unpacked(folder, lists)


def unpacked(folder: Path, lists: Path) -> list[str]:
    """Debian's QEMU with its libraries and loader, so that it runs on whatever this host is."""
    root = folder / f"qemu-{SOURCE.suite}"
    if not root.is_dir():
        need("apt-get", "dpkg-deb")
        packages, half = folder / "packages", folder / "qemu-half"
        (packages / "partial").mkdir(parents=True, exist_ok=True)
        words = ("-o", f"Dir::Cache::archives={packages}", "-o", "Debug::NoLocking=1", "--download-only", "--no-install-recommends")
        output_of("apt-get", "install", "-qq", "-y", *SOURCE.options(lists), *words, PACKAGE)
        shutil.rmtree(half, ignore_errors=True)
        for package in sorted(packages.glob("*.deb")):
            output_of("dpkg-deb", "-x", str(package), str(half))
        half.rename(root)
    loader = next(root.glob("usr/lib*/**/ld-linux-x86-64.so.2"), None)
    if loader is None or not (root / "usr/bin" / NAME).is_file():
        raise GuestError(f"{root} holds no whole QEMU: delete it and try again")
    libraries = ":".join(str(root / name) for name in LIBRARIES)
    data = [word for name in DATA for word in ("-L", str(root / name))]
    return [str(loader), "--library-path", libraries, str(root / "usr/bin" / NAME), *data]
