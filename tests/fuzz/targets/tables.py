"""What a guest tells its CPU in memory: descriptor tables, task state segments and page tables of any content, and code for them.

Only faults of the guest may come of it. The rules in Python have probes; signals of translated code are findings as well.
"""

import struct
from itertools import count
from random import Random

from fuzz.target import Target
from trapgate.arch import vectors
from trapgate.exits import Exit
from trapgate.soft.crash import Crashes
from trapgate.soft.exact import interrupts, returns, rules, transfers
from trapgate.soft.state.core import SoftCore
from trapgate.soft.state.fault import GuestFault
from unit.soft.bench import (
    CODE,
    CONFORMING,
    GATE,
    GDT,
    IDT,
    K32,
    K64,
    LDT,
    STACK0,
    STACK3,
    TSS,
    TSS_SELECTOR,
    U32,
    U64,
    UDATA,
    Bench,
)
from unit.soft.storm import lay_handlers
from unit.soft.storm import run as execute

MODES = ("64", "compat", "32", "v86", "real")
MODELS = ("EPYC-Turin", "SapphireRapids")
_HEAD = struct.Struct("<BBHQ")  # mode and model, CPL and stepping, number of code bytes, RFLAGS and the seed of registers
TABLES = ((GDT, 128), (IDT, 256), (LDT, 32), (TSS, 128), (0x100000, 16), (0x101000, 16), (0x102000, 32), (STACK0, 40), (STACK3, 20))
CODE_MOST = 128
EXITS, INSTRUCTIONS, DELIVERIES = 4, 60, 100  # stays in translated code, instructions of one, exceptions until a kick


def parts(data: bytes) -> tuple[tuple[int, int, int, int], bytes, bytes]:
    """Head, code, what lies over the tables."""
    mode, cpl, length, rest = _HEAD.unpack(data[: _HEAD.size].ljust(_HEAD.size, b"\0"))
    length %= CODE_MOST + 1
    return (mode, cpl, length, rest), data[_HEAD.size : _HEAD.size + length], data[_HEAD.size + length :]


def run(data: bytes) -> str:
    """Lay bytes over the tables of a CPU in some mode by exclusive or, and let it run."""
    (choice, privilege, _, rest), code, over = parts(data)
    mode = MODES[choice % len(MODES)]
    cpl = 3 if mode == "v86" else 0 if mode == "real" else 3 * (privilege & 1)
    bench = Bench(mode, cpl, MODELS[choice >> 7], counting=True)
    bench.cpu.crashes = Crashes(bench.cpu)
    bench.cpu.crashes.catch()
    lay_handlers(bench, Random(rest))
    for address, size in TABLES:
        lies = bench.ram.read(address, size)
        bench.ram.write(address, bytes(a ^ b for a, b in zip(lies, over[:size].ljust(size, b"\0"), strict=True)))
        over = over[size:]
    bench.ram.write(bench.cpu.linear(int(bench.st.rip)), code)
    bench.st.set_rflags(2 | rest & 0x244CD5 | (1 << 17) * (mode == "v86"))
    for name in ("rax", "rcx", "rdx", "rbx", "rsi", "rdi"):
        setattr(bench.st, name, Random(f"{rest} {name}").choice((GATE, K64, K32, U32, TSS_SELECTOR, CODE, TSS, LDT, 1 << 47, rest)))
    bench.cpu.update_mode()
    _kick_now_and_then(bench)
    return execute(bench, Random(rest), EXITS, INSTRUCTIONS)


def _kick_now_and_then(bench: Bench) -> None:
    """A guest whose exceptions only raise others executes no instruction, and no budget of them runs out: a kick gets it back."""
    right, met = bench.cpu.deliver, count(1)

    def deliver(fault: GuestFault) -> Exit | None:
        if next(met) % DELIVERIES == 0:
            bench.cpu.kick()
        return right(fault)

    bench.cpu.__dict__["deliver"] = deliver


def plant() -> None:
    """An event or a far transfer to what is no code segment was not expected."""

    def settle(cpu: SoftCore, rule: str, *arguments: int) -> None:
        try:
            rules.settle(cpu, rule, *arguments)
        except GuestFault as fault:
            if fault.vector == vectors.GP and fault.error:
                raise AssertionError("no code segment") from fault
            raise

    for room in (interrupts, returns, transfers):
        room.__dict__["settle"] = settle


def _input(mode: str, code: str, cpl: int = 0, rest: int = 2, tables: tuple[tuple[int, int, bytes], ...] = ()) -> bytes:
    """An input whose `tables` (table, offset, bytes) differ from the bench's, which are zero there."""
    raw, over = bytes.fromhex(code), b""
    for address, size in TABLES:
        piece = bytearray(size)
        for table, offset, content in tables:
            if table == address:
                piece[offset : offset + len(content)] = content
        over += piece
    return _HEAD.pack(MODES.index(mode), cpl, len(raw), rest) + raw + over


