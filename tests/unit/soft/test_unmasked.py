"""Unmasked floating-point exceptions: what native code does by itself is, to the last bit, what the exact rules do.

Every encoding that may raise, on random operands, control words and flags, and with operands that fault.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle

import pytest
from iced_x86 import Code_, Encoder, Instruction, OpCodeInfo, OpKind, Register
from iced_x86 import OpCodeOperandKind as K

from silicon import operands
from trapgate.arch import xstate
from trapgate.isa.families import avx, hosted, sse, x87
from trapgate.soft.exact.careful import set_mxcsr
from unit.soft.bench import CODE, DATA, Bench
from unit.soft.hosted_operands import REGISTERS
from unit.soft.readings import compare

MODELS = ("EPYC-Turin", "SapphireRapids")
UNMAPPED, PAGE_END = 1 << 30, 0x20FFC
OTHER = {**REGISTERS, K.STI_OPCODE: Register.ST3}
VECTOR = {K.XMM_REG, K.XMM_RM, K.XMM_OR_MEM, K.XMM_VVVV, K.YMM_REG, K.YMM_RM, K.YMM_OR_MEM, K.YMM_VVVV}
EXCEPTIONS = 0x3F


def _encoded(code: Code_, memory: bool, bits: int) -> bytes | None:
    """An encoding on some registers, or with its operand at [rDI]."""
    i, p = Instruction(), hosted.plan(code)
    i.code = code
    for n, kind in enumerate(p.kinds):
        if memory and n == p.memory:
            i.set_op_kind(n, OpKind.MEMORY)
            i.memory_base = Register.RDI if bits == 64 else Register.EDI
        elif kind == K.IMM8:
            i.set_op_kind(n, OpKind.IMMEDIATE8)
            i.set_immediate_u64(n, 0xF3)
        elif kind in OTHER:
            i.set_op_kind(n, OpKind.REGISTER)
            i.set_op_register(n, OTHER[kind] - (n == 0 and kind in VECTOR))  # type: ignore[arg-type]
        else:
            return None
    encoder = Encoder(bits)
    encoder.encode(i, 0)
    return encoder.take_buffer()


def _of(codes: Iterator[Code_], bits: int, wanted: Callable[[hosted.Plan], bool] = hosted.raises) -> Iterator[tuple[str, bytes]]:
    for code in codes:
        p, info = hosted.plan(code), OpCodeInfo(code)
        if wanted(p) and (info.mode64 if bits == 64 else info.mode32):
            for memory in p.variants:
                data = _encoded(code, memory, bits)
                if data is not None:
                    yield p.form(memory), data


def _random_image(source: random.Random, waits: bool) -> bytes:
    """An x87 image; `waits`: an exception may wait in it."""
    control = 0x340 | source.getrandbits(6) | source.getrandbits(2) << 10
    status = source.getrandbits(6) | source.getrandbits(4) << 8 | source.randrange(8) << 11
    if not waits:
        status &= ~(EXCEPTIONS & ~control)
    elif status & EXCEPTIONS & ~control:
        status |= 0x8080  # ES and B
    tags = source.choice((0xFF, 0, source.getrandbits(8)))
    head = control.to_bytes(2, "little") + status.to_bytes(2, "little") + bytes((tags, 0, 0, 0))
    head += source.randbytes(6).ljust(8, b"\0") + source.randbytes(6).ljust(8, b"\0")
    stack = b"".join(operands.floating(source, 80).to_bytes(10, "little") + bytes(6) for _ in range(8))
    return head + bytes(8) + stack


def _prepare(bench: Bench, source: random.Random, address: int | None, waits: bool = False) -> None:
    st = bench.st
    st.cr4 |= 1 << 9 | 1 << 10 | 1 << 18
    st.cr0 |= 1 << 5
    st.xcr0 = 7
    st.fxsave[: xstate.XMM0] = _random_image(source, waits)
    flushing = source.choice((0, 0, 0x40, 0x8000, 0x8040))
    masks = source.choice((0, 0x3F, source.getrandbits(6), 0x3F ^ 1 << source.randrange(6)))
    set_mxcsr(bench.cpu, masks << 7 | source.getrandbits(2) << 13 | flushing | source.getrandbits(6) & source.getrandbits(6))
    for lower, upper in zip(xstate.SSE.registers, xstate.AVX.registers, strict=True):
        getattr(st, lower)[:] = operands.vector(source).to_bytes(16, "little")
        getattr(st, upper)[:] = operands.vector(source).to_bytes(16, "little")
    size = source.choice((32, 64, 80))
    bench.ram.write(DATA, operands.vector(source).to_bytes(16, "little") + source.randbytes(128))
    bench.ram.write(DATA, operands.floating(source, size).to_bytes(size // 8, "little"))
    st.rcx, st.rax, st.rdi = source.getrandbits(64), source.getrandbits(64), DATA if address is None else address
    st.set_rflags(2 | source.choice((0, 0x8D5)))
    st.ds_limit = 0xFFFFFFFF if address is None or bench.mode == "64" else DATA + source.randrange(16)


def _judge(name: str, cases: Sequence[tuple[str, bytes]], mode: str, turns: int) -> None:
    """Both readings of some encodings; AssertionError where they differ, or hardly any is native."""
    native = quiet = 0
    for model in MODELS:
        both = cycle((Bench(mode, 0, model), Bench(mode, 0, model)))

        def make(source: random.Random, both: Iterator[Bench] = both) -> Bench:
            bench = next(both)
            bench.st.rip = CODE
            return bench

        for form, data in cases:
            for turn in range(turns):
                odd = turn % 4 == 3
                source = random.Random(f"{form} {turn}")
                address = source.choice((UNMAPPED if mode == "64" else DATA, PAGE_END, DATA + 1)) if odd else None
                prepare = partial(_prepare, address=address, waits=turn % 5 == 4)
                found = compare(f"{name} {model} {form} {turn}", data, make, prepare)
                quiet += found.fault is None
                native += found.native
    assert native > 0.6 * quiet > 100, (native, quiet)


def _kinds(bits: int) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    yield "sse", list(_of(sse.codes(), bits))
    if bits == 64:
        yield "avx", list(_of(avx.codes(), bits))
    yield "x87", list(_of(x87.codes(), bits, lambda p: True))


KINDS = {"64": ("sse", "avx", "x87"), "32": ("sse", "x87")}
CASES = [(f"{kind} {mode}", kind, mode) for mode, kinds in KINDS.items() for kind in kinds]


@pytest.mark.parametrize(("name", "kind", "mode"), CASES, ids=[name for name, _, _ in CASES])
def test_native_is_exact(name: str, kind: str, mode: str) -> None:
    cases = dict(_kinds(64 if mode == "64" else 32))[kind]
    _judge(name, random.Random(name).sample(cases, 40), mode, 5)


@pytest.mark.long
@pytest.mark.parametrize(("name", "kind", "mode"), CASES, ids=[name for name, _, _ in CASES])
def test_native_is_exact_for_every_encoding(name: str, kind: str, mode: str) -> None:
    _judge(name, dict(_kinds(64 if mode == "64" else 32))[kind], mode, 8)
