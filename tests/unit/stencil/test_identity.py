"""The cache's keys change with all that machine code depends on: each source a run imports, the libraries, Python, the CPU."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from trapgate import hostcpu
from trapgate.hostcall import HostError
from trapgate.stencil import identity
from trapgate.stencil.identity import BLOCKS, PACKAGE, STENCILS, digest, sources, surroundings

IMPORTED = """
import sys
{imports}
print("\\n".join(sorted(m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "trapgate" and m.__file__)))
"""
BUILDING = "from trapgate.stencil import compile, library, lower, tidy; from trapgate.isa import catalog, facts; [*catalog.forms()]"
RUNNING = BUILDING + "; from trapgate.soft import cpu; from trapgate.soft.loops import hot; from trapgate.stencil import loop"


@pytest.mark.parametrize(("imports", "rooms"), [(BUILDING, STENCILS), (RUNNING, BLOCKS)], ids=["stencils", "blocks and loops"])
def test_every_source_that_makes_code_is_covered(imports: str, rooms: tuple[str, ...]) -> None:
    program = IMPORTED.format(imports=imports)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    imported = {Path(line) for line in done.stdout.split()}
    assert len(imported) > 30
    assert imported <= set(sources(rooms))


TOUCHING = """
import sys
from trapgate.stencil import identity
from trapgate.stencil.identity import BLOCKS, PACKAGE, STENCILS, digest, sources
def key(rooms):
    identity.forget()
    return digest(rooms)
before = {rooms: key(rooms) for rooms in (STENCILS, BLOCKS)}
for path in sources(BLOCKS):
    data = path.read_bytes()
    path.write_bytes(data + b"#")
    for rooms in (STENCILS, BLOCKS):
        assert (key(rooms) != before[rooms]) == (path in sources(rooms)), path
    path.write_bytes(data)
assert before == {rooms: key(rooms) for rooms in (STENCILS, BLOCKS)}
print(PACKAGE)
"""


def test_each_file_changes_the_key(tmp_path: Path) -> None:
    """In a copy of the package: one byte more in any file of it."""
    shutil.copytree(PACKAGE, tmp_path / "trapgate", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-B", "-c", TOUCHING]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env={"PYTHONPATH": str(tmp_path)})
    assert (done.stderr, done.stdout.strip()) == ("", str(tmp_path / "trapgate"))


def test_a_file_that_is_renamed_changes_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for room in STENCILS:
        (tmp_path / room).mkdir(exist_ok=True)
        (tmp_path / room / "a.py").write_text("x")
    monkeypatch.setattr(identity, "PACKAGE", tmp_path)
    identity.forget()
    before = digest(STENCILS)
    (tmp_path / "arch" / "a.py").rename(tmp_path / "arch" / "b.py")
    identity.forget()
    after = digest(STENCILS)
    identity.forget()
    assert before != after


def test_libraries_python_and_cpu_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = list(surroundings())
    assert [part.split()[0] for part in parts[:3]] == ["Python", "llvmlite", "iced_x86"]
    assert all(".so " in part for part in parts[1:3])
    assert "flags" in parts[3] or "Linux" in parts[3]
    before = digest(BLOCKS)
    monkeypatch.setattr(sys, "version", "9.9")
    identity.forget()
    assert digest(BLOCKS) != before
    identity.forget()


def test_a_host_without_proc_keeps_for_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path, *options: object, **more: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    hostcpu.fields.cache_clear()
    assert "Linux" in list(surroundings())[-1]
    hostcpu.fields.cache_clear()


def _folders() -> list[Path]:
    """Every folder whose files the keys are made of."""
    libraries = [Path(spec.origin).parent for name in identity.LIBRARIES if (spec := find_spec(name)) and spec.origin]
    return sorted(
        {path.parent for path in sources(BLOCKS)}
        | {*libraries, *(one / "binding" for one in libraries if (one / "binding").is_dir())}
    )


@pytest.mark.parametrize("error", [errno.ENOMEM, errno.EACCES])
def test_a_folder_that_cannot_be_listed_is_no_empty_one(error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host refuses each listing, one at a time: no key is made of what is left."""
    for folder in _folders():
        identity.forget()
        with monkeypatch.context() as patch:
            for name in ("scandir", "listdir"):
                patch.setattr(os, name, partial(_refusing, getattr(os, name), folder, error))
            with pytest.raises(HostError, match="to list the sources"):
                digest(BLOCKS)
    identity.forget()


def _refusing(really: Callable[[Path], object], refused: Path, error: int, path: Path) -> object:
    """A call that lists a directory, where one of them is not listed."""
    if Path(path) == refused:
        raise OSError(error, os.strerror(error), str(path))
    return really(path)
