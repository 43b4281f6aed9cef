"""Rules have two readings: on random states of every mode native code does what evaluation does."""

import ctypes
import random
from functools import lru_cache

import pytest

from trapgate.arch import control, flags
from trapgate.arch.segments import Descriptor
from trapgate.isa import modes
from trapgate.isa.rules.catalog import RULES
from trapgate.isa.rules.events import HAS_ERROR, INT_N, KEEP_RF, SET_RF, SOFTWARE
from trapgate.isa.rules.reading import DONE, FAULTED, HARD
from trapgate.isa.state import GUEST_BYTES, UNUSABLE
from trapgate.soft.exact.rules import evaluated
from trapgate.soft.exact.segments import put_segment
from trapgate.soft.state.fault import GuestFault
from unit.soft.bench import (
    ABSENT,
    CODE,
    CONFORMING,
    DOWN,
    GATE,
    GDT,
    IDT,
    K16,
    K32,
    K64,
    KDATA,
    LDT,
    READONLY,
    STACK0,
    TSS,
    TSS_SELECTOR,
    U32,
    U64,
    UDATA,
    Bench,
)  # fmt: skip
from unit.soft.test_hostile import architectural, different

MODELS = ("EPYC-Turin", "SapphireRapids")
MODES = ("real", "v86", "32", "64", "compat")
SELECTORS = (
    0, 3, K64, U64 | 3, U64, KDATA, UDATA | 3, K32, U32 | 3, CONFORMING, CONFORMING | 3, ABSENT, READONLY | 3, DOWN, K16, LDT,
    TSS_SELECTOR, GATE, GATE | 3, 0x4C, 0x7F8, 0xFFF8,
)  # fmt: skip
OFFSETS = (0x1234, 0xFFFF, 0x12345, 1 << 47, (1 << 64) - 16, 0xFFFFFFFF)
STACKS = (0, 1, 2, 6, 0xFFFE, 0x6FFC, 0x7002, 0x7004, 0x7008, 0x10000, 1 << 30, 0xFFFFFFF0, 1 << 47)
FLAGS = (flags.IF, flags.TF, flags.NT, flags.RF, flags.AC, flags.DF, flags.ID, flags.VIF, flags.VIP, flags.CF, flags.ZF, flags.OF)
VECTORS = (3, 8, 13, 14, 0x40)
IN_LONG_MODE = ("64", "compat")
RAM = 0x100000  # bytes that are compared: the tables and stacks, not page tables


def often(source: random.Random, usual: int, others: tuple[int, ...], odds: float = 0.15) -> int:
    """One of the others, sometimes."""
    return source.choice(others) if source.random() < odds else usual


def rflags(source: random.Random, virtual: bool) -> int:
    """Flags of any kind; VM where `virtual`."""
    some = sum(bit for bit in FLAGS if source.random() < 0.2)
    return flags.FIXED | some & ~flags.NT | source.choice((0, 0, 3, 3, 1)) << flags.IOPL_SHIFT | virtual * flags.VM


@lru_cache
def _kept(which: int, mode: str, cpl: int, model: str) -> tuple[Bench, bytes, bytes]:
    bench = Bench(mode, cpl=cpl, model=model)
    return bench, bytes(bench.st)[:GUEST_BYTES], bench.ram.read(0, RAM)


def fresh(which: int, mode: str, cpl: int, model: str) -> Bench:
    """A CPU as it was made; it is the same one each time."""
    bench, registers, memory = _kept(which, mode, cpl, model)
    ctypes.memmove(bench.cpu.address, registers, len(registers))
    bench.ram.write(0, memory)
    return bench


