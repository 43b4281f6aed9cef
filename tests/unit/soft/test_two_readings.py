"""Events of 64-bit code on random states: what native code delivers as plain is, to the last bit, what exact Python does.

Each is run as blocks, where native code does what is plain, and in a debugger's steps, where Python does it all.
"""

import random
import threading

import pytest

from trapgate.arch import control, flags
from trapgate.arch.segments import Descriptor
from trapgate.exits import DebugException, Halted, Shutdown
from trapgate.isa import state as s
from unit.soft.bench import (
    ABSENT,
    CODE,
    CONFORMING,
    DATA,
    DOWN,
    GDT,
    IDT,
    K16,
    K32,
    K64,
    KDATA,
    LDT,
    READONLY,
    STACK0,
    STACK3,
    TSS,
    U32,
    U64,
    UDATA,
    Bench,
)  # fmt: skip
from unit.soft.test_hostile import architectural, different

HANDLER = CODE + 0x1000
UNMAPPED = 1 << 30
PAGE_END = 0x7008  # a frame from here lies in two pages
ODD_ADDRESSES = (HANDLER, 1 << 47, (1 << 64) - 16, UNMAPPED, PAGE_END, PAGE_END - 24, STACK0, DATA)
SELECTORS = (
    0,
    3,
    K64,
    U64 | 3,
    U64,
    KDATA,
    UDATA | 3,
    K32,
    U32 | 3,
    CONFORMING,
    ABSENT,
    READONLY | 3,
    DOWN,
    K16,
    LDT,
    0x4C,
    0x7F8,
    0xFFF8,
)
SCRATCH = range(0x1000, 0x24000)  # tables, stacks, code and data
EVENTS = {
    "#UD": "0f0b",
    "#GP(0)": "0f32",  # RDMSR of an index that is none
    "#PF": "8b0425 00000040".replace(" ", ""),
    "#DE": "f7f1",
    "INT3": "cc",
    "INT 40h": "cd40",
    "IRETQ": "48cf",
    "SYSCALL": "0f05",
    "SYSRETQ": "480f07",
    "SYSRET": "0f07",
}
STEPS = 6000  # until a stack has run through the pages below it
ENDLESS = "faults for ever"
UNSEEN = ("shadow_rip", "pending_debug")
VECTORS = (0, 3, 6, 8, 10, 11, 12, 13, 14, 0x40)
FLAGS = (flags.IF, flags.NT, flags.RF, flags.AC, flags.DF, flags.ID, flags.CF, flags.ZF)
GENERAL = ("rax", "rdx", "rbx", "rbp", "rsi", "rdi", "r8", "r15")


def _often(source: random.Random, usual: int, others: tuple[int, ...], odds: float = 0.15) -> int:
    return source.choice(others) if source.random() < odds else usual


def _flags(source: random.Random) -> int:
    chosen = sum(
        bit for bit in (flags.IF, flags.NT, flags.RF, flags.AC, flags.DF, flags.ID, flags.CF, flags.ZF) if source.random() < 0.25
    )
    return flags.FIXED | chosen | source.choice((0, 3)) << flags.IOPL_SHIFT


def _tables(bench: Bench, source: random.Random) -> None:
    """Gates, stacks in the TSS, limits: mostly plain, sometimes whatever they may be."""
    for vector in VECTORS:
        selector, kind = _often(source, K64, SELECTORS, 0.05), source.choice((14, 15))
        bench.gate(
            vector, selector, _often(source, HANDLER, ODD_ADDRESSES, 0.05), _often(source, kind, (5, 6, 12, 9), 0.03),
            dpl=source.choice((0, 3)), ist=source.choice((0, 0, 0, 1, 2)),
        )  # fmt: skip
    if source.random() < 0.1:
        bench.ram.write_int(IDT + 16 * source.choice(VECTORS) + 5, 1, source.randrange(256))
    for at in (4, 0x24, 0x2C):
        bench.ram.write_int(TSS + at, 8, _often(source, STACK0 - source.randrange(64), ODD_ADDRESSES))
    bench.st.tr_limit = _often(source, 0x2FF, (0x3, 0xB, 0x2A))
    bench.st.idt_limit = _often(source, 0xFFF, (0, 0x5F, 0xDF))
    bench.st.gdt_limit = _often(source, 0xFF, (0x7, 0x2F))
    if source.random() < 0.1:
        kind, present, long = source.randrange(16), source.random() < 0.8, source.random() < 0.7
        one = Descriptor(type=kind, dpl=source.choice((0, 3)), present=present, long=long)
        bench.ram.write(GDT + (source.choice((K64, U64, KDATA, UDATA)) & 0xFFF8), one.to_bytes())


