"""The stencil library from the cache: what is no library is built again, and where no processes can be had, in this one."""

import concurrent.futures
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from trapgate.isa import catalog
from trapgate.stencil import identity, library
from trapgate.stencil.cache import Cache, pack, unpack
from trapgate.stencil.library import Library, build_library, load_library
from trapgate.stencil.stencil import Hole, Stencil

HOLE = Hole(0, 4, True, "next", -4)
FORMS = {
    "form": Stencil(b"12345678", (HOLE, Hole(4, 4, False, "other", 1 << 40)), True, False),
    "none": Stencil(b"x", (), False, True),
}
GOOD = Library(FORMS, b"blob", {"enter": 0})
HEAD = (["form", "none"], ["next", "other"], 2, {"enter": 0})
LENGTHS, COUNTS, FLAGS, OFFSETS, SIZES, RELATIVE, SYMBOLS = (number * 8 for number in range(7))  # two of each, 32 bits


def test_packed_and_unpacked_it_is_the_same() -> None:
    same = library._unpack(memoryview(library._pack(GOOD)))
    assert (dict(same.stencils), same.blob, same.entries) == (FORMS, b"blob", {"enter": 0})
    empty = library._unpack(memoryview(library._pack(Library({}, b"blob", {"enter": 0}))))
    assert (len(empty.stencils), empty.blob) == (0, b"blob")


def with_head(*head: object) -> bytes:
    return pack(head, unpack(library._pack(GOOD))[1])


def with_body(at: int, value: int) -> bytes:
    """Another number in the first row of a column, or behind it."""
    head, body = unpack(library._pack(GOOD))
    changed = bytearray(body)
    changed[at : at + 4] = value.to_bytes(4, "little")
    return pack(head, bytes(changed))


@pytest.mark.parametrize(
    "content",
    [
        *(with_head(), with_head(1, 2, 3, 4), pack(None, b""), pack(5, b"x"), pack(HEAD, b"")),
        *(with_head([5, "none"], *HEAD[1:]), with_head(HEAD[0], [5, "x"], *HEAD[2:]), with_head(*HEAD[:2], 1, HEAD[3])),
        *(with_head(*HEAD[:3], entries) for entries in ({}, {"enter": 4}, {"enter": -1}, {"enter": "0"}, {"x": 0})),
        *(with_head(["form"], *HEAD[1:]), with_head(HEAD[0], ["next"], *HEAD[2:]), with_head(*HEAD[:2], -1, HEAD[3])),
        *(with_body(LENGTHS, value) for value in (7, 1 << 31)),
        *(with_body(COUNTS, value) for value in (0, 3, 0xFFFFFFFF)),
        *(with_body(at, value) for at, value in ((FLAGS, 4), (OFFSETS, 5), (OFFSETS, 0xFFFFFFFF), (SIZES, 0), (SIZES, 9))),
        *(with_body(at, value) for at, value in ((RELATIVE, 2), (SYMBOLS, 2))),
    ],
)
def test_content_that_is_no_library_is_built_again(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    built = Library({"form": Stencil(b"x", ())}, b"new", {"enter": 0})
    monkeypatch.setattr(library, "build_library", lambda progress: built)
    cache, key = Cache(tmp_path / "cache"), f"stencils-{identity.digest(identity.STENCILS)}"
    cache.store(key, library._pack(GOOD))
    assert load_library(cache).blob == b"blob"
    cache.store(key, content)
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