def made(which: int, seed: str, mode: str, model: str) -> tuple[Bench, random.Random]:
    """A CPU whose tables, stacks and registers are mostly plain, and sometimes whatever they may be."""
    source = random.Random(seed)
    cpl = {"real": 0, "v86": 3}.get(mode, source.choice((0, 0, 3)))
    bench = fresh(which, mode, cpl, model)
    st = bench.st
    _descriptors(bench, source)
    _gates(bench, source)
    st.cr4 |= source.choice((0, control.CR4_VME))
    st.cr0 |= source.choice((0, 0, control.CR0_AM, control.CR0_WP))
    st.tr_limit = often(source, 0x2FF, (0x3, 0xB, 0x2A, 0x60), 0.1)
    if mode == "32" and source.random() < 0.2:
        st.tr_attributes = 0x83  # of 16 bits
    st.ldtr_attributes, st.ldtr_base, st.ldtr_limit = often(source, 0x82, (UNUSABLE,)), LDT, 0xFF
    for name in ("rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi"):
        setattr(st, name, source.randrange(1 << (64 if mode == "64" else 32)))
    st.rsp = often(source, st.rsp - source.choice((0x100, 0x102, 0x104, 0x108)), STACKS) & (
        (1 << 64 if mode == "64" else 1 << 32) - 1
    )
    st.set_rflags(rflags(source, mode == "v86"))
    if source.random() < 0.1:
        st.set_rflags(st.get_rflags() | flags.NT)
    for name in ("ds", "es", "fs", "gs"):
        if source.random() < 0.3:
            setattr(st, f"{name}_selector", source.choice((0, 1, 3)))
            setattr(st, f"{name}_attributes", UNUSABLE)
    if mode == "32" and source.random() < 0.25:  # another stack, 16 bits wide or one that grows down
        kind, big = source.choice(((3, 0), (3, 1 << 14), (7, 0), (7, 1 << 14)))
        limit = source.choice((0xFFFF, 0x7FFF)) if kind == 3 else 0xFFF
        put_segment(bench.cpu, "ss", KDATA, source.choice((0, 0x2000)), limit, 0x90 | kind | big | bench.cpl << 5)
    st.nmi_blocked = source.choice((0, 0, 1))
    st.debugctl = source.choice((0, 4))
    st.next_rip = st.rip + 2
    bench.cpu.update_mode()
    bench.cpu.flush_all()
    return bench, source


def _descriptors(bench: Bench, source: random.Random) -> None:
    if source.random() < 0.2:
        one = Descriptor(
            limit=source.choice((0xFFFFF, 0x2000)), type=source.randrange(16), dpl=source.choice((0, 3)),
            present=source.random() < 0.8, long=source.random() < 0.5, db=source.random() < 0.5, granular=source.random() < 0.7,
        )  # fmt: skip
        bench.ram.write(GDT + (source.choice((K64, U64, K32, U32, KDATA, UDATA)) & 0xFFF8), one.to_bytes())
    if source.random() < 0.3:  # not accessed yet
        for selector in (K32, K64, KDATA, UDATA, U32, U64):
            at = GDT + (selector & 0xFFF8) + 5
            bench.ram.write_int(at, 1, bench.ram.read_int(at, 1) & 0xFE)
    bench.st.gdt_limit = often(source, 0xFF, (0x7, 0x2F), 0.05)
    long = bench.mode in IN_LONG_MODE
    ldt = Descriptor(often(source, LDT, (1 << 20,)), 0xFF, source.choice((2, 2, 9)), s=False, present=source.random() < 0.9)
    bench.ram.write(GDT + 0x90, ldt.to_bytes(16 if long else 8))
    code, offset, count = (
        often(source, K64 if long else K32, SELECTORS, 0.2),
        often(source, CODE + 8, OFFSETS),
        often(source, 0, (1, 3)),
    )
    kind = often(source, 12, (4, 14, 9)) if not long else often(source, 12, (4, 14), 0.1)
    low = (
        offset & 0xFFFF
        | code << 16
        | count << 32
        | (0x80 | source.choice((0, 3, 3)) << 5 | kind) << 40
        | (offset >> 16 & 0xFFFF) << 48
    )
    bench.ram.write_int(GDT + GATE, 8, low)
    if long:
        bench.ram.write_int(GDT + GATE + 8, 8, offset >> 32)


