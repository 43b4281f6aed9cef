"""Linux guests for tests and measurements: Debian's cloud kernels and a small initramfs, in build/guests/ (`make linux-guests`).

Nothing is installed and root is not needed. `kernel` and `initramfs` return paths and make the files when they are not there;
tests that must not download ask `cached_kernel` instead.
"""

import gzip
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from tools.guests import cpio
from tools.guests.packages import GuestError, Report, extract, fetch, need, resolve

HERE = Path(__file__).resolve().parent / "guests"
CACHE = Path(__file__).resolve().parent.parent / "build" / "guests"
KERNELS = {"6.1": "linux-image-cloud-amd64", "6.12": "linux-image-6.12-cloud-amd64"}
PROGRAMS = ("splitlock",)
READY = "trapgate: init reached"  # the line by which a measurement knows that user space runs
COMPILER_OPTIONS = (
    *("-O1", "-g", "-Wall", "-Werror", "-ffreestanding", "-fno-stack-protector", "-fno-pie"),
    *("-static", "-nostdlib", "-no-pie", "-Wl,--build-id=none"),
)
CONSOLE = "console=ttyS0 panic=-1"


def _silent(so_far: int, whole: int) -> None:
    """Report to nobody."""


def cached_kernel(series: str, folder: Path = CACHE) -> Path | None:
    """The bzImage of a series (a key of KERNELS), or None when it was not made yet."""
    path = folder / f"vmlinuz-{series}"
    return path if path.is_file() else None


def kernel(series: str, folder: Path = CACHE, report: Report = _silent) -> Path:
    """The bzImage of a series, downloaded when it is not there. GuestError when that cannot be."""
    if (path := cached_kernel(series, folder)) is not None:
        return path
    if series not in KERNELS:
        raise GuestError(f"no kernel series {series!r}: there are {', '.join(KERNELS)}")
    need("apt-get", "apt-cache", "dpkg-deb")
    package = resolve(KERNELS[series], r"linux-image-\d.*-cloud-amd64")
    archive = fetch(package, folder / "packages", report)
    return _keep(folder / f"vmlinuz-{series}", extract(archive, r"boot/vmlinuz-.*"))


def initramfs(folder: Path = CACHE, report: Report = _silent) -> Path:
    """The initramfs of the recipe as it is now; busybox is downloaded when it is not there. GuestError when that cannot be."""
    need("gcc")
    busybox = folder / "busybox"
    if not busybox.is_file():
        need("apt-get", "apt-cache", "dpkg-deb")
        archive = fetch("busybox-static", folder / "packages", report)
        _keep(busybox, extract(archive, r"(usr/)?bin/busybox"), 0o755)
    image = gzip.compress(cpio.archive(members(busybox, {name: compiled(name, folder) for name in PROGRAMS})), mtime=0)
    path = folder / "initramfs.cpio.gz"
    return path if path.is_file() and path.read_bytes() == image else _keep(path, image)


def members(busybox: Path, programs: dict[str, bytes]) -> list[cpio.Node]:
    """What the initramfs holds: /init, busybox under each of its names, our programs, and a console before /dev is mounted."""
    applets = subprocess.run([str(busybox), "--list"], capture_output=True, text=True, check=True).stdout.split()
    return [
        *(cpio.directory(name) for name in ("bin", "dev", "proc", "sys", "tmp", "root")),
        cpio.character_device("dev/console", 5, 1),
        cpio.program("init", (HERE / "init.sh").read_bytes()),
        cpio.program("bin/busybox", busybox.read_bytes()),
        *(cpio.link(f"bin/{name}", "busybox") for name in sorted(applets) if name not in ("busybox", *programs)),
        *(cpio.program(f"bin/{name}", data) for name, data in sorted(programs.items())),
    ]


def compiled(name: str, folder: Path = CACHE) -> bytes:
    """The static program built from guests/programs/NAME.c; its file with symbols stays in the cache for the debugger."""
    folder.mkdir(parents=True, exist_ok=True)
    source = HERE / "programs" / f"{name}.c"
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / name
        command = ["gcc", *COMPILER_OPTIONS, f"-ffile-prefix-map={HERE}=.", "-o", str(made), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise GuestError(f"gcc could not build {name}: {(done.stderr.strip().splitlines() or ['no message'])[0]}")
        data = made.read_bytes()
    _keep(folder / name, data, 0o755)
    return data


def _keep(path: Path, data: bytes, mode: int = 0o644) -> Path:
    """Store a file in one step, so that a run cut short leaves no half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as scratch:
        scratch.write(data)
        os.fchmod(scratch.fileno(), mode)
    os.replace(scratch.name, path)
    return path


def _make(progress: Progress, title: str, maker: Callable[..., Path]) -> None:
    """Run a maker under a progress bar of its own."""
    task = progress.add_task(title, total=None)
    path = maker(report=lambda so_far, whole: progress.update(task, completed=so_far, total=whole or None))
    progress.update(task, completed=path.stat().st_size, total=path.stat().st_size)


@click.command()
@click.option("--series", multiple=True, type=click.Choice(list(KERNELS)), help="Kernel series to make (default: all).")
def main(series: tuple[str, ...]) -> None:
    """Make the Linux guests: kernels and initramfs, in build/guests/."""
    console = Console()
    columns = (TextColumn("{task.description:<12}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    try:
        with Progress(*columns, console=console) as progress:
            for name in series or tuple(KERNELS):
                _make(progress, f"kernel {name}", partial(kernel, name))
            _make(progress, "initramfs", initramfs)
    except (GuestError, OSError) as error:
        console.print(f"[red]linux guests:[/red] {error}", soft_wrap=True, markup=True)
        sys.exit(1)
    console.print(f"kernels and initramfs are in {CACHE}", soft_wrap=True)


if __name__ == "__main__":
    main()
