"""`trapgate cache` shows what is kept on disk and how large it is, and removes it. Only files that trapgate made are touched."""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
from rich.filesize import decimal

from trapgate.cli.errors import OK, Failure
from trapgate.stencil.cache import CacheError, default_directory
from trapgate.values import dataclass

KINDS = {
    "stencils": "machine code with holes, one a form",
    "translations": "guest code, translated",
    "loops": "guest code, hot loops compiled as a whole; cleared with the translations",
    "kernels": "Debian's kernel, for trapgate exec",
    "machines": "guests of trapgate exec, booted; cleared with the kernels",
}
CLEARED = {"stencils": ("stencils",), "translations": ("translations", "loops"), "guests": ("kernels", "machines")}
"""The kinds that go together."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the cache. A name that begins with a dot is one that a killed process left half-written."""

    path: Path
    size: int


def entries(kind: str, directory: Path | None = None) -> Iterator[Entry]:
    """The files of one kind; CacheError when the directory cannot be read. No directory, no files."""
    folder = directory or default_directory()
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return
    except OSError as error:
        raise CacheError(f"cache {folder} cannot be read: {error.strerror}") from error
    for name in names:
        if name.lstrip(".").startswith(f"{kind}-"):
            try:
                status = os.lstat(folder / name)
            except FileNotFoundError:
                continue  # another process replaced it meanwhile
            if stat.S_ISREG(status.st_mode):
                yield Entry(folder / name, status.st_size)


def show() -> int:
    """Print the directory, and for each kind the number of files and bytes."""
    click.echo(f"cache directory: {default_directory()}")
    for kind, meaning in KINDS.items():
        found = list(entries(kind))
        size = decimal(sum(entry.size for entry in found))
        click.echo(f"  {kind:<14}{len(found):>4} file{'s' if len(found) != 1 else ' '}  {size:>10}  ({meaning})")
    return OK


def clear(names: Iterable[str]) -> int:
    """Delete the kinds of some names of `CLEARED`."""
    try:
        for kind in (kind for name in names for kind in CLEARED[name]):
            count = size = 0
            for entry in entries(kind):
                entry.path.unlink(missing_ok=True)
                count, size = count + 1, size + entry.size
            click.echo(f"{kind}: {count} file{'s' * (count != 1)} deleted, {decimal(size)}")
    except OSError as error:
        raise Failure(f"{error.filename} cannot be deleted: {error.strerror}") from error
    return OK
