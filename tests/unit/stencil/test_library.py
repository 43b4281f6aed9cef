"""The stencil library from the cache: what is no library is built again, and where no processes can be had, in this one."""

import concurrent.futures
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from trapgate.isa import catalog
from trapgate.stencil import identity, library
from trapgate.stencil.cache import Cache, pack
from trapgate.stencil.library import Library, build_library, load_library
from trapgate.stencil.stencil import Stencil

HOLE = (0, 4, True, "next", 0)
FORM = (0, 8, (HOLE,), True, False)
GOOD = ({"form": FORM}, {"enter": 0})
BODY = b"12345678blob"
WRONG_FORMS = (
    *(None, (), (0, 8, (), 1, 0), ("", 8, (), True, True)),
    *((0, 13, (), True, True), (-1, 8, (), True, True), (0, 8, 5, True, True)),
)
WRONG_HOLES = ((), (5, 4, True, "x", 0), (-1, 4, True, "x", 0), (0, 0, True, "x", 0), (0, 4, 1, "x", 0), (0, 4, True, 5, 0))


@pytest.mark.parametrize(
    "content",
    [
        *(None, 5, (), (1, 2, 3), ({}, {}), ({}, {"enter": 12}), ({}, {"enter": -1}), ({"form": FORM}, {"enter": 4})),
        *(({"form": one}, {"enter": 0}) for one in WRONG_FORMS),
        *(({"form": (0, 8, (hole,), True, False)}, {"enter": 0}) for hole in WRONG_HOLES),
    ],
)
def test_content_that_is_no_library_is_built_again(tmp_path: Path, content: object, monkeypatch: pytest.MonkeyPatch) -> None:
    built = Library({"form": Stencil(b"x", ())}, b"new", {"enter": 0})
    monkeypatch.setattr(library, "build_library", lambda progress: built)
    cache, key = Cache(tmp_path / "cache"), f"stencils-{identity.digest(identity.STENCILS)}"
    cache.store(key, pack(GOOD, BODY))
    assert load_library(cache).blob == b"blob"
    cache.store(key, pack(content, BODY))
    assert load_library(cache) is built
    assert "does not hold what it should" in cache.notes[0]
    assert load_library(cache).blob == b"new"


@pytest.mark.parametrize(
    "error",
    [BlockingIOError(11, "fork"), FileNotFoundError("/dev/shm"), ImportError("sem_open"), BrokenProcessPool("killed")],
    ids=str,
)
def test_without_processes_it_is_built_in_this_one(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoPool:
        def __init__(self, *arguments: object, **more: object) -> None:
            raise error

    some = list(catalog.forms())[:3]
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", NoPool)
    monkeypatch.setattr(catalog, "forms", lambda: iter(some))
    monkeypatch.setattr(library, "compile_native", lambda: (b"blob", {"enter": 0}))
    steps: list[tuple[int, int]] = []
    made = build_library(lambda done, total: steps.append((done, total)))
    assert set(made.stencils) == {form.name for form in some}
    assert (made.blob, steps[-1][0]) == (b"blob", steps[-1][1])
