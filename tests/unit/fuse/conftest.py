"""Guests that have a directory with some files."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from trapgate.fuse.share import Share
from unit.fuse.guest import Guest, descriptors, tree


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shared").mkdir()
    (tmp_path / "secret").write_text("outside")
    tree(tmp_path / "shared")
    return tmp_path / "shared"


def guest_of(share: Share) -> Iterator[Guest]:
    """A guest; all that it had open is closed behind it."""
    before = descriptors() - 2
    guest = Guest(share)
    yield guest
    guest.session.close()
    share.close()
    assert descriptors() == before


@pytest.fixture
def guest(folder: Path) -> Iterator[Guest]:
    yield from guest_of(Share(folder))


@pytest.fixture
def lasting(folder: Path) -> Iterator[Guest]:
    yield from guest_of(Share(folder, lasting=True))


@pytest.fixture
def writer(folder: Path) -> Iterator[Guest]:
    yield from guest_of(Share(folder, writable=True))


@pytest.fixture(params=["opening", "lasting"])
def either(folder: Path, request: pytest.FixtureRequest) -> Iterator[Guest]:
    yield from guest_of(Share(folder, lasting=request.param == "lasting"))
