"""Compiles the stencil library, all forms and native functions, once, and keeps it on disk under a digest of all that went in."""

import ctypes
import os
import signal
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, repeat
from operator import add, le
from typing import Any

from trapgate.stencil import identity
from trapgate.stencil.cache import Cache, WrongContent, pack, unpack
from trapgate.stencil.stencil import Hole, Stencil
from trapgate.values import dataclass, replace

CHUNK = 60  # forms in one LLVM module: fewer cost start-up, more cost parallelism


@dataclass(frozen=True, slots=True)
class Library:
    """Stencils by form name, and the native functions as one relocated blob with its entry points (offsets)."""

    stencils: Mapping[str, Stencil]
    blob: bytes
    entries: dict[str, int]


def load_library(cache: Cache, progress: Callable[[int, int], None] = lambda done, total: None) -> Library:
    """The library from the cache, or built (and then cached). `progress` hears how many forms of how many are done."""
    stored = cache.read(key(), _unpack)
    if stored is not None:
        return stored
    library = build_library(progress)
    cache.store(key(), _pack(library))
    return library


def key() -> str:
    """What the library of these sources, on this host, is called in the cache."""
    return f"stencils-{identity.digest(identity.STENCILS)}"


def build_library(progress: Callable[[int, int], None] = lambda done, total: None) -> Library:
    """Compile everything, on all CPUs."""
    from concurrent.futures import ProcessPoolExecutor, as_completed

    from trapgate.isa import catalog

    names = [form.name for form in catalog.forms()]
    assert len(names) == len(set(names)), f"two forms share a name: {[n for n in names if names.count(n) > 1][:3]}"
    total = len(names) + len(catalog.native_flows()) + len(catalog.native_functions())
    stencils: dict[str, Stencil] = {}
    chunks = [names[at : at + CHUNK] for at in range(0, len(names), CHUNK)]
    try:
        with ProcessPoolExecutor(os.cpu_count(), initializer=_end_with_parent) as pool:
            native = pool.submit(compile_native)
            for job in as_completed([pool.submit(compile_forms, chunk) for chunk in chunks]):
                stencils.update(job.result())
                progress(len(stencils), total)
            blob, entries = native.result()
    except (OSError, ImportError, RuntimeError):  # no processes, threads or semaphores (/dev/shm) to be had, or one was killed
        for chunk in chunks:
            stencils.update(compile_forms(chunk))
            progress(len(stencils), total)
        blob, entries = compile_native()
    progress(total, total)
    return Library({name: stencils[name] for name in names}, blob, entries)  # whichever worker came first: the same file each time


