"""Random bytes as instructions in every mode: whatever a guest executes, a handler ends or faults; a fault has changed nothing."""

import random
import threading

import pytest
from iced_x86 import Decoder

from trapgate.arch import xstate
from trapgate.exits import Interrupted
from trapgate.isa.state import GUEST_BYTES, LAYOUT
from trapgate.soft.state.fault import GuestFault
from trapgate.soft.state.instructions import HANDLERS
from unit.soft.bench import CODE, K64, STACK0, Bench

OPCODES = (
    "8e 8c 0f00 0f01 0f20 0f22 0f30 0f32 ea 9a ff cb ca cf cd cc ce 62 c4 c5 0fb2 0fb4 0fb5 0f02 0f03 63 06 07 1f 16 17 0fa0 0fa1 "
    "0fa8 0fa9 0f05 0f07 0f34 0f35 e4 e5 ec ed e6 e7 ee ef 6c 6d 6e 6f 27 2f 37 3f d4 d5 d6 d7 60 61 c8 0fc7 0fa2 0f31 0f33 0fae "
    "9c 9d fa fb f4 0f06 0f08 0f09 0f1e"
).split()
PREFIXES = ("", "", "", "66", "67", "f3", "f2", "48", "f0", "2e", "6466")
SELECTORS = (0, 3, 8, 0x10, 0x18, 0x23, 0x2B, 0x33, 0x38, 0x48, 0x58, 0x60, 0x68, 0x70, 0x78, 0x84, 0xFFFF)
ADDRESSES = (STACK0, 0x20000, 0xFFFF, 0xFFFE, 0xFFFFFFFF, 0x40000000, (1 << 47) - 1, 1 << 47, (1 << 64) - 1)
REGISTERS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r15")
FIRST = LAYOUT["flag_result"].offset


def architectural(bench: Bench) -> bytes:
    """The guest's part of the CPU state behind RIP; without CR2, which a page fault sets, MXCSR of FXSAVE's image, and the pointers
    of x87 registers that are live, which here are none."""
    image = bytearray(bytes(bench.st)[FIRST:GUEST_BYTES])
    for name in ("cr2", "x87_fip", "x87_fdp", "x87_fop"):
        field = LAYOUT[name]
        image[field.offset - FIRST : field.offset - FIRST + field.size] = bytes(field.size)
    at = LAYOUT[xstate.IMAGE].offset + xstate.MXCSR.offset - FIRST
    image[at : at + 8] = bytes(8)
    return bytes(image)


def different(before: bytes, after: bytes) -> list[str]:
    """The names of the registers that differ."""
    fields = [field for field in LAYOUT.values() if FIRST <= field.offset < GUEST_BYTES]
    return [f.name for f in fields if after[f.offset - FIRST :][: f.size] != before[f.offset - FIRST :][: f.size]]


@pytest.mark.parametrize("mode", ["real", "v86", "32", "64", "compat"])
@pytest.mark.parametrize("model", ["EPYC-Turin", "SapphireRapids"])
def test_random_instructions(mode: str, model: str) -> None:
    source = random.Random(f"{mode} {model}")
    ran = faulted = 0
    for turn in range(600):
        if turn % 30 == 0:
            bench = Bench(mode, 3 if mode == "v86" else 0 if mode == "real" else source.choice((0, 3)), model)
        st = bench.st
        bench.bits = {0: 16, 1: 32, 2: 64}[st.mode & 3]
        prefix = source.choice(PREFIXES)
        prefix = "" if prefix == "48" and bench.bits != 64 else prefix
        code = bytes.fromhex(prefix + source.choice(OPCODES)) + source.randbytes(12)
        instruction = next(iter(Decoder(bench.bits, code, ip=0)))
        if instruction.mnemonic not in HANDLERS or instruction.is_call_near_indirect or instruction.is_jmp_near_indirect:
            continue
        for name in REGISTERS:
            value = source.choice((source.randrange(1 << 64), source.choice(SELECTORS), source.choice(ADDRESSES)))
            setattr(st, name, value)
        if source.random() < 0.5:
            st.rsp = STACK0
        for at in range(0, 0x40, 4):
            bench.ram.write_int(STACK0 + at, 4, source.choice((*SELECTORS, 0x3202, 0x20002, source.randrange(1 << 32))))
        st.rip &= 0xFFFF
        before, fault = architectural(bench), None
        try:
            bench.run(code[: instruction.len].hex())
            ran += 1
        except GuestFault as raised:
            faulted, fault = faulted + 1, raised
        if fault is not None:
            assert fault.vector in (0, 5, 6, 7, 10, 11, 12, 13, 14, 17), instruction
            changed = different(before, architectural(bench))
            assert not changed, f"{instruction} ({code.hex()}) raised {fault!r} and changed {changed}"
        if bench.cpu.pending_read is not None:
            try:
                bench.cpu.complete(source.randrange(1 << 32))
            except GuestFault:
                bench.cpu.pending_read = None
    assert ran > 20
    assert faulted > 20


def test_a_guest_that_faults_for_ever_can_be_interrupted() -> None:
    """The handler of #PF lies where nothing is mapped, on a stack of its own: no instruction is ever executed again."""
    bench = Bench("64")
    bench.gate(14, K64, 1 << 30, ist=1)
    bench.ram.write(CODE, bytes.fromhex("8b042500000040"))
    timer = threading.Timer(0.1, bench.cpu.kick)
    timer.start()
    assert isinstance(bench.cpu.run(), Interrupted)
    timer.join()
    assert bench.st.count_exceptions > 1
