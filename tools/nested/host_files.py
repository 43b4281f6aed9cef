"""Files of this host that the nested machine needs, each at its own path there: Python, its packages, programs, their libraries."""

import importlib.util
import py_compile
import re
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tools.guests.sources import GuestError, output_of
from trapgate.boot import cpio

LEFT_OUT = frozenset({  # of the standard library and of what pip has installed: what no test imports
    "__pycache__", "test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages", "dist-packages",
    "pip", "setuptools", "pkg_resources", "mypy", "mypyc", "ruff", "grimp", "importlinter", "librt", "ast_serialize",
    "check_jsonschema", "regress",
})  # fmt: skip
_COMPILED_TOOL = "__mypyc."  # mypy's own code, at the top of all packages
_NO_TEST_IMPORTS = ("config-3", "_tkinter", "_test", "_xxtest")
_LIBRARY = re.compile(r"(?:=> )?(/\S+) \(0x")


class Files:
    """Members of an archive, by path without a leading slash; the directories that lead to each are made."""

    def __init__(self) -> None:
        self._nodes: dict[str, cpio.Node] = {}

    def nodes(self) -> list[cpio.Node]:
        """All of them, parents before children, always in the same order."""
        return [self._nodes[path] for path in sorted(self._nodes)]

    def put(self, node: cpio.Node) -> None:
        """Add a member, unless there is one of this name."""
        for parent in list(Path(node.path).parents)[-2::-1]:
            self._nodes.setdefault(str(parent), cpio.directory(str(parent)))
        self._nodes.setdefault(node.path, node)

    def copy(self, path: Path) -> None:
        """Add a file of the host's; of a link also what it leads to."""
        for name in path.parts[1:2]:  # /bin, /lib and /lib64 lead into /usr
            if (top := Path("/", name)).is_symlink():
                self.put(cpio.link(name, str(top.readlink())))
        path = path.parent.resolve() / path.name
        if path.is_symlink():
            self.put(cpio.link(str(path)[1:], str(path.readlink())))
            self.copy(path.parent / path.readlink())
        else:
            mode = stat.S_IFREG | (0o755 if path.stat().st_mode & 0o100 else 0o644)
            self.put(cpio.Node(str(path)[1:], mode, path.read_bytes()))

    def tree(self, folder: Path) -> None:
        """Add a directory of the host's; Python files compiled as well, for a machine that is emulated takes long for that."""
        for path in sorted(folder.iterdir()):
            if _left_out(path.name):
                continue
            if path.is_dir() and not path.is_symlink():
                self.tree(path)
            elif path.exists():
                self.copy(path)
                if path.suffix == ".py":
                    self._compiled(path)

    def _compiled(self, path: Path) -> None:
        """What Python believes without a look at the source (PEP 552)."""
        kept = importlib.util.cache_from_source(str(path))
        with tempfile.NamedTemporaryFile() as scratch:
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            try:
                py_compile.compile(str(path), scratch.name, str(path), doraise=True, invalidation_mode=mode)
            except py_compile.PyCompileError:  # a template that only looks like Python
                return
            self.put(cpio.file(kept[1:], Path(scratch.name).read_bytes()))

    def programs(self, binaries: Iterable[Path]) -> None:
        """Add programs and shared objects with all that they are linked with."""
        binaries = list(binaries)
        for path in (*binaries, *libraries(binaries)):
            self.copy(path)


def _left_out(name: str) -> bool:
    return name in LEFT_OUT or name.startswith(_NO_TEST_IMPORTS) or name.endswith(".pyc") or _COMPILED_TOOL in name


def libraries(binaries: Iterable[Path]) -> Iterator[Path]:
    """The shared libraries that some files are linked with, and the dynamic loader. GuestError when one is missing."""
    done = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.endswith("=> not found"):
            raise GuestError(f"a library is missing on this host: {line.strip()}")
        if found := _LIBRARY.search(line):
            yield Path(found[1])


def python_of_gdb(files: Files, gdb: str) -> None:
    """Add the Python that is built into gdb, and gdb's own modules."""
    asks = "python import sysconfig; print(sysconfig.get_path('stdlib'), gdb.parameter('data-directory'), sep='\\n')"
    folders = [Path(line) for line in output_of(gdb, "-nx", "-batch", "-ex", asks).splitlines() if line.startswith("/")]
    for folder in folders:
        files.tree(folder)
        files.programs(sorted(folder.glob("lib-dynload/*.so")))


def python(files: Files) -> None:
    """Add this Python with its packages, and the commands of its environment."""
    folders = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))
    shared = []
    for folder in folders:
        files.tree(folder)
        shared += [path for path in sorted(folder.rglob("*.so")) if not any(map(_left_out, path.relative_to(folder).parts))]
    environment = Path(sys.prefix)
    for name in ("bin/python", "bin/python3", "bin/trapgate", "pyvenv.cfg"):
        files.copy(environment / name)
    files.programs([Path(sys.executable).resolve(), *shared])
