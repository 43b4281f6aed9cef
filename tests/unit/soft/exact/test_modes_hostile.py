"""Random bytes as whole programs in every mode: no exception or signal of the host, no run past its budget."""

import random

import pytest

from trapgate.exits import DebugException, Halted, Interrupted, MmioRead, MmioWrite, PortRead, PortWrite, Shutdown
from unit.soft.bench import CODE, IDT, K32, K64, STACK0, Bench

EXITS = 20  # of one program
BUDGET = 300  # instructions of one stay in translated code
PROGRAMS = 5
HANDLER = CODE + 0x8000
# What lets random bytes go on instead of faulting at once: moves, stores near the stack, short jumps, strings.
FRAGMENTS = [
    bytes.fromhex(text)
    for text in "90 48ffc0 01d8 29c3 8b0424 890424 50 58 eb02 7502 e2fa f3aa f3a4 f2ae a4 ab 0fa2 0f31 9c 9d e800000000 c3 c9 "
    "c8100001 60 61 8ed8 8ec0 cd03 cc ce f1 0f05 0f34 0fae00 0f1000 0f1100 0f7ec0 d9e8 dd00 dd10 9b 660f6f00 f00108 f00fb108 "
    "0fc708 87 a5 cf cb ca0400 ff10 ff20 ff18 ff28 9a 0f0b 0fff f4 fa fb e4e9 e6e9 ec ee 6c 6e 0f01f8 0f0138 0f20c0 0f22c0 0f22d8 "
    "0f22e0 0f30 0f32 c7050000200000000000 c60425".split()
]


def program(source: random.Random) -> bytes:
    """Some bytes, part of them sensible."""
    code = b""
    while len(code) < 300:
        code += source.choice(FRAGMENTS) if source.random() < 0.7 else source.randbytes(source.randrange(1, 8))
        if source.random() < 0.15:
            code += bytes([source.choice((0x66, 0x67, 0xF0, 0xF2, 0xF3, 0x2E, 0x36, 0x64, 0x65, 0x48, 0x4F))])
    return code


def answer(bench: Bench, source: random.Random) -> None:
    """Run one program, answering what it asks of the machine."""
    for _ in range(EXITS):
        bench.cpu.budget(BUDGET)
        match bench.cpu.run():
            case PortRead() | MmioRead():
                bench.cpu.complete(source.randrange(1 << 32))
            case PortWrite() | MmioWrite():
                pass
            case DebugException(causes=causes, hits=hits, icebp=icebp):
                bench.cpu.deliver_debug(causes, hits, icebp)
            case Halted() | Shutdown():
                return
            case Interrupted():
                if bench.cpu.executed() > 3 * BUDGET:
                    return


@pytest.mark.parametrize("mode", ["real", "v86", "32", "64", "compat"])
@pytest.mark.parametrize("variant", ["plain", "one", "unchained", "alignment"])
def test_random_programs(mode: str, variant: str) -> None:
    source = random.Random(f"{mode} {variant}")
    executed = 0
    for _ in range(PROGRAMS):
        cpl = 3 if mode == "v86" else 0 if mode == "real" else source.choice((0, 3))
        bench = Bench(mode, cpl, counting=True)
        st, cpu = bench.st, bench.cpu
        cpu.translator.configure(block_limit=1 if variant == "one" else None, chaining=variant != "unchained")
        if variant == "alignment":
            st.cr0 |= 1 << 18
            st.rflags |= 1 << 18
            cpu.update_mode()
        for vector in range(32):
            if mode != "real":
                bench.gate(vector, K64 if mode in ("64", "compat") else K32, HANDLER, dpl=3)
        bench.ram.write(HANDLER, bytes.fromhex("83c408 48cf" if mode in ("64", "compat") else "83c404 cf"))
        start = 0x1040 if mode in ("real", "v86") else CODE
        bench.ram.write(start, program(source))
        for name in ("rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi"):
            setattr(st, name, source.choice((source.randrange(256), STACK0, start, IDT, source.randrange(1 << 64))))
        answer(bench, source)
        executed += cpu.executed()
    assert executed > PROGRAMS
