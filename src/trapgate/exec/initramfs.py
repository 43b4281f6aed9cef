"""Packs what the guest's kernel unpacks as its first files: our first program, modules, and the places where it mounts things."""

from trapgate.boot import cpio
from trapgate.exec.kernel import Kernel
from trapgate.guests import INIT

PLACES = ("dev", "proc", "sys", "rw", "lower", "root", "m")


def packed(kernel: Kernel) -> bytes:
    """The archive. Equal kernels give equal bytes."""
    nodes = [cpio.directory(name) for name in PLACES]
    nodes.append(cpio.character_device("dev/console", 5, 1))
    nodes.append(cpio.program("init", INIT.read_bytes()))
    nodes += [cpio.file(place[1:], data) for place, (_, data) in zip(places(kernel), kernel.modules, strict=True)]
    return cpio.archive(nodes)


def places(kernel: Kernel) -> list[str]:
    """Where the modules lie, in the order in which the first program is to load them."""
    return [f"/m/{name}.ko" for name, _ in kernel.modules]
