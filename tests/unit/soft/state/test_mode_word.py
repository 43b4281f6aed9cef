"""The mode word after events of 64-bit code, which change what hangs on CPL and RFLAGS, is the one worked out from everything."""

import random

import pytest

from trapgate.arch import control, flags
from trapgate.exits import Halted
from unit.soft.bench import CODE, DATA, K64, STACK0, STACK3, U64, UDATA, Bench

HANDLER = CODE + 0x1000
HLT = "f4"
WAYS = {
    "an exception": "0f0b",  # ud2
    "INT3": "cc",
    "IRETQ": "48cf",
    "SYSCALL": "0f05",
    "SYSRETQ": "480f07",
    "POPFQ": "9d" + HLT,
    "STAC": "0f01cb" + HLT,
    "CLAC": "0f01ca" + HLT,
}
FROM_RING0 = {"IRETQ", "SYSRETQ", "STAC", "CLAC"}


def _random_flags(source: random.Random) -> int:
    return flags.FIXED | source.choice((0, flags.AC)) | source.choice((0, 1, 2, 3)) << flags.IOPL_SHIFT


@pytest.mark.parametrize("way", WAYS)
def test_an_event_leaves_the_mode_that_everything_gives(way: str) -> None:
    source = random.Random(way)
    seen = set()
    for _ in range(40):
        cpl = 0 if way in FROM_RING0 else source.choice((0, 3))
        bench = Bench("64", cpl=cpl)
        st = bench.st
        _prepare(bench, way, source, cpl)
        bench.cpu.update_mode()
        before = st.count_dispatch
        for _ in range(20):
            if isinstance(bench.cpu.run(), Halted) or st.rip == HANDLER:
                break
        assert st.count_dispatch > before
        left, trap = st.mode, st.bus_lock_trap
        bench.cpu.update_mode()
        assert (left, trap) == (st.mode, st.bus_lock_trap), f"from CPL {cpl}, RFLAGS {st.get_rflags():#x}"
        seen.add(left)
    assert len(seen) > 2


def _prepare(bench: Bench, way: str, source: random.Random, cpl: int) -> None:
    """Code, tables and registers, with random bits of what the mode follows from."""
    st = bench.st
    bench.ram.write(CODE, bytes.fromhex(WAYS[way]))
    bench.ram.write(HANDLER, bytes.fromhex(HLT))
    for vector in (3, 6, 13, 14):
        bench.gate(vector, K64, HANDLER, dpl=3)
    st.cr0 |= source.choice((0, control.CR0_AM)) | source.choice((0, control.CR0_TS)) | source.choice((0, control.CR0_EM))
    st.cr4 |= source.choice((0, control.CR4_SMAP)) if cpl == 0 and way != "POPFQ" else 0
    st.cr4 = st.cr4 & ~control.CR4_OSFXSR | source.choice((0, control.CR4_OSFXSR))
    st.debugctl = source.choice((0, 4))
    st.efer |= control.EFER_SCE
    st.star, st.lstar, st.sfmask = K64 << 32 | (U64 - 16) << 48, HANDLER, source.choice((0, flags.AC))
    st.set_rflags(_random_flags(source))
    outer = source.choice((0, 3))
    new = _random_flags(source)
    st.rcx, st.r11 = HANDLER, new
    frame: tuple[int, ...] = (HANDLER, U64 | 3, new, STACK3, UDATA | 3) if outer else (HANDLER, K64, new, STACK0, 0)
    if way == "POPFQ":
        frame = (new,)
    for n, word in enumerate(frame):
        bench.ram.write_int(DATA + 8 * n, 8, word)
    if way in ("IRETQ", "POPFQ"):
        st.rsp = DATA
