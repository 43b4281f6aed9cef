"""Says what decides the machine code that we keep on disk: our sources, the libraries and Python that run them, the host's CPU."""

import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from trapgate import hostcpu
from trapgate.hostcall import asking

PACKAGE = Path(__file__).parent.parent
STENCILS = ("", "arch", "isa", "stencil")
"""The rooms that stencils can be made of, "" being the files above all rooms: imports point down only."""
BLOCKS = (*STENCILS, "soft")
"""The same for blocks and loops."""
LIBRARIES = ("llvmlite", "iced_x86")
_CODE = (".py", ".pyc", ".so")
LISTING = "to list the sources that translated code is made of"


@lru_cache
def digest(rooms: tuple[str, ...]) -> str:
    """Changes whenever anything changes that machine code made in these rooms depends on; 32 hexadecimal digits."""
    parts = [*(_room(room) for room in rooms), *surroundings()]
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:32]


@lru_cache
def _room(room: str) -> str:
    total = hashlib.sha256()
    for name in _names(room, PACKAGE):
        data = _read(f"{PACKAGE}/{name}")
        total.update(f"{name} {len(data)} ".encode() + data)
    return total.hexdigest()


def _read(path: str) -> bytes:
    """A whole file; `open` costs three times as much, and every start reads some 200."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def forget() -> None:
    """What was read of sources and surroundings is read again when it is next asked for."""
    digest.cache_clear()
    _room.cache_clear()


def sources(rooms: tuple[str, ...], package: Path = PACKAGE) -> list[Path]:
    """Every file of ours in these rooms, in order."""
    return sorted(package / name for room in rooms for name in _names(room, package))


def _names(room: str, package: Path) -> list[str]:
    """The paths in the package of a room's files, in order. HostError: the host does not list them."""
    found, cut = list[str](), len(str(package)) + 1
    with asking(LISTING):
        for folder, below, files in os.walk(package / room, onerror=_raise):
            below[:] = [one for one in below if room and one != "__pycache__"]
            found += [f"{folder}/{name}"[cut:] for name in files if name.endswith(_CODE)]
    assert found, "a package without files"
    return sorted(found)


def _raise(error: OSError) -> None:
    """What is not listed is not left out: another key would be made of the rest."""
    raise error


def surroundings() -> Iterator[str]:
    """What is not ours, one line each."""
    yield f"Python {sys.version} {sys.implementation.cache_tag}"
    for name in LIBRARIES:
        yield f"{name} {_installed(name)}"
    yield hostcpu.identity()


def _installed(name: str) -> str:
    """Which build of a library is installed, without importing it: a run with a warm cache needs none."""
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent
    below = folder / "binding"
    with asking(LISTING):
        files = [folder / one for one in os.listdir(folder) if one.endswith((".py", ".so"))]
        files += [below / one for one in os.listdir(below) if one.endswith(".so")] if below.is_dir() else ()
        told = [(one, one.stat()) for one in sorted(files)]
    return " ".join(f"{one.name} {status.st_size} {status.st_mtime_ns}" for one, status in told)
