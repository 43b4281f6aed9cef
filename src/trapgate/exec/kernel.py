"""Reads a kernel and the modules that the guest needs with it, out of a bzImage or a package of Debian's."""

import lzma
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from trapgate.boot.image import Image, ImageError
from trapgate.boot.linux import is_linux
from trapgate.exec import deb
from trapgate.exec.errors import ExecError
from trapgate.values import dataclass

SERIES = "6.12"
"""Of Debian's kernels: the one that the guest takes."""
DRIVERS = ("virtio_mmio", "virtio_console", "fuse", "virtiofs", "overlay", "virtio_net")
"""What the guest takes. Those of which there is no file are built in, or there is no such kernel to be had."""
_IMAGE = re.compile(r"boot/vmlinuz-.*|usr/lib/modules/[^/]*/vmlinuz")
_MODULE = re.compile(r"(?:usr/)?lib/modules/[^/]*/kernel/.*?([^/]+)\.ko(?:\.xz)?")
_VERSION_AT, _SECTOR = 0x20E, 0x200  # setup header: where the version's text lies, less a sector
_DEPENDS = re.compile(rb"(?:^|\0)depends=([^\0]*)\0")  # in a module's .modinfo
XZ = b"\xfd7zXZ\0"
Progress = Callable[[str, int, int], None]
"""Hears what is done, and how far it is: so many of so many bytes, 0 where that is not known."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A bzImage, its release as uname has it, and its modules in the order in which they are to be loaded."""

    image: bytes
    release: str
    modules: tuple[tuple[str, bytes], ...]


def of_file(path: Path) -> Kernel:
    """The kernel in a file that the user names: a package, or a bzImage, with its modules from where it is installed. ExecError."""
    try:
        if deb.is_package(path):
            return of_package(path)
        data = path.read_bytes()
    except OSError as error:
        raise ExecError(f"--kernel {path} cannot be read: {error.strerror}") from error
    release = release_of(Image(data, str(path)))
    return Kernel(data, release, ordered(_installed(path, release)))


def _installed(path: Path, release: str) -> dict[str, bytes]:
    """The drivers' modules of a kernel, and all that they need, from where its package puts them."""
    for root in (path.absolute().parent.parent, Path("/")):
        folder = root / "lib/modules" / release / "kernel"
        if folder.is_dir():
            return _below(folder)
    return {}


def _below(folder: Path) -> dict[str, bytes]:
    places = {file.name.partition(".ko")[0]: file for file in sorted(folder.rglob("*.ko*"))}
    return _with_needs(lambda name: places[name].read_bytes() if name in places else None)


def of_package(path: Path) -> Kernel:
    """The kernel in a Debian package, linux-image-*. ExecError: there is none in it."""
    image, modules = None, {}
    for name, data in deb.files(path, lambda name: bool(_IMAGE.fullmatch(name) or _MODULE.fullmatch(name))):
        if (module := _MODULE.fullmatch(name)) is not None:
            modules[module[1]] = data
        else:
            image = Image(data, name)
    if image is None:
        raise ExecError(f"{path} holds no kernel: a package linux-image-*-amd64 is needed")
    return Kernel(bytes(image.data), release_of(image), ordered(_with_needs(modules.get)))


def release_of(image: Image) -> str:
    """What a bzImage says that its release is. ExecError: it is none, or says nothing."""
    if not is_linux(image):
        raise ExecError(f"{image.name} is no Linux kernel: a bzImage is needed, or a Debian package with one")
    try:
        at = image.number(_VERSION_AT, 2, "its version") + _SECTOR
        text = bytes(image.slice(at, 64, "its version")).split(b"\0")[0].decode("ascii", "replace")
    except ImageError as error:
        raise ExecError(str(error)) from error
    return text.split(" ")[0]


def _with_needs(read: Callable[[str], bytes | None]) -> dict[str, bytes]:
    """The drivers that there are, with all that they need, by name and not compressed."""
    found: dict[str, bytes] = {}
    wanted = list(DRIVERS)
    while wanted:
        name = wanted.pop()
        if name not in found and (data := read(name) or read(name.replace("_", "-"))) is not None:
            found[name] = lzma.decompress(data) if data.startswith(XZ) else data
            wanted += needs(found[name])
    return found


def needs(module: bytes) -> list[str]:
    """The modules without which one cannot be loaded."""
    found = _DEPENDS.search(module)
    return [name for name in (found[1].decode("ascii", "replace") if found else "").split(",") if name]


def ordered(modules: dict[str, bytes]) -> tuple[tuple[str, bytes], ...]:
    """Each module behind those that it needs."""
    done: dict[str, bytes] = {}

    def add(names: Iterable[str]) -> None:
        for name in names:
            if name in modules and name not in done:
                add(one for one in needs(modules[name]) if one != name)
                done[name] = modules[name]

    add(DRIVERS)
    return tuple(done.items())
