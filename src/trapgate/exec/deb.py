"""Reads files out of a Debian package without dpkg: an ar archive that holds a compressed tar archive (deb(5))."""

import tarfile
from collections.abc import Callable, Iterator
from lzma import LZMAError
from pathlib import Path
from typing import BinaryIO

from trapgate.exec.errors import ExecError

MAGIC = b"!<arch>\n"
_NAME, _SIZE, _END = slice(0, 16), slice(48, 58), slice(58, 60)  # of a member's head of 60 bytes (ar(5))
HEAD = 60
COMPRESSIONS = {"data.tar.xz": "r|xz", "data.tar.gz": "r|gz", "data.tar": "r|"}


def is_package(path: Path) -> bool:
    """Whether a file is an ar archive, as a Debian package is. OSError."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def files(package: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """(name without `./`, content) of those regular files whose name is wanted. ExecError: damaged, or compressed another way."""
    try:
        with package.open("rb") as file, tarfile.open(fileobj=file, mode=_to_data(file)) as tar:  # type: ignore[call-overload]
            for member in tar:
                name = member.name.removeprefix("./")
                if member.isfile() and wanted(name) and (content := tar.extractfile(member)) is not None:
                    yield name, content.read()
    except (OSError, EOFError, LZMAError, tarfile.TarError, ValueError) as error:
        raise ExecError(f"{package} is no sound Debian package: {error}") from error


def _to_data(file: BinaryIO) -> str:
    """Seek to the data archive; how tarfile opens it. ValueError: there is none that it could."""
    if file.read(len(MAGIC)) != MAGIC:
        raise ValueError("it is no ar archive")
    while len(head := file.read(HEAD)) == HEAD and head[_END] == b"`\n":
        name, size = head[_NAME].decode("ascii", "replace").rstrip(" /"), int(head[_SIZE])
        if name in COMPRESSIONS:
            return COMPRESSIONS[name]
        if name.startswith("data.tar"):
            raise ValueError(f"its {name} is compressed in a way that Python cannot read")
        file.seek(size + size % 2, 1)
    raise ValueError("it has no data")
