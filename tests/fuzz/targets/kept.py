"""Files of the cache: stencils, compiled loops, translated blocks; damaged ones, and such whose digest is right all the same.

The first byte chooses what the file is taken for, and whether its digest is made to fit.
"""

import atexit
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from fuzz.target import Target
from trapgate.soft.blocks.known import KnownBlocks
from trapgate.soft.loops import kept as loops
from trapgate.stencil import cache as caches
from trapgate.stencil import library
from trapgate.stencil.cache import Cache
from trapgate.stencil.stencil import Hole, Stencil
from unit.soft.bench import CODE, Bench

_PLACE = Path(mkdtemp(prefix="trapgate-fuzz-"))
atexit.register(shutil.rmtree, _PLACE)
_KEY = "kind-0"
_RAW = 0x80  # in the first byte: the digest is part of the input
_MOST_STENCILS = 64
_bench = Bench(counting=True)


def _library(data: memoryview) -> str:
    found = library._unpack(data)
    for name in list(found.stencils)[:_MOST_STENCILS]:
        stencil = found.stencils[name]
        assert all(hole.offset + hole.size <= len(stencil.code) for hole in stencil.holes)
    return "stencils"


def _loops(data: memoryview) -> str:
    for one in loops._unpacked(data).values():
        if one is not None:
            code, entry, holes, _ = one
            assert 0 <= entry < len(code)
            assert all(0 <= at <= len(code) - 4 and number >= 0 for at, number, _ in holes)
    return "loops"


def _blocks(data: memoryview) -> str:
    """The records are checked by native code, and their index used by it."""
    translator = _bench.cpu.translator
    translator.forget()
    translator.learn(data)
    known: KnownBlocks = translator.known_blocks
    known.pack()
    return "blocks"


_KINDS: tuple[Callable[[memoryview], str], ...] = (_library, _loops, _blocks)


def run(data: bytes) -> str:
    """Load a file as its kind."""
    first = data[0] if data else 0
    content = data[1:] if first & _RAW else caches._digest(_KEY, data[1:]) + data[1:]
    cache = Cache(_PLACE)
    (_PLACE / _KEY).write_bytes(content)
    found = cache.read(_KEY, _KINDS[first % len(_KINDS)])
    assert found is not None or cache.notes, "dropped without a word"
    assert (_PLACE / _KEY).exists() == (found is not None)
    return found or "not it"


def _translated() -> bytes:
    """The blocks of a few instructions."""
    bench = Bench(counting=True)
    bench.ram.write(CODE, bytes.fromhex("31c0 ffc0 83f80a 75f9 48b88877665544332211 e800000000 f4"))
    bench.cpu.budget(100)
    bench.cpu.run()
    assert bench.cpu.translator.known_blocks.added
    return bench.cpu.translator.known_blocks.pack()


def plant() -> None:
    """What no JSON is was not expected in front of loops."""

    def unpack(data: bytes | memoryview) -> tuple[Any, memoryview]:
        start = 8 + int.from_bytes(data[:8], "little")
        return json.loads(bytes(data[8:start])), memoryview(data)[start:]

    loops.__dict__["unpack"] = unpack


_STENCILS = {"nop": Stencil(b"\x90" * 8, (Hole(2, 4, True, "next", -4),), True, False), "stop": Stencil(b"\xc3", (), False, True)}
_KEPT = {b"\x01" * 32: (b"\xc3" * 8, 0, [(4, 0, -4), (1, 2, 3)], [0, 1]), b"\x02" * 32: None}

TARGET = Target(
    run,
    [
        b"\0" + library._pack(library.Library(_STENCILS, b"\xcc" * 64, {"enter": 0, "leave": 16})),
        b"\x01" + loops._packed(_KEPT),
        b"\x02" + _translated(),
        b"\x80" + bytes(40),
    ],
    plant,
    words=(b"null", b"[", b"]", b"{", b"}", b"-1", b"1e9", b",", b"18446744073709551616", *(b"%d" % digit for digit in range(10))),
    memory=4 << 30,
    short=300,
)
