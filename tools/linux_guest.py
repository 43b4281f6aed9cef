"""Guests for tests and measurements: Debian's kernels, other images, user spaces, in build/guests/ (`make linux-guests`).

Nothing is installed and root is not needed. `kernel` and `initramfs` return paths and make the files when they are not there;
tests that must not download ask `cached_kernel` or `cached` instead.
"""

import gzip
import lzma
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from tools.guests import grub, rootfs
from tools.guests.needs import APT, COMPILER, ROOT_FILE_SYSTEM, lacking, need
from tools.guests.packages import Report, extract, fetch, keep, silent
from tools.guests.recipes import KERNELS, MODULE_PACKAGES, OTHERS, STABLE_32, Recipe
from tools.guests.sources import GuestError, dependency
from trapgate.boot import cpio

HERE = Path(__file__).resolve().parent / "guests"
CACHE = Path(__file__).resolve().parent.parent / "build" / "guests"
PROGRAMS = ("splitlock",)
READY = "trapgate: init reached"  # the line by which a measurement knows that user space runs
COMPILER_OPTIONS = (
    *("-O1", "-g", "-Wall", "-Werror", "-ffreestanding", "-fno-stack-protector", "-fno-pie"),
    *("-static", "-nostdlib", "-no-pie", "-Wl,--build-id=none"),
)
WORD_SIZE = {"amd64": ("-m64",), "i386": ("-m32", "-fno-pic")}
INITIAL_RAM_DISKS = {"amd64": "initramfs", "i386": "initramfs-i386"}  # by architecture, as a user calls them
SUFFIXES = {"amd64": "", "i386": "-i386"}  # of file names, by architecture
GZIP, XZ = b"\x1f\x8b", b"\xfd7zXZ"
CONSOLE = "console=ttyS0 panic=-1"


def cached_kernel(series: str, folder: Path = CACHE) -> Path | None:
    """The bzImage of a series (a key of KERNELS), or None when it was not made yet."""
    return cached(f"vmlinuz-{series}", folder)


def cached(name: str, folder: Path = CACHE) -> Path | None:
    """A file of the guests by its name, or None when it was not made yet."""
    path = folder / name
    return path if path.is_file() else None


def kernel(series: str, folder: Path = CACHE, report: Report = silent) -> Path:
    """The bzImage of a series, downloaded when it is not there. GuestError when that cannot be."""
    if (path := cached_kernel(series, folder)) is not None:
        return path
    if series not in KERNELS:
        raise GuestError(f"no kernel series {series!r}: there are {', '.join(KERNELS)}")
    return keep(folder / f"vmlinuz-{series}", _from_package(KERNELS[series], folder, report))


def image(name: str, folder: Path = CACHE, report: Report = silent) -> Path:
    """A guest that is not one of the kernels (a key of OTHERS), unpacked. GuestError when it cannot be had."""
    if (path := cached(name, folder)) is not None:
        return path
    data = _from_package(OTHERS[name], folder, report)
    return keep(folder / name, gzip.decompress(data) if data.startswith(GZIP) else data)


def package(recipe: Recipe, folder: Path = CACHE, report: Report = silent) -> Path:
    """The package with the file that a recipe names, downloaded when it is not there. GuestError when that cannot be."""
    need(*APT)
    options = recipe.source.options(folder / "apt") if recipe.source else ()
    name = recipe.package
    for wanted in recipe.follow:
        name = dependency(name, wanted, options)
    return fetch(name, folder / "packages", report, options)


def _from_package(recipe: Recipe, folder: Path, report: Report) -> bytes:
    """The file that a recipe names."""
    return extract(package(recipe, folder, report), recipe.file)


def initramfs(folder: Path = CACHE, report: Report = silent, architecture: str = "amd64") -> Path:
    """The initramfs of the recipe as it is now; busybox is downloaded when it is not there. GuestError when that cannot be."""
    need(*COMPILER)
    suffix = SUFFIXES[architecture]
    programs = {name: compiled(name, folder, architecture) for name in PROGRAMS}
    image = gzip.compress(cpio.archive(members(busybox(folder, report, architecture), programs)), mtime=0)
    path = folder / f"initramfs{suffix}.cpio.gz"
    return path if path.is_file() and path.read_bytes() == image else keep(path, image)