def _gate(selector: int, kind: int, dpl: int = 3, offset: int = CODE, wide: bool = True) -> bytes:
    low, high = offset & 0xFFFF, offset >> 16 & 0xFFFF
    return struct.pack("<HHBBH", low, selector, 0, 0x80 | dpl << 5 | kind, high) + bytes(8 * wide)


_FAR = struct.pack("<IH", CODE, K32).hex()
_CALLED = struct.pack("<IH", 0, GATE).hex()
_CALL = (GDT, GATE, _gate(K32, 12, wide=False))

# One encoding at least of what Python executes.
_ENCODED = """
    0f0110 0f0118 0f0100 0f0108 0f00d0 0f00d8 0f00c0 0f00c8 0f02c1 0f03c1 0f00e0 0f00e8 63c1 0fb210 0fb410 0fb510 8ed8 8ec1
    8ee2 8eea 8ed3 8cd8 0fa0 0fa1 fa fb 9c 9d e4f4 ed ef 6c f36e 0f32 0f30 0f31 0f01f9 0fa2 0f0138 660f388210 0f01d0 0f01d1
    0f01f8 0f06 0f01f0 0f01e0 0f20c0 0f22c0 0f20d8 0f22d8 0f20e0 0f22e0 440f20c0 440f22c0 0f23f8 0f21f8 0f23c0 0f23f0 f1 cc
    cd03 cd0d c8100001 f4 0fae08 0fae28 0fae10 0f05 480f07 0f34 480f35 ff28 ff18 48ff28 cb 48cb ca0800 cf 48cf 0f33 0fc7f0
    f30fc7f8 0f08 0f09 60 61 27 2f 37 3f d40a d50a d6 ce 6210 c510 c410 1e 1f 0e 07 16 17 9a00001000 ea00000100
    ea000001001000 9a000000004800 66cf 66cb e6e9
"""
_CODES = [bytes.fromhex(code) for code in _ENCODED.split()]


def _streams() -> list[bytes]:
    """All of them, some at a time, in each mode."""
    inputs, most = [], 36
    for mode in MODES:
        for at in range(0, len(_CODES), most):
            inputs += [
                _input(mode, b"".join(_CODES[at : at + most]).hex(), cpl, 0x3202, (_CALL,))
                for cpl in (0, 1)[: 1 + (mode in MODES[:3])]
            ]
    return inputs


TARGET = Target(
    run,
    [
        *_streams(),
        _input("64", "48cf", 0, 2, ((STACK0, 0, struct.pack("<5Q", CODE + 16, U64 | 3, 0x3002, STACK3, UDATA | 3)),)),
        _input("64", "48cb", 0, 2, ((STACK0, 0, struct.pack("<4Q", CODE + 16, K64, 0, 0)),)),
        _input("32", "cf", 0, 2, ((STACK0, 0, struct.pack("<5I", CODE + 16, U32 | 3, 0x3002, STACK3, UDATA | 3)),)),
        _input("32", "cf", 0, 2, ((STACK0, 0, struct.pack("<9I", 0x40, 0x100, 0x23002, 0x9000, 0, 0, 0, 0, 0)),)),
        _input("64", "cf", 1, 2, ((STACK3, 0, struct.pack("<5I", CODE + 16, U32 | 3, 2, STACK3, UDATA | 3)),)),
        _input("64", "8ed88ee08ee88ed0"),
        _input("64", "0f00d80f00d00f00e00f00c80f02c10f03c1"),
        _input("64", "0f0115000000000f011d00000000"),
        _input("64", "0f20d80f22d80f22e00f22c0"),
        _input("64", "0f050f070f340f35", 1),
        _input("64", "a10000000000800000ff24250000f0ff", 1),
        _input("32", f"9a{_CALLED}", 1, 2, (_CALL,)),
        _input("32", f"ea{_FAR}"),
        _input("32", "0f20c00d000000800f22c0f4"),
        _input("32", "cfcb1e0fa1071f"),
        _input("compat", f"9a{_CALLED}", 1, 2, (_CALL,)),
        _input("v86", "cd03fbfa9c9dcfe4f4ee6c"),
        _input("real", "cd03ea000000100f01160010660f20c0660f22c0"),
        _input("real", "9cfa9dcf8ed8ff2e0010cb"),
    ],
    plant,
    words=(
        *_CODES,
        *(struct.pack("<H", selector) for selector in (K64, K32, U32, U64, TSS_SELECTOR, GATE, CONFORMING, 4, 7)),
    ),
    memory=32 << 30,
    short=40,
)
