"""A process that runs garbage and long streams of instructions as guests; nothing that they do may end it.

    python -m unit.soft.storm MODEL MODE FIRST COUNT NOW

Runs programs FIRST, FIRST + 1, ... of a mode; `now` names the one under way, and running that alone repeats it.
"""

import mmap
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from iced_x86 import Decoder

from trapgate.arch import xstate
from trapgate.exits import DebugException, Halted, Interrupted, MmioRead, PortRead, Shutdown
from trapgate.isa.modes import code_bits
from trapgate.soft.crash import Crashes
from trapgate.soft.loops.graph import graph, placed
from trapgate.soft.loops.installed import install
from trapgate.stencil.graph import NotALoop
from trapgate.stencil.loop import compile_loop
from unit.soft.bench import CODE, DATA, IDT, K32, K64, STACK0, TSS, Bench
from unit.soft.exact.test_modes_hostile import FRAGMENTS
from unit.soft.hosted_operands import cases

BYTES = 8192  # of a program: more than two pages, so that blocks lie in two
BUDGET, EXITS = 1500, 12  # instructions of one stay in translated code, and stays
HANDLERS = 0x6000
# A handler goes on one byte behind the instruction at fault: without its error code, INC [rSP], IRET.
SKIP = {16: "5589e5 ff4602 5d cf", 32: "ff0424 cf", 64: "48ff0424 48cf"}
DROPPED = {16: "", 32: "83c404", 64: "4883c408"}
WITH_ERROR = (8, 10, 11, 12, 13, 14, 17)
PREFIXES = bytes((0x66, 0x67, 0xF0, 0xF2, 0xF3, 0x2E, 0x36, 0x64, 0x65, 0x48, 0x4F))
INTERESTING = (
    0,
    1,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    (1 << 47) - 1,
    1 << 47,
    1 << 63,
    (1 << 64) - 1,
)
PLACES = (STACK0, CODE, CODE + 0xFF9, DATA, DATA + 0xFFD, IDT, TSS, 0x1000, 0x100000, 0x102000, (4 << 20) - 7, 4 << 20, 0xFEE00000)
LOOPS = 8  # one of so many programs gets its last loop compiled, if there is one; it runs without the instruction clock
PATIENCE = 0.02  # seconds of one stay there
REGISTERS = ("rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))


@cache
def hosted(bits: int) -> list[bytes]:
    """Every packed and floating encoding with an operand in memory."""
    return [case.code for case in cases(max(bits, 32), amd=False)]


def stream(source: random.Random, bits: int) -> bytes:
    """Instructions that exist, most of them harmless enough to go on."""
    code = bytearray()
    while len(code) < BYTES:
        kind = source.random()
        if kind < 0.25:
            code += source.choice(hosted(bits))
        elif kind < 0.5:
            code += source.choice(FRAGMENTS)
        elif kind < 0.6:
            code += bytes((0xEB, source.choice((2, 5, 0xF0, 0xC0))))
        else:
            if source.random() < 0.3:
                code.append(source.choice(PREFIXES))
            candidate = source.randbytes(15)
            i = Decoder(bits, candidate).decode()
            code += candidate[: i.len] if not i.is_invalid else b"\x90"
    return bytes(code[:BYTES])


def lay_handlers(bench: Bench, source: random.Random, place: Callable[[], int] | None = None) -> None:
    """A handler for each exception: it goes on one byte behind, or lies at some `place`."""
    size = 64 if bench.mode in ("64", "compat") else 16 if bench.mode == "real" else 32
    for vector in range(32):
        at = HANDLERS + 16 * vector
        bench.ram.write(at, bytes.fromhex(DROPPED[size] * (vector in WITH_ERROR and size > 16) + SKIP[size]))
        if place is not None:
            at = place()
        if bench.mode == "real":
            bench.ram.write_int(4 * vector, 4, at - 0x1000 | 0x100 << 16)
        else:
            bench.gate(vector, K64 if size == 64 else K32, at, source.choice((14, 15)), dpl=3)


def prepared(model: str, mode: str, source: random.Random, counting: bool) -> Bench:
    """A CPU at the beginning of a program, with something everywhere."""
    cpl = 3 if mode == "v86" else 0 if mode == "real" else source.choice((0, 3))
    bench = Bench(mode, cpl, model, counting)
    st, ram, cpu = bench.st, bench.ram, bench.cpu
    cpu.crashes = Crashes(cpu)
    cpu.crashes.catch()
    start = CODE
    if mode in ("real", "v86"):  # whose segment begins at 1000h
        start, st.rip = 0xA000, 0x9000
    code = source.randbytes(BYTES) if source.random() < 0.4 else stream(source, bench.bits)
    if not counting:  # a short loop, most of whose instructions are harmless
        code = b"".join(source.choice(hosted(bench.bits)) for _ in range(source.randrange(1, 10)))
        code += source.choice((b"", b"\xff\xc0", b"\x01\xc3"))
        code += bytes((0xEB, -len(code) - 2 & 0xFF))
    ram.write(start, code)
    ram.write(DATA, source.randbytes(8192))
    wild = source.random() < 0.3  # handlers are places in the same code
    lay_handlers(bench, source, (lambda: start + source.randrange(BYTES)) if wild else None)
    st.cr4 |= (1 << 9) * (source.random() < 0.9) | 1 << 10 | 1 << 18
    st.xcr0 = source.choice((xstate.LEGACY, xstate.ALL, xstate.ALL))
    for name in REGISTERS:
        kind = source.random()
        value = source.choice(PLACES) if kind < 0.6 else source.choice(INTERESTING) if kind < 0.8 else source.randrange(1 << 64)
        setattr(st, name, value)
    for place in xstate.VECTORS.values():
        getattr(st, place.field)[:] = source.randbytes(place.size)
    image = bytearray(source.randbytes(512))
    image[:2] = source.choice((0x37F, 0x37F, 0x340, source.randrange(1 << 16))).to_bytes(2, "little")
    st.fxsave[:] = bytes(image)
    cpu.set("mxcsr", source.choice((0x1F80, 0x1F80, 0, 0xFFFF, source.randrange(1 << 16))))
    st.set_rflags(2 | source.getrandbits(22) & (0x244CD5 if source.random() < 0.3 else 0x8D5) | (1 << 17) * (mode == "v86"))
    cpu.update_mode()
    variant = source.random()
    cpu.translator.configure(block_limit=1 if variant < 0.15 else None, chaining=variant > 0.3)
    return bench


def run(bench: Bench, source: random.Random, exits: int = EXITS, budget: int = BUDGET) -> str:
    """One program to its end, or for as long as it may; what the end was."""
    cpu, st = bench.cpu, bench.st
    for _ in range(exits):
        if cpu.deterministic:
            cpu.budget(budget)
        match cpu.run():
            case PortRead() | MmioRead():
                cpu.complete(source.randrange(1 << 32))
            case DebugException(causes=causes, hits=hits, icebp=icebp):
                cpu.deliver_debug(causes, hits, icebp)
            case Halted():
                if source.random() < 0.5:
                    return "halted"
                cpu.nmi()
            case Shutdown():
                return "shut down"
            case Interrupted():
                if cpu.can_interrupt():
                    cpu.interrupt(source.randrange(256))
                elif source.random() < 0.2:
                    cpu.nmi()
            case _:
                pass
    assert code_bits(st.mode) in (16, 32, 64)
    return "ran on"


@contextmanager
def kicked(bench: Bench) -> Iterator[None]:
    """The CPU is asked to come back over and over."""
    over = threading.Event()

    def body() -> None:
        while not over.wait(PATIENCE):
            bench.cpu.kick()

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    yield
    over.set()
    thread.join()


def loop(bench: Bench, key: tuple[int, int, int]) -> bool:
    """Compile the loop through a block, if there is one, as the thread for hot loops does. Whether it was."""
    block = placed(bench.cpu, *key)
    around = None if block is None else graph(bench.cpu, block)
    try:
        return around is not None and install(bench.cpu, around, compile_loop(around.nodes)) is not None
    except NotALoop:
        return False


def main(model: str, mode: str, first: str, count: str, place: str) -> None:
    """See above."""
    ends = Counter[str]()
    executed = 0
    with Path(place).open("r+b") as file, mmap.mmap(file.fileno(), 200) as now:
        for number in range(int(first), int(first) + int(count)):
            now[:] = f"{model} {mode} {number}".encode().ljust(len(now))
            source = random.Random(f"{model} {mode} {number}")
            bench = prepared(model, mode, source, number % LOOPS != 0)
            if bench.cpu.deterministic:
                ends[run(bench, source)] += 1
                executed += bench.cpu.executed()
                continue
            rip, mode_bits = int(bench.st.rip), int(bench.st.mode)
            key = rip, bench.cpu.linear(rip), mode_bits
            with kicked(bench):
                for _ in range(3):
                    ends[run(bench, source, 2)] += 1
                    ends["loops"] += loop(bench, key)
    print(executed, dict(ends))


if __name__ == "__main__":
    main(*sys.argv[1:])
