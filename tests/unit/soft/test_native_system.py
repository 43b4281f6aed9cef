"""System instructions that native code executes where they are plain: on random states it does what the exact rules do."""

import random

import pytest
from iced_x86 import Decoder

from trapgate.arch import control
from trapgate.soft.exact.segments import put_segment
from unit.soft.bench import (
    ABSENT,
    CONFORMING,
    DATA,
    DOWN,
    GATE,
    GDT,
    K16,
    K32,
    K64,
    KDATA,
    LDT,
    READONLY,
    STACK0,
    STACK3,
    TSS_SELECTOR,
    U32,
    U64,
    UDATA,
    Bench,
)
from unit.soft.readings import block, compare

MODES = ("real", "v86", "32", "64", "compat")
MODELS = ("EPYC-Turin", "SapphireRapids")
TURNS = 14
REGISTERS = ("rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi")
CR0_BITS = (control.CR0_TS, control.CR0_MP, control.CR0_EM, control.CR0_NE, control.CR0_WP, control.CR0_AM, control.CR0_CD,
            control.CR0_NW, control.CR0_PE, control.CR0_PG, 1 << 7, 1 << 33)  # fmt: skip
CR4_BITS = (control.CR4_PGE, control.CR4_PSE, control.CR4_DE, control.CR4_TSD, control.CR4_OSFXSR, control.CR4_OSXSAVE,
            control.CR4_UMIP, control.CR4_SMEP, control.CR4_SMAP, control.CR4_PAE, control.CR4_LA57, 1 << 30)  # fmt: skip

# What is read or written, by the legacy encoding; {m} is a memory operand at DATA.
CONTROL = {
    "MOV r, CRn": ("0f20c0", "0f20d0", "0f20d8", "0f20e0"),
    "MOV CR0, r": ("0f22c0",),
    "MOV CR3, r": ("0f22d8",),
    "MOV CR4, r": ("0f22e0",),
    "CLTS": ("0f06",),
    "LMSW": ("0f01f0", "0f01 {6}"),
    "SMSW": ("0f01e1", "660f01e1", "0f01 {4}"),
    "XGETBV": ("0f01d0",),
    "MOV r, DRn": ("0f21c1", "0f21d9", "0f21f1", "0f21f9", "0f21e1"),
    "MOV DR0, r": ("0f23c0",),
    "MOV DR3, r": ("0f23d8",),
    "MOV DR6, r": ("0f23f0",),
    "MOV DR7, r": ("0f23f8",),
}
TABLES = {
    "SGDT, SIDT": ("0f01 {0}", "0f01 {1}", "660f01 {0}"),
    "SLDT, STR": ("0f00c1", "0f00c9", "660f00c1", "0f00 {0}", "0f00 {1}"),
}


def encoded(form: str, mode: str) -> bytes:
    """An encoding, its memory operand {n}, n in the ModRM's reg field, in the way of the mode."""
    if "{" in form:
        reg = int(form[form.index("{") + 1]) << 3
        tail = f"{reg | 6:02x}0001" if mode in ("real", "v86") else f"{reg | 4:02x}25" if mode == "64" else f"{reg | 5:02x}"
        tail += "" if mode in ("real", "v86") else DATA.to_bytes(4, "little").hex()
        form = form[: form.index("{")] + tail
    return bytes.fromhex(form.replace(" ", ""))


def some(source: random.Random, bits: tuple[int, ...], odds: float = 0.2) -> int:
    """Some of these bits."""
    return sum(bit for bit in bits if source.random() < odds)


def made(mode: str, source: random.Random) -> Bench:
    """A CPU of either vendor at whatever CPL the mode can have."""
    return Bench(mode, 3 if mode == "v86" else 0 if mode == "real" or source.random() < 0.7 else 3, source.choice(MODELS))


def control_state(bench: Bench, source: random.Random) -> None:
    """Control and debug registers as they may stand, and registers full of what may be put there."""
    st = bench.st
    st.cr0 |= some(source, CR0_BITS[:6])
    st.cr4 |= some(source, CR4_BITS[:7]) & st.cr4_allowed
    st.dr7 = 0x400 | source.choice((0, 0, 0, 1 << 13, 2, 0x80)) | source.choice((0, 0xD0000))
    for n in range(4):
        setattr(st, f"dr{n}", source.choice((0, DATA + 0x500, source.randrange(1 << 32))))
    st.debugctl = source.choice((0, 4))
    st.dr6 = 0xFFFF0FF0 ^ source.choice((0, 1 << 11, 0x400F))
    for name in REGISTERS:
        zero, four = st.cr0 ^ some(source, CR0_BITS, 0.06), st.cr4 ^ some(source, CR4_BITS, 0.06)
        seven, others = st.dr7 ^ some(source, (1 << 13, 1 << 8, 1 << 2)), (st.cr3, st.dr0, 0, source.randrange(1 << 32), 1 << 40)
        setattr(st, name, source.choice((zero, four, seven, source.choice(others))))
    if source.random() < 0.7:
        st.rcx = 0
    st.rsp = STACK3 if bench.cpl == 3 else STACK0
    bench.ram.write(DATA, source.randbytes(16))
    if source.random() < 0.5:
        bench.ram.write_int(DATA + 2, 8, source.choice((0x1000, 0xFFFFFFFF, 1 << 47, (1 << 47) - 1, (1 << 64) - 4096)))
    if source.random() < 0.5:
        bench.ram.write_int(DATA, 2, source.randrange(16))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CONTROL | TABLES)