def with_drivers(series: str, script: bytes, modules: Sequence[str], folder: Path = CACHE) -> bytes:
    """The initramfs with modules of a kernel series and a script in front: `trapgate.run=sh,/m/test.sh` runs it. GuestError.

    The script finds the modules loaded, in this order, those that are not built into the kernel.
    """
    kernels = package(MODULE_PACKAGES.get(series, KERNELS[series]), folder)
    load = "".join(f"test ! -f /m/{name}.ko || insmod /m/{name}.ko\n" for name in modules)
    nodes = [cpio.directory("m"), cpio.file("m/test.sh", load.encode() + script)]
    for name in modules:
        with suppress(GuestError):
            data = extract(kernels, rf".*/{name}\.ko(\.xz)?")
            nodes.append(cpio.file(f"m/{name}.ko", lzma.decompress(data) if data.startswith(XZ) else data))
    return cpio.archive(nodes) + initramfs(folder).read_bytes()


def busybox(folder: Path = CACHE, report: Report = silent, architecture: str = "amd64") -> Path:
    """Debian's busybox-static, downloaded when it is not there. GuestError when that cannot be."""
    path = folder / f"busybox{SUFFIXES[architecture]}"
    if path.is_file():
        return path
    recipe = Recipe("busybox-static", (), r"(usr/)?bin/busybox", STABLE_32 if architecture == "i386" else None)
    return keep(path, _from_package(recipe, folder, report), 0o755)


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


def compiled(name: str, folder: Path = CACHE, architecture: str = "amd64") -> bytes:
    """The static program built from guests/programs/NAME.c; its file with symbols stays in the cache for the debugger."""
    folder.mkdir(parents=True, exist_ok=True)
    source = HERE / "programs" / f"{name}.c"
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / name
        command = ["gcc", *COMPILER_OPTIONS, *WORD_SIZE[architecture], f"-ffile-prefix-map={HERE}=.", "-o", str(made), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise GuestError(f"gcc could not build {name}: {(done.stderr.strip().splitlines() or ['no message'])[0]}")
        data = made.read_bytes()
    keep(folder / f"{name}{SUFFIXES[architecture]}", data, 0o755)
    return data


def made(name: str) -> bool:
    """Whether a guest is there and nothing need be downloaded for it."""
    file = f"vmlinuz-{name}" if name in KERNELS else {"initramfs": "busybox", "initramfs-i386": "busybox-i386"}.get(name, name)
    return cached(file) is not None


def lacking_for(names: Iterable[str]) -> tuple[str, ...]:
    """The programs of the host that making these guests still needs and that are not installed."""
    needed: list[str] = []
    for name in names:
        if not made(name):
            needed += ROOT_FILE_SYSTEM if name == rootfs.NAME else APT
        if name in INITIAL_RAM_DISKS.values():
            needed += COMPILER
    return lacking(needed)


def files(names: Iterable[str]) -> dict[str, Path]:
    """Guests by name, made when they are not there. GuestError when one cannot be had."""
    every = makers()
    return {name: every[name]() for name in names}


def makers() -> dict[str, Callable[..., Path]]:
    """Everything that can be made, by what the user calls it."""
    return {
        **{name: partial(kernel, name) for name in KERNELS},
        **{name: partial(image, name) for name in OTHERS},
        "initramfs": initramfs,
        "initramfs-i386": partial(initramfs, architecture="i386"),
        grub.NAME: partial(grub.make, CACHE),
        rootfs.NAME: partial(rootfs.make, CACHE),
    }


@click.command()
@click.option("--only", "names", multiple=True, type=click.Choice(list(makers())), help="What to make (default: all).")
def main(names: tuple[str, ...]) -> None:
    """Make the guests of the tests in build/guests/: kernels, other images, user spaces."""
    console = Console()
    columns = (TextColumn("{task.description:<20}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    failed = {}
    with Progress(*columns, console=console) as progress:
        for name, maker in makers().items():
            if names and name not in names:
                continue
            task = progress.add_task(name, total=None)
            try:
                path = maker(report=partial(_move, progress, task))
            except (GuestError, OSError) as error:
                failed[name] = error
                progress.update(task, description=f"{name}: failed", total=0)
                continue
            progress.update(task, completed=path.stat().st_size, total=path.stat().st_size)
    for name, reason in failed.items():
        console.print(f"{name}: {reason}", style="red", markup=False, soft_wrap=True)
    if failed:
        sys.exit(1)
    console.print(f"the guests are in {CACHE}", soft_wrap=True)


def _move(progress: Progress, task: TaskID, so_far: int, whole: int) -> None:
    """Move a bar to what has arrived; without an end when that is not known."""
    progress.update(task, completed=so_far, total=whole or None)


if __name__ == "__main__":
    main()