def _end_with_parent() -> None:
    """A worker whose parent is killed must not wait for work for ever (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def compile_forms(names: Sequence[str]) -> dict[str, Stencil]:
    """The stencils of some forms; runs in a worker process."""
    from trapgate.isa import catalog
    from trapgate.isa.facts import Facts, facts
    from trapgate.stencil.compile import Compiler
    from trapgate.stencil.lower import Lowering
    from trapgate.stencil.tidy import tidy

    wanted = set(names)
    lowering, mangled, found = Lowering(), dict[str, str](), dict[str, Facts]()
    for form in catalog.forms():
        if form.name in wanted:
            mangled[symbol := f"form{len(mangled)}"] = form.name
            trace = form.trace()
            found[symbol] = facts(trace)
            lowering.stencil(symbol, trace)
    compiled = Compiler().compile(lowering.module())
    assert all(name in mangled for name in compiled), f"a stencil needs constants: {[n for n in compiled if n not in mangled]}"
    return {
        mangled[symbol]: replace(tidy(stencil), reads_flags=found[symbol].reads_flags, sets_flags=found[symbol].sets_flags)
        for symbol, stencil in compiled.items()
    }


def compile_native() -> tuple[bytes, dict[str, int]]:
    """The native functions, linked with each other; runs in a worker process."""
    from trapgate.isa import catalog
    from trapgate.isa.vocabulary import Trace
    from trapgate.stencil import entering
    from trapgate.stencil.compile import Compiler
    from trapgate.stencil.lower import Lowering

    lowering = Lowering()
    for name, body in catalog.native_flows().items():
        trace = Trace()
        body(trace)
        lowering.stencil(name, trace)
    for name, (body, width, count) in catalog.native_functions().items():
        trace = Trace([64] * count)
        body(trace)
        lowering.function(name, trace, width)
    compiled = Compiler(position_independent=True).compile(lowering.module() + entering.module())
    entries, at = {}, 0
    for name, stencil in compiled.items():
        entries[name] = at = (at + 63) & ~63
        at += len(stencil.code)
    blob = bytearray(at)
    for name, stencil in compiled.items():
        start = entries[name]
        blob[start : start + len(stencil.code)] = stencil.code
        for hole in stencil.holes:
            assert hole.relative, f"native code must be position-independent: {name} refers to {hole.name}"
            value = entries[hole.name] - (start + hole.offset) + hole.addend
            blob[start + hole.offset : start + hole.offset + 4] = value.to_bytes(4, "little", signed=True)
    return bytes(blob), entries


_COLUMNS, _OF_STENCILS = "IIIIIIIq", 3
"""How a library lies in the cache: for each stencil the length of its code, its number of holes, two bits (reads, sets flags); for
each hole offset, size, whether it is relative, the number of its symbol, addend. Behind these columns the code, and the blob."""


def _pack(library: Library) -> bytes:
    stencils = library.stencils.values()
    holes = [hole for one in stencils for hole in one.holes]
    symbols = {name: number for number, name in enumerate(dict.fromkeys(hole.name for hole in holes))}
    columns: tuple[Iterator[int], ...] = (
        (len(one.code) for one in stencils), (len(one.holes) for one in stencils),
        (one.reads_flags | one.sets_flags << 1 for one in stencils),
        (hole.offset for hole in holes), (hole.size for hole in holes), (int(hole.relative) for hole in holes),
        (symbols[hole.name] for hole in holes), (hole.addend for hole in holes),
    )  # fmt: skip
    body = b"".join(array(kind, column).tobytes() for kind, column in zip(_COLUMNS, columns, strict=True))
    code = b"".join(one.code for one in stencils)
    return pack((list(library.stencils), list(symbols), len(holes), library.entries), body + code + library.blob)


class _Packed(Mapping[str, Stencil]):
    """Stencils as they lie in the cache, each made when it is first asked for: a guest uses a small part of them.

    WrongContent when these are none.
    """

    def __init__(self, names: list[str], symbols: list[str], count: int, body: memoryview) -> None:
        self._columns, at = list[Any](), 0
        for number, kind in enumerate(_COLUMNS):
            column = array(kind)
            size = column.itemsize * (len(names) if number < _OF_STENCILS else count)
            if at + size > len(body):
                raise WrongContent
            column.frombytes(body[at : at + size])
            self._columns.append(column)
            at += size
        self._symbols, self._code = symbols, body[at:]
        lengths, counts, flags, offsets, sizes, relative, numbers, _ = self._columns
        rooms = chain.from_iterable(map(repeat, lengths, counts))  # of each hole: the length of the code that it lies in
        sound = (
            sum(counts) == count and max(flags, default=0) < 4 and min(sizes, default=1) and max(relative, default=0) < 2
            and max(numbers, default=-1) < len(symbols) and all(map(le, map(add, offsets, sizes), rooms))
        )  # fmt: skip
        self._starts, self._holes = list(accumulate(lengths, initial=0)), list(accumulate(counts, initial=0))
        if not sound or self._starts[-1] > len(self._code):
            raise WrongContent
        self._numbers = {name: number for number, name in enumerate(names)}
        self._made = dict[str, Stencil]()

    @property
    def rest(self) -> bytes:
        """What lies behind the code of all of them."""
        return bytes(self._code[self._starts[-1] :])

    def __getitem__(self, name: str) -> Stencil:
        made = self._made.get(name)
        if made is None:
            number = self._numbers[name]
            flags = self._columns[2][number]
            rows = zip(
                *(column[self._holes[number] : self._holes[number + 1]] for column in self._columns[_OF_STENCILS:]), strict=True
            )
            holes = tuple(Hole(offset, size, bool(way), self._symbols[symbol], by) for offset, size, way, symbol, by in rows)
            code = bytes(self._code[self._starts[number] : self._starts[number + 1]])
            made = self._made[name] = Stencil(code, holes, bool(flags & 1), bool(flags & 2))
        return made

    def __contains__(self, name: object) -> bool:
        return name in self._numbers

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


def _unpack(data: memoryview) -> Library:
    """The library that `_pack` was given; WrongContent when these bytes are none."""
    head, body = unpack(data)
    match head:
        case [list() as names, list() as symbols, int() as count, dict() as entries] if count >= 0:
            if {*map(type, names), *map(type, symbols)} <= {str}:
                stencils = _Packed(names, symbols, count, body)
                blob = stencils.rest
                if "enter" in entries and all(isinstance(at, int) and 0 <= at < len(blob) for at in entries.values()):
                    return Library(stencils, blob, entries)
    raise WrongContent
