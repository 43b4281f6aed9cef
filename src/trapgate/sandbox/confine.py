"""Puts this process under what `policy` and `landlock` allow, as far as the host has them, and says what it has."""

import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from trapgate.hostcall import HostError
from trapgate.sandbox import ending, kernel, landlock
from trapgate.sandbox.landlock import DEVICE, READ, Right
from trapgate.sandbox.policy import HOSTILE, Needs, filter_program
from trapgate.values import dataclass

_ABSENT = frozenset((errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.EACCES, errno.E2BIG))
"""What a kernel answers that is too old, was started without it, is told so by a container, or is in too many sandboxes."""
_MAPS = Path("/proc/self/maps")
_LATE = ("llvmlite", "rich")  # loaded late, if at all: looked for where nothing else may be


@dataclass(frozen=True, slots=True)
class Hold:
    """What a host has of a sandbox: the ABI of its Landlock (0: none), and whether it has seccomp filters; why not, where not."""

    landlock: int
    filters: bool
    reasons: tuple[str, ...] = ()


def offered() -> Hold:
    """What this host has. Nothing is changed."""
    return _hold(landlock.version, kernel.has_filters)


def confine(needs: Needs, opened: Iterable[tuple[Path, Right]], terminal: bytes | None = None) -> Hold:
    """From now on this process makes a run's system calls only, and opens what is `opened` and what Python loads; what holds it.

    For good, and for all threads with filters; with Landlock for this one and those that it starts: it is to be the only one.
    What the host does not have is done without. HostError when it has it, but no descriptor or memory for it.
    A call that ends the process leaves standard input set to `terminal`: what ioctl TCGETS gave, None where it is no terminal.
    """
    with suppress(OSError):  # then it refuses the rest as well
        kernel.no_new_privileges()
    allowed = [*((path, READ) for path in libraries()), (Path(os.devnull), DEVICE), *opened]
    _prepare_end(terminal)
    return _hold(lambda: landlock.restrict(allowed), lambda: kernel.install_filter(filter_program(needs)))


def _prepare_end(terminal: bytes | None) -> None:
    """Have last words for a call that ends the process; a host that forbids them still ends it."""
    try:
        ending.install(HOSTILE.split(), terminal)
    except OSError as error:
        _reason("last words", error)


def _hold(rules: Callable[[], int], filters: Callable[[], None]) -> Hold:
    reasons, abi, filtered = [], 0, False
    try:
        abi = rules()
    except OSError as error:
        reasons.append(_reason("Landlock", error))
    try:
        filters()
        filtered = True
    except OSError as error:
        reasons.append(_reason("seccomp", error))
    return Hold(abi, filtered, tuple(reasons))


def _reason(what: str, error: OSError) -> str:
    if error.errno not in _ABSENT:
        raise HostError(f"a sandbox ({what})", error.errno or errno.EIO) from error
    return f"{what}: {error.strerror}"


def libraries() -> set[Path]:
    """Where modules and shared libraries of this process lie: parts of it are loaded late, and from there."""
    found = set(_modules()) | set(_shared())
    return {path for path in found if path.is_absolute() and path != Path("/")}


def _modules() -> Iterator[Path]:
    """Where top-level modules come from: the directories of sys.path that are in use."""
    specs = [getattr(module, "__spec__", None) for name, module in list(sys.modules.items()) if "." not in name]
    for spec in [*specs, *(find_spec(name) for name in _LATE)]:
        if spec is not None and spec.has_location and spec.origin is not None:
            file = Path(spec.origin)
            yield file.parent.parent if spec.submodule_search_locations else file.parent


def _shared() -> Iterator[Path]:
    """Where shared libraries lie, by those that are loaded, and the list that the loader reads."""
    yield Path("/etc/ld.so.cache")
    with suppress(OSError):
        for line in _MAPS.read_text(errors="surrogateescape").splitlines():
            words = line.split(maxsplit=5)
            if len(words) == 6 and words[5].startswith("/") and ".so" in words[5] and "x" in words[1]:
                yield Path(words[5].removesuffix(" (deleted)")).parent