def _registers(bench: Bench, source: random.Random, event: str, cpl: int) -> None:
    st = bench.st
    for name in GENERAL:
        setattr(st, name, source.randrange(1 << 64))
    st.cr0 |= _often(source, 0, (control.CR0_AM, control.CR0_TS, control.CR0_WP))
    st.debugctl = source.choice((0, 4))
    st.efer |= _often(source, control.EFER_SCE, (0,))
    base = _often(source, U64 - 16, (K64, 0x43))
    st.star, st.lstar = K64 << 32 | base << 48, HANDLER
    st.sfmask = source.choice((0, flags.IF | flags.NT | flags.AC, (1 << 32) - 1))
    st.set_rflags(_flags(source))
    st.rcx = 0xFFFF if event == "#GP(0)" else 0 if event == "#DE" else _often(source, HANDLER, ODD_ADDRESSES)
    st.r11 = _flags(source)
    for name in ("ds", "es", "fs", "gs"):
        if source.random() < 0.3:
            setattr(st, f"{name}_selector", source.choice((0, 1, 3)))
            setattr(st, f"{name}_attributes", s.UNUSABLE)
    if cpl == 0 and event == "IRETQ":
        st.rsp = _often(source, STACK0 - 0x100 - source.randrange(8), (UNMAPPED, PAGE_END, 1 << 47))
        outer = source.random() < 0.6
        frame = (
            _often(source, HANDLER, ODD_ADDRESSES), _often(source, U64 | 3 if outer else K64, SELECTORS), _flags(source),
            _often(source, STACK3, ODD_ADDRESSES), _often(source, UDATA | 3 if outer else source.choice((0, KDATA)), SELECTORS),
        )  # fmt: skip
        for n, word in enumerate(frame):
            if st.rsp < 1 << 20:
                bench.ram.write_int(st.rsp + 8 * n, 8, word)


def _made(seed: str, event: str, model: str) -> Bench:
    source = random.Random(seed)
    cpl = 0 if event == "IRETQ" else source.choice((0, 3))
    bench = Bench("64", cpl=cpl, model=model)
    bench.ram.write(CODE, bytes.fromhex(EVENTS[event]))
    bench.ram.write(HANDLER, b"\xf4")
    bench.ram.write(0x40 + HANDLER - 0x40, b"\xf4")
    _registers(bench, source, event, cpl)
    _tables(bench, source)
    bench.cpu.update_mode()
    return bench


def _ended(bench: Bench, stepping: bool) -> str:
    """Run to the HLT of a handler, or to the CPU's end; a guest may do neither, and fault for ever."""
    for _ in range(STEPS):
        bench.cpu.step(stepping)
        kick = threading.Timer(0.2, bench.cpu.kick)
        kick.start()
        exit_ = bench.cpu.run()
        kick.cancel()
        if isinstance(exit_, Halted | Shutdown):
            return type(exit_).__name__
        if bench.st.count_exceptions > 10_000:
            break
        assert not isinstance(exit_, DebugException) or not exit_.hits, exit_
    return ENDLESS


def _hex(bench: Bench, name: str) -> str:
    return hex(int(getattr(bench.st, name)))


@pytest.mark.parametrize("model", ["EPYC-Turin", "SapphireRapids"])
@pytest.mark.parametrize("event", EVENTS)
def test_native_delivery_is_the_exact_one(event: str, model: str) -> None:
    native = 0
    for n in range(60):
        seed = f"{event} {model} {n}"
        blocks, steps = _made(seed, event, model), _made(seed, event, model)
        ends = _ended(blocks, False), _ended(steps, True)
        assert ends[0] == ends[1], f"{seed}: {ends}"
        if ends[0] == ENDLESS:
            continue
        changed = different(architectural(blocks), architectural(steps))
        changed = [name for name in changed if name not in UNSEEN]
        assert not changed, f"{seed}: {[(name, *(_hex(one, name) for one in (blocks, steps))) for name in changed]}"
        assert blocks.st.cr2 == steps.st.cr2, seed
        assert blocks.ram.read(SCRATCH.start, len(SCRATCH)) == steps.ram.read(SCRATCH.start, len(SCRATCH)), seed
        native += blocks.st.count_dispatch > 1
    assert native > 20, "hardly anything was run as blocks"