def test_control_and_table_registers(name: str, mode: str) -> None:
    native = 0
    for form in (CONTROL | TABLES)[name]:
        for turn in range(TURNS):
            seed = f"{name} {form} {mode} {turn}"
            native += compare(seed, encoded(form, mode), lambda source: made(mode, source), control_state).native
    assert native or mode == "v86"


SEGMENTS = {
    "MOV Sreg, r": ("8ec0", "8ed0", "8ed8", "8ee0", "8ee8", "8e {2}", "8e {4}"),
    "POP Sreg": ("0fa1", "0fa9", "660fa1", "07", "17", "1f"),
    "LFS and its kin": ("0fb4 {4}", "0fb5 {5}", "0fb2 {6}", "66c4 {0}", "c5 {0}"),
    "LAR": ("0f02c8", "660f02c8", "0f02 {1}", "480f02c8"),
    "LSL": ("0f03c8", "660f03c8", "0f03 {1}", "480f03c8"),
    "VERR, VERW": ("0f00e0", "0f00e8", "0f00 {4}", "0f00 {5}"),
}
ONLY_LEGACY, ONLY_LONG = ("07", "17", "1f", "66c4 {0}", "c5 {0}"), ("480f02c8", "480f03c8")
SELECTORS = (
    *(0, 1, 2, 3, 4, K64, K32, KDATA, KDATA | 1, KDATA | 3, U32 | 3, UDATA | 3, UDATA, U64 | 3, TSS_SELECTOR, GATE, CONFORMING),
    *(ABSENT, READONLY, READONLY | 3, DOWN, K16, 0x0C, 0x14, 0x1C, 0x80, 0xF8, 0xFFF8),
)


def segment_state(bench: Bench, source: random.Random) -> None:
    """Descriptors of every kind in both tables, and selectors of them in RAX, on the stack and in memory."""
    st, ram = bench.st, bench.ram
    for at in (*range(GDT + 0x80, GDT + 0x100, 8), *range(LDT, LDT + 0x20, 8)):
        raw = source.getrandbits(64)
        ram.write_int(at, 8, raw | (1 << 47 if source.random() < 0.8 else 0) | (1 << 44 if source.random() < 0.8 else 0))
    for selector in (KDATA, UDATA, K32, CONFORMING):
        at = GDT + selector + 5
        ram.write_int(at, 1, ram.read_int(at, 1) & ~source.choice((0, 1)))  # not accessed yet
    if source.random() < 0.7:
        put_segment(bench.cpu, "ldtr", 0x40, LDT, 0x1F, 0x82)
    st.gdt_limit = source.choice((0xFF, 0xFF, 0xFB, 0x1F))
    if source.random() < 0.2:
        ram.write(GDT + 0xF00, ram.read(GDT, 0xF8))
        st.gdt_base, st.gdt_limit = source.choice((GDT + 0xF00, GDT + 0xF04)), 0xFF
    for name in REGISTERS:
        setattr(
            st,
            name,
            source.getrandbits(64) & ~0xFFFF | source.choice((*SELECTORS, source.randrange(0x80, 0x100), source.randrange(0x20))),
        )
    for at in (DATA, DATA + 2, DATA + 4, st.rsp, st.rsp + 2):
        ram.write_int(at, 2, source.choice((*SELECTORS, source.randrange(0x80, 0x100))))
    st.set_rflags(st.rflags | source.choice((0, 0x40, 0x8D5)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SEGMENTS)
def test_segments_and_descriptors(name: str, mode: str) -> None:
    native = 0
    for form in SEGMENTS[name]:
        if form in (ONLY_LEGACY if mode == "64" else ONLY_LONG):
            continue
        for turn in range(TURNS):
            seed = f"{name} {form} {mode} {turn}"
            native += compare(seed, encoded(form, mode), lambda source: made(mode, source), segment_state).native
    assert native


FAR = {
    "JMP far": ("ea", "66ea", "ff {5}", "66ff {5}", "48ff {5}"),
    "CALL far": ("9a", "669a", "ff {3}", "66ff {3}", "48ff {3}"),
    "RETF": ("cb", "66cb", "ca0800", "48cb"),
}
NEAR_BY = (0x10, 0x1000, 0xFFFF, 0x10100, 0x10203, 0xFFFFFFFF)
FAR_TURNS = 16


def far_form(form: str, mode: str, source: random.Random) -> bytes:
    """An encoding with a far pointer where it has one as an immediate."""
    if not form.endswith(("ea", "9a")):
        return encoded(form, mode)
    wide = (mode in ("32", "compat")) != form.startswith("66")
    return encoded(form, mode) + source.choice(NEAR_BY).to_bytes(8, "little")[: 4 if wide else 2] + b"\x10\0"


def far_state(bench: Bench, source: random.Random) -> None:
    """Far pointers in memory and on the stack, of targets that are plain and of others."""
    segment_state(bench, source)
    st, ram = bench.st, bench.ram
    for selector in (K64, K32, U32, U64, K16):
        if source.random() < 0.8:
            ram.write_int(GDT + selector + 5, 1, ram.read_int(GDT + selector + 5, 1) | 1)
    near = 0, st.cs_selector, st.cs_selector, K32 | bench.cpl, K64 | bench.cpl, U32 | 3, U64 | 3, CONFORMING, GATE, ABSENT
    for at in (DATA, st.rsp, st.ss_base + st.rsp):
        size = source.choice((2, 4, 8))
        ram.write_int(at, size, source.choice(NEAR_BY) & (1 << 8 * size) - 1)
        ram.write_int(at + size, 2, source.choice(near))
    st.rsp += source.choice((0, 0, 0, 0, 0, 0, 1, 0xFF8))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FAR)
