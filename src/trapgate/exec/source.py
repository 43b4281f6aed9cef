"""Finds the guest's kernel: in a file that the user names, in our cache, or where Debian's is to be had."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from trapgate.exec.errors import ExecError
from trapgate.exec.kernel import DRIVERS, SERIES, Kernel, Progress, of_file
from trapgate.stencil.cache import Cache, WrongContent, pack, unpack
from trapgate.values import dataclass

KEY = f"kernels-debian-{SERIES}-{hashlib.sha256(' '.join(DRIVERS).encode()).hexdigest()[:8]}"
"""Of Debian's kernel in the cache, with its modules."""


@dataclass(frozen=True, slots=True)
class KernelSource:
    """Where the kernel comes from. Two of one `identity` give the same one."""

    identity: str
    get: Callable[[], Kernel]
    """ExecError: it cannot be had after all."""


def find(chosen: str | None, cache: Cache, progress: Progress) -> KernelSource:
    """The kernel that the user chose, or Debian's, which is fetched when the cache has none. ExecError."""
    if chosen is not None:
        return _of_file(Path(chosen))
    if (identity := _kept_identity(cache)) is None:
        from trapgate.exec.fetching import fetched  # most runs find it in the cache

        kernel = fetched(progress)
        if not cache.store(KEY, _packed(kernel)) or (identity := _kept_identity(cache)) is None:
            return KernelSource(f"debian {kernel.release}", lambda: kernel)
    return KernelSource(identity, lambda: _kept(cache))


def _of_file(path: Path) -> KernelSource:
    if not path.is_file() or (identity := _identity(path)) is None:
        raise ExecError(f"--kernel {path}: there is no such file")
    return KernelSource(f"{path.absolute()} {identity}", lambda: of_file(path))


def _identity(path: Path) -> str | None:
    """Of a file: another content has another one. None: there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return f"{status.st_size} {status.st_mtime_ns}"


def _kept_identity(cache: Cache) -> str | None:
    return None if (found := _identity(cache.directory / KEY)) is None else f"{KEY} {found}"


def _kept(cache: Cache) -> Kernel:
    found = cache.read(KEY, _unpacked)
    if found is None:
        raise ExecError(f"the kernel in {cache.directory} is damaged: run the command again, and it is fetched anew")
    return found


def _packed(kernel: Kernel) -> bytes:
    head = [kernel.release, len(kernel.image), [[name, len(data)] for name, data in kernel.modules]]
    return pack(head, kernel.image + b"".join(data for _, data in kernel.modules))


def _unpacked(data: memoryview) -> Kernel:
    head, body = unpack(data)
    match head:
        case [str(release), int(size), list(modules)]:
            parts, at = [], size
            for one in modules:
                match one:
                    case [str(name), int(length)]:
                        parts.append((name, bytes(body[at : at + length])))
                        at += length
                    case _:
                        raise WrongContent
            if at == len(body):
                return Kernel(bytes(body[:size]), release, tuple(parts))
    raise WrongContent
