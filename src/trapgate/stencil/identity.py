"""Says what decides the machine code that we keep on disk: our sources, the libraries and Python that run them, the host's CPU."""

import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from trapgate import hostcpu

PACKAGE = Path(__file__).parent.parent
STENCILS = ("", "arch", "isa", "stencil")
"""The rooms that stencils can be made of, "" being the files above all rooms: imports point down only."""
BLOCKS = (*STENCILS, "soft")
"""The same for blocks and loops."""
LIBRARIES = ("llvmlite", "iced_x86")
_CODE = (".py", ".pyc", ".so")


@lru_cache
def digest(rooms: tuple[str, ...]) -> str:
    """Changes whenever anything changes that machine code made in these rooms depends on; 32 hexadecimal digits."""
    parts = [*(_room(room) for room in rooms), *surroundings()]
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:32]


@lru_cache
def _room(room: str) -> str:
    total = hashlib.sha256()
    for path in sources((room,)):
        data = path.read_bytes()
        total.update(f"{path.relative_to(PACKAGE)} {len(data)} ".encode() + data)
    return total.hexdigest()


def forget() -> None:
    """What was read of sources and surroundings is read again when it is next asked for."""
    digest.cache_clear()
    _room.cache_clear()


def sources(rooms: tuple[str, ...], package: Path = PACKAGE) -> list[Path]:
    """Every file of ours in these rooms, in order."""
    found = [path for room in rooms for path in (package.glob("*") if not room else (package / room).rglob("*"))]
    assert found, "a package without files"
    return sorted(path for path in found if path.suffix in _CODE and "__pycache__" not in path.parts)


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
    files = (path for pattern in ("*.py", "*.so", "binding/*.so") for path in folder.glob(pattern))
    return " ".join(f"{one.name} {one.stat().st_size} {one.stat().st_mtime_ns}" for one in sorted(files))