def test_far_transfers(name: str, mode: str) -> None:
    native = 0
    for form in FAR[name]:
        if form.startswith("48") if mode != "64" else form.endswith(("ea", "9a")):
            continue
        for turn in range(FAR_TURNS):
            seed = f"{name} {form} {mode} {turn}"
            code = far_form(form, mode, random.Random(seed))
            native += compare(seed, code, lambda source: made(mode, source), far_state).native
    assert native


MSRS = (
    *(0xC0000080, 0xC0000081, 0xC0000082, 0xC0000084, 0xC0000100, 0xC0000102, 0x277, 0x174, 0x175, 0x1D9, 0x2FF, 0x8B, 0xFE),
    *(0x1A0, 0x33, 0x48, 0x49, 0xC0010015, 0xC0010020, 0xC0010055, 0xC0010004, 0x17A, 0x10A, 0x17, 0x12345, 0x1B, 0x200),
)


def msr_state(bench: Bench, source: random.Random) -> None:
    """An index in ECX, a value in EDX:EAX."""
    st, msrs = bench.st, bench.cpu.msrs
    for index in (0xC0000081, 0xC0000082, 0x174, 0x48, 0xC0010004):
        if index in msrs:
            msrs[index] = source.getrandbits(3)
    st.rcx = source.getrandbits(32) << 32 | source.choice(MSRS)
    index = st.rcx & 0xFFFFFFFF
    value = source.choice((msrs.get(index, 0), source.getrandbits(3), source.getrandbits(32), source.getrandbits(64), 1 << 47))
    st.rax, st.rdx = source.getrandbits(32) << 32 | value & 0xFFFFFFFF, source.getrandbits(32) << 32 | value >> 32


@pytest.mark.parametrize("mode", ["real", "32", "64"])
@pytest.mark.parametrize("code", ["0f30", "0f32"])
def test_model_specific_registers(code: str, mode: str) -> None:
    native = 0
    for turn in range(3 * TURNS):
        native += compare(f"{code} {mode} {turn}", bytes.fromhex(code), lambda source: made(mode, source), msr_state).native
    assert native > TURNS


def test_cpuid_is_answered_again_until_what_it_shows_has_changed() -> None:
    bench, seen = Bench("64"), list[tuple[bool, int]]()
    for change in (0, 0, control.CR4_OSXSAVE, 0, control.CR4_OSXSAVE):
        bench.st.cr4 ^= change
        bench.st.rax, bench.st.rcx, bench.st.rip = 1, 0, 0x10000
        bench.ram.write(0x10000, b"\x0f\xa2")
        native = block(bench, next(iter(Decoder(64, b"\x0f\xa2")))).native
        seen.append((native, bench.st.rcx >> 27 & 1))
    assert seen == [(False, 0), (True, 0), (False, 1), (True, 1), (False, 0)]