def _gates(bench: Bench, source: random.Random) -> None:
    if bench.mode == "real":
        for vector in VECTORS:
            bench.ram.write_int(4 * vector, 4, source.randrange(1 << 32))
        bench.st.idt_limit = often(source, 0x3FF, (0, 0x21))
        return
    if bench.mode == "v86":
        bench.ram.write_int(4 * 0x40, 4, source.randrange(1 << 32))
    long = bench.mode in IN_LONG_MODE
    for vector in VECTORS:
        selector = often(source, K64 if long else source.choice((K32, K32, K16)), SELECTORS, 0.1)
        kind = source.choice((14, 15) if long else (14, 15, 14, 15, 6, 7))
        offset = often(source, CODE, OFFSETS, 0.1) & (0xFFFFFFFF if not long else -1)
        bench.gate(vector, selector, offset, often(source, kind, (5, 6, 12, 9), 0.05),
                   dpl=source.choice((0, 3)), ist=source.choice((0, 0, 1)) if long else 0)  # fmt: skip
        if source.random() < 0.05:
            bench.ram.write_int(IDT + (16 if long else 8) * vector + 5, 1, source.randrange(256))
    bench.st.idt_limit = often(source, 0xFFF, (0, 0x5F), 0.05)
    bench.ram.write_int(TSS + 0x66, 2, often(source, 0x80, (0x300, 0x10)))
    bench.ram.write(TSS + 0x60 + 8, bytes([source.choice((0, 255))]))
    if long:
        for at in (4, 0x24):
            bench.ram.write_int(TSS + at, 8, often(source, STACK0 - source.randrange(64), STACKS))
    else:
        bench.ram.write_int(TSS + 4, 4, often(source, STACK0 - source.randrange(64), STACKS) & 0xFFFFFFFF)
        bench.ram.write_int(TSS + 8, 4, often(source, KDATA, SELECTORS))
        if bench.st.tr_attributes == 0x83:
            bench.ram.write_int(TSS + 2, 4, STACK0 | KDATA << 16)


def frame(bench: Bench, source: random.Random, size: int, code_first: bool) -> None:
    """What IRET (or RETF) pops, where the stack is."""
    st, long = bench.st, bench.mode in IN_LONG_MODE
    at = st.rsp
    if bench.mode != "64":
        at = st.ss_base + (at & (0xFFFFFFFF if st.mode & modes.STACK32 else 0xFFFF))
    outer = source.random() < 0.5 or bench.cpl == 3
    inside = (K64, K32) if long else (K32, K16, CONFORMING)
    code = source.choice((U64, U32) if long else (U32,)) | 3 if outer else source.choice(inside)
    data = UDATA | 3 if outer else often(source, KDATA, (0, 1, DOWN))
    to_virtual = size == 4 and not long and source.random() < 0.3
    limit = 0xFFFF if bench.mode in ("real", "v86") or to_virtual or size == 2 else 0xFFFFFFFF
    words = [often(source, source.randrange(limit + 1), OFFSETS, 0.1), often(source, code, SELECTORS, 0.1)]
    if code_first:
        words.append(rflags(source, to_virtual) | often(source, 0, (flags.NT, flags.TF)))
    words += [often(source, STACK0, STACKS), often(source, data, SELECTORS, 0.1), 0x111, 0x222, 0x333, 0x444]
    for n, word in enumerate(words):
        if at + size * n + size < RAM:
            bench.ram.write_int(at + size * n, size, word & (1 << 8 * size) - 1)


def arguments(rule: str, bench: Bench, source: random.Random) -> tuple[int, ...]:
    """Arguments for a rule, and what it finds on the stack."""
    size = int("".join(one for one in rule if one.isdigit()) or 0) // 8
    if rule == "enter_event":
        kinds = (KEEP_RF, SET_RF, SET_RF | HAS_ERROR, SOFTWARE, SOFTWARE | INT_N, SOFTWARE | INT_N)
        return source.choice(VECTORS), source.randrange(1 << 16), source.choice(kinds)
    if rule.startswith("interrupt_return"):
        frame(bench, source, size, code_first=True)
        return ()
    if rule.startswith("far_return"):
        frame(bench, source, size, code_first=False)
        return (source.choice((0, 0, 8)),)
    if rule.startswith(("far_call", "far_jump")):
        usual = source.choice((K64, K32, GATE, GATE) if bench.cpl == 0 else (U32 | 3, U64 | 3, GATE | 3, GATE | 3))
        return often(source, usual, SELECTORS), often(source, CODE + 4, OFFSETS)
    if rule.startswith(("system_", "fast_")):
        _system_calls(bench, source)
        return (int(bench.cpu.model.amd),) if rule.startswith("fast_") else ()
    if rule.startswith("load_"):
        return (often(source, 0x90 if rule == "load_ldt" else TSS_SELECTOR, SELECTORS),)
    return ()


