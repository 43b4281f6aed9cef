"""The jump cache has two writers: Python puts blocks in two pages where native code looks for them."""

import random

from trapgate.isa import modes
from trapgate.isa import state as s
from trapgate.isa.evaluate import Host, evaluate
from trapgate.isa.native.paging import jump_filter
from trapgate.isa.native.placing import jump_entry
from trapgate.isa.vocabulary import Trace, Value
from trapgate.soft.blocks.placed import Block
from unit.soft.bench import Bench

PLACES = ("T0", "T1", "T2", "X", "EA", "HOST")


def _looked_for(rip: int, mode: int) -> list[int]:
    """(tag, offset in `jumps`, word and bit of the first page, of the second) as native code works them out."""
    trace = Trace((64, 64))
    at = trace.arguments[0]
    values: list[Value] = [*jump_entry(at, trace.arguments[1]), *jump_filter(trace, at), *jump_filter(trace, at + 4096)]
    for name, value in zip(PLACES, values, strict=True):
        trace.put(f"saved_{name}", value)
    trace.result()
    host = Host()
    evaluate(trace, host, {}, arguments=(rip, mode))
    return [int.from_bytes(host.state[s.offset(f"saved_{name}") :][:8], "little") for name in PLACES]


def test_python_fills_it_where_native_code_looks() -> None:
    source = random.Random(1)
    bench = Bench("64")
    st = bench.st
    for _ in range(50):
        rip = source.randrange(1 << 47) | source.choice((0, 0xFFFF8 << 44))
        mode, code = source.randrange(modes.ALL), source.randrange(1 << 47)
        st.jumps[:] = bytes(len(st.jumps))
        st.jump_pages[:] = bytes(len(st.jump_pages))
        bench.cpu.remember_jump(Block((rip, 0x5000, mode), code, 2, 0x6000))
        tag, at, *filters = _looked_for(rip, mode)
        assert bytes(st.jumps[at : at + 16]) == tag.to_bytes(8, "little") + code.to_bytes(8, "little")
        for word, bit in (filters[:2], filters[2:]):
            assert int.from_bytes(bytes(st.jump_pages[word : word + 8]), "little") & bit
