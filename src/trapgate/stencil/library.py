"""The stencil library: every form and the native functions, compiled once and kept on disk under a digest of all that went in."""

import ctypes
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from trapgate.stencil import identity
from trapgate.stencil.cache import Cache, WrongContent, pack, unpack
from trapgate.stencil.stencil import Hole, Stencil

CHUNK = 60  # forms in one LLVM module: fewer cost start-up, more cost parallelism
ENTER = """
declare void @llvm.x86.sse.ldmxcsr(ptr)
declare void @llvm.x86.sse.stmxcsr(ptr)
define dso_local void @enter(ptr %cpu, ptr %code) #1 section ".text.enter" {{
  %guest = getelementptr i8, ptr %cpu, i64 {guest}
  %host = getelementptr i8, ptr %cpu, i64 {host}
  call void @llvm.x86.sse.stmxcsr(ptr %host)
  call void @llvm.x86.sse.ldmxcsr(ptr %guest)
  call preserve_nonecc void %code(ptr %cpu, {zeros})
  call void @llvm.x86.sse.stmxcsr(ptr %guest)
  call void @llvm.x86.sse.ldmxcsr(ptr %host)
  call void @x87_save(ptr %cpu)
  ret void
}}
"""


@dataclass(frozen=True, slots=True)
class Library:
    """Stencils by form name, and the native functions as one relocated blob with its entry points (offsets)."""

    stencils: Mapping[str, Stencil]
    blob: bytes
    entries: dict[str, int]


def load_library(cache: Cache, progress: Callable[[int, int], None] = lambda done, total: None) -> Library:
    """The library from the cache, or built (and then cached). `progress` hears how many forms of how many are done."""
    key = f"stencils-{identity.digest(identity.STENCILS)}"
    stored = cache.read(key, _unpack)
    if stored is not None:
        return stored
    library = build_library(progress)
    cache.store(key, _pack(library))
    return library


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
    return Library(stencils, blob, entries)


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
    from trapgate.isa.state import offset
    from trapgate.isa.vocabulary import TRANSIENTS, Trace
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
    zeros = ", ".join("i64 0" for _ in TRANSIENTS)
    enter = ENTER.format(guest=offset("guest_mxcsr"), host=offset("host_mxcsr"), zeros=zeros)
    compiled = Compiler(position_independent=True).compile(lowering.module() + enter)
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


def _pack(library: Library) -> bytes:
    stencils, body = dict[str, object](), bytearray()
    for name, s in library.stencils.items():
        holes = [(h.offset, h.size, h.relative, h.name, h.addend) for h in s.holes]
        stencils[name] = len(body), len(s.code), holes, s.reads_flags, s.sets_flags
        body += s.code
    return pack((stencils, library.entries), bytes(body) + library.blob)


_Hole = tuple[int, int, bool, str, int]
_Stencil = tuple[int, int, list[_Hole], bool, bool]  # its code by place and length


class _Packed(Mapping[str, Stencil]):
    """Stencils as they lie in the cache, each made when it is first asked for: a guest uses a small part of them."""

    def __init__(self, packed: dict[str, _Stencil], code: memoryview) -> None:
        self._packed, self._code, self._made = packed, code, dict[str, Stencil]()

    def __getitem__(self, name: str) -> Stencil:
        made = self._made.get(name)
        if made is None:
            at, length, holes, *flags = self._packed[name]
            code = bytes(self._code[at : at + length])
            made = self._made[name] = Stencil(code, tuple(Hole(*hole) for hole in holes), *flags)
        return made

    def __contains__(self, name: object) -> bool:
        return name in self._packed

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


def _unpack(data: memoryview) -> Library:
    """The library that `_pack` was given; WrongContent when these bytes are none."""
    head, body = unpack(data)
    match head:
        case [dict() as stencils, dict() as entries] if all(_is_stencil(one, len(body)) for one in stencils.values()):
            end = max((one[0] + one[1] for one in stencils.values()), default=0)
            if "enter" in entries and all(isinstance(at, int) and 0 <= at < len(body) - end for at in entries.values()):
                return Library(_Packed(stencils, body), bytes(body[end:]), entries)
    raise WrongContent


def _is_stencil(one: object, room: int) -> bool:  # no patterns here: there are thousands, at each start
    if type(one) is not list or [type(value) for value in one] != [int, int, list, bool, bool]:
        return False
    at, length, holes, _, _ = one
    return at >= 0 and 0 <= length <= room - at and all(_is_hole(hole, length) for hole in holes)


def _is_hole(hole: object, room: int) -> bool:
    if type(hole) is not list or [type(value) for value in hole] != [int, int, bool, str, int]:
        return False
    offset, size = hole[:2]
    return bool(offset >= 0 and 0 < size <= room - offset)