def _system_calls(bench: Bench, source: random.Random) -> None:
    st = bench.st
    st.efer |= often(source, control.EFER_SCE, (0,), 0.05)
    targets = (1 << 47, (1 << 64) - 16, 0x1_2345_6789)
    st.star = often(source, K64, (0, 0xFFFF)) << 32 | often(source, U64 - 16, (0xFFFB,)) << 48 | source.randrange(1 << 32)
    st.lstar, st.cstar = often(source, CODE, targets), often(source, CODE + 8, targets)
    st.sfmask = source.choice((0, flags.IF | flags.NT | flags.AC, (1 << 32) - 1))
    st.rcx, st.rdx, st.r11 = often(source, CODE, targets), often(source, CODE, targets), rflags(source, False)
    st.sysenter_cs = often(source, K32, (0, 3, 0xFFFF))
    st.sysenter_esp, st.sysenter_eip = often(source, STACK0, targets), often(source, CODE, targets)


def fits(rule: str, mode: str) -> bool:
    """Whether a mode has the instruction of a rule."""
    if rule.endswith("64") or rule == "system_return64_amd":
        return mode == "64"
    if rule.startswith(("system_", "fast_")):
        return mode not in ("real", "v86")
    if rule.startswith(("push_all", "pop_all")):
        return mode != "64"
    return not rule.startswith("load_") or mode not in ("real", "v86")


def natively(bench: Bench, rule: str, given: tuple[int, ...]) -> int | tuple[int, int | None]:
    """How native code ends a rule: HARD, DONE, or the fault."""
    outcome = bench.cpu.rules[rule](bench.cpu.address, *given)
    return (bench.st.fault_vector, bench.st.fault_error) if outcome == FAULTED else outcome


def by_evaluation(bench: Bench, rule: str, given: tuple[int, ...]) -> int | tuple[int, int | None]:
    """How evaluation does."""
    try:
        evaluated(bench.cpu, rule, *given)
    except GuestFault as fault:
        return fault.vector, fault.error
    return DONE


@pytest.mark.parametrize("rule", RULES)
def test_native_code_does_what_evaluation_does(rule: str) -> None:
    compare(rule, 12)


@pytest.mark.long
@pytest.mark.parametrize("rule", RULES)
def test_native_code_does_what_evaluation_does_at_length(rule: str) -> None:
    compare(rule, 400)


def compare(rule: str, turns: int) -> None:
    """So many states of each mode."""
    settled = done = 0
    for mode in MODES:
        for turn in range(turns if fits(rule, mode) else 0):
            seed = f"{rule} {mode} {turn}"
            (one, source), (two, again) = (made(n, seed, mode, MODELS[turn % 2]) for n in range(2))
            given = arguments(rule, one, source)
            assert arguments(rule, two, again) == given
            ours = natively(one, rule, given)
            if rule.startswith("load_") and one.cpl:
                continue  # refused before the rule
            if ours == HARD:
                continue
            settled, done = settled + 1, done + (ours == DONE)
            theirs = by_evaluation(two, rule, given)
            assert ours == theirs, f"{seed}: {given}"
            for bench in (one, two):
                bench.cpu.update_mode()
            changed = different(architectural(one), architectural(two))
            assert not changed, f"{seed}: {[(name, getattr(one.st, name), getattr(two.st, name)) for name in changed]}"
            assert (one.st.rip, one.st.next_rip) == (two.st.rip, two.st.next_rip), seed
            assert one.ram.read(0, RAM) == two.ram.read(0, RAM), seed
    assert done > turns // 4, (settled, done)
