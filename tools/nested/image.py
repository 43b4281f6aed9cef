"""What the nested machine boots: a Debian kernel and its kvm_amd, Python, trapgate with its tests; kept in build/nested."""

import hashlib
import json
import lzma
import shutil
import stat
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tools import linux_guest
from tools.guests.needs import need
from tools.guests.packages import Report, extract, keep, silent
from tools.guests.recipes import KERNELS, MODULE_PACKAGES
from tools.nested.host_files import Files, python, python_of_gdb
from trapgate.boot import cpio
from trapgate.stencil.cache import Cache
from trapgate.stencil.library import key, load_library

PLACE = Path(__file__).resolve().parents[2]
FOLDER = PLACE / "build" / "nested"
MODULES = ("irqbypass", "kvm", "kvm-amd")
PROGRAMS = ("as", "ld", "objcopy")  # what tests make guests with; gdb besides, where there is one
SOURCES = ("src", "tests", "tools")  # of this checkout
XZ = b"\xfd7zXZ"


@dataclass(frozen=True, slots=True)
class Job:
    """What the machine is to run: a command in the checkout's directory, and for how many seconds at most."""

    name: str
    words: tuple[str, ...]
    seconds: int


def image(
    series: str, jobs: Sequence[Job], extra: Sequence[cpio.Node] = (), name: str = "initrd", report: Report = silent
) -> tuple[Path, Path]:
    """A kernel of `KERNELS`, and the initial RAM disk that runs the jobs. GuestError when they cannot be had."""
    kernel, modules = _kernel(series, report)
    initrd = FOLDER / f"{name}.cpio"
    keep(initrd, _system().read_bytes() + cpio.archive([*modules, *extra]) + _checkout(jobs))
    return kernel, initrd


def linux_guest_nodes(series: str = "6.1") -> list[cpio.Node]:
    """A kernel and an initial RAM disk, where tests look for them in the checkout. GuestError when they cannot be had."""
    files = Files()
    for path in (linux_guest.kernel(series), linux_guest.initramfs()):
        files.copy(path)
    return files.nodes()


def _kernel(series: str, report: Report) -> tuple[Path, list[cpio.Node]]:
    """A kernel and its modules for KVM."""
    kernel = linux_guest.kernel(series, report=report)
    kept = {name: FOLDER / f"modules-{series}" / f"{name}.ko" for name in MODULES}
    if not all(path.is_file() for path in kept.values()):
        package = linux_guest.package(MODULE_PACKAGES.get(series, KERNELS[series]), report=report)
        for name, path in kept.items():
            data = extract(package, rf".*/{name}\.ko(\.xz)?")
            keep(path, lzma.decompress(data) if data.startswith(XZ) else data)
    return kernel, [cpio.file(f"nested/{path.name}", path.read_bytes()) for path in kept.values()]


def _system() -> Path:
    """The archive of all that seldom changes: this host's Python with its packages, programs, gdb, busybox."""
    need(*PROGRAMS)
    debugger = shutil.which("gdb")
    programs = [Path(found) for name in (*PROGRAMS, "gdb") if (found := shutil.which(name))]
    path = FOLDER / f"system-{_identity(programs)}.cpio"
    if path.is_file():
        return path
    for old in FOLDER.glob("system-*.cpio"):
        old.unlink()
    files = Files()
    python(files)
    if debugger is not None:
        python_of_gdb(files, debugger)
    files.programs(programs)
    for name in ("dev", "proc", "sys", "tmp", "root", "nested"):
        files.put(cpio.directory(name))
    files.put(cpio.character_device("dev/console", 5, 1))
    files.put(cpio.link("bin", "usr/bin"))
    files.put(cpio.program("usr/bin/busybox", linux_guest.busybox().read_bytes()))
    return keep(path, cpio.archive(files.nodes()))


def _identity(programs: Sequence[Path]) -> str:
    """Changes whenever that archive would: with Python, a package of its environment, a program, or what chooses the files."""
    packages = sorted(path.name for path in Path(sysconfig.get_path("purelib")).glob("*.dist-info"))
    made_by = [(PLACE / "tools/nested/host_files.py").read_text()]
    others = [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in (Path(sys.executable).resolve(), *programs)]
    return hashlib.sha256("\n".join((sys.version, sys.prefix, *packages, *others, *made_by)).encode()).hexdigest()[:16]


def _checkout(jobs: Sequence[Job]) -> bytes:
    """The archive of what may change each time: this checkout, its stencils, and the jobs."""
    files, cache = Files(), Cache()
    for name in SOURCES:
        files.tree(PLACE / name)
    files.copy(PLACE / "pyproject.toml")
    load_library(cache)
    files.put(cpio.Node("root/cache", stat.S_IFDIR | 0o700))
    stencils = (cache.directory / key()).read_bytes()  # with the cache's own digest around them
    files.put(cpio.Node(f"root/cache/{key()}", stat.S_IFREG | 0o600, stencils))
    files.put(cpio.program("init", (PLACE / "tools/nested/init.sh").read_bytes()))
    files.put(cpio.file("nested/place", str(PLACE).encode()))
    files.put(cpio.file("nested/jobs.json", json.dumps([asdict(job) for job in jobs]).encode()))
    return cpio.archive(files.nodes())
