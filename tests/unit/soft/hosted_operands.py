"""A process that runs each hosted encoding on operands in memory of every kind; a signal ends it, and `now` tells where it was.

    python -m unit.soft.hosted_operands MODEL MODE MASKED NOW

It says what became of each case that did not end as the manuals have it, one line each, and how many cases there were at the end.
"""

import mmap
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from iced_x86 import Encoder, Instruction, Mnemonic, OpCodeInfo, OpKind, Register
from iced_x86 import OpCodeOperandKind as K

from trapgate.exits import Halted, MmioRead, MmioWrite
from trapgate.isa.families import avx, hosted, sse, x87
from unit.soft.bench import CODE, K32, K64, STACK0, Bench

HANDLERS = CODE + 0x8000
UD, GP, PF, MF, XM = 6, 13, 14, 16, 19
OK = -1
AREA = 576  # EAX asks for x87 and SSE
LOADED, DEVICE, MISSING = 0x200000, 0x400000, 0x600000  # RAM ends where the device begins
# SDM vol. 2, the instructions' pages: operands of 16 bytes anywhere. AMD's CPUs have SHA there, too.
VEX_ALIGNED = {
    getattr(Mnemonic, name) for name in "VMOVAPS VMOVAPD VMOVDQA VMOVNTPS VMOVNTPD VMOVNTDQ VMOVNTDQA".split()
}  # SDM vol. 2, 2.7: of VEX-encoded instructions these alone ask for alignment, of as many bytes as the operand has
ANYWHERE = {
    getattr(Mnemonic, name)
    for name in "MOVUPS MOVUPD MOVDQU LDDQU PCMPESTRI PCMPESTRM PCMPISTRI PCMPISTRM PCMPESTRI64 PCMPESTRM64".split()
}
ADDRESSES = {"aligned": LOADED + 0x40, "odd": LOADED + 0x41, "pages": LOADED + 0x1FF9, "end of RAM": DEVICE - 1}
ADDRESSES |= {"device": DEVICE + 0x101, "missing": MISSING + 0x100, "odd and missing": MISSING + 0x103}
ADDRESSES |= {
    "by 4": LOADED + 0x44, "by 8": LOADED + 0x48, "lines": LOADED + 0x3C, "pages by 8": LOADED + 0x1FF8, "last of RAM": DEVICE - 16,
    "end of RAM by 8": DEVICE - 8, "aligned device": DEVICE, "device to missing": MISSING - 7, "RAM to missing": 0xFFF9,
    "not canonical": 1 << 47, "to not canonical": (1 << 47) - 8, "wraps": (1 << 64) - 7,
}  # fmt: skip
REGISTERS = {
    **dict.fromkeys((K.XMM_REG, K.XMM_RM, K.XMM_OR_MEM, K.XMM_VVVV, K.XMM_IS4), Register.XMM3),
    **dict.fromkeys((K.YMM_REG, K.YMM_RM, K.YMM_OR_MEM, K.YMM_VVVV, K.YMM_IS4), Register.YMM3),
    **dict.fromkeys((K.MM_REG, K.MM_RM, K.MM_OR_MEM), Register.MM3),
    **dict.fromkeys((K.R32_REG, K.R32_OR_MEM), Register.ECX),
    **dict.fromkeys((K.R64_REG, K.R64_OR_MEM), Register.RCX),
    K.ST0: Register.ST0,
    K.AX: Register.AX,
}
# Encodings with forms or handlers of their own: bytes, operand's bytes and alignment, and whether what they load may be refused.
OWN = [
    ("0fae07", 512, 16, False), ("480fae07", 512, 16, False), ("0fae0f", 512, 16, True), ("480fae0f", 512, 16, True),
    ("0fae17", 4, 1, True), ("0fae1f", 4, 1, False), ("0fae27", AREA, 64, False), ("480fae27", AREA, 64, False),
    ("0fae2f", AREA, 64, True), ("480fae2f", AREA, 64, True), ("0fae37", AREA, 64, False), ("0fc727", AREA, 64, False),
    ("0fc72f", AREA, 64, False), ("0fc71f", AREA, 64, True), ("0ff7d1", 8, 1, False), ("660ff7d1", 16, 1, False),
    ("0fc70f", 8, 1, False), ("f00fc70f", 8, 1, False), ("480fc70f", 16, 16, False), ("f0480fc70f", 16, 16, False),
    ("f20f38f007", 1, 1, False), ("f20f38f107", 4, 1, False), ("f2480f38f107", 8, 1, False), ("0f38f007", 4, 1, False),
    ("480f38f107", 8, 1, False), ("480fc307", 8, 1, False), ("f30fb807", 4, 1, False), ("f3480fbd07", 8, 1, False),
    ("f0480fc107", 8, 1, False), ("f0480fb107", 8, 1, False), ("488707", 8, 1, False), ("a5", 4, 1, False),
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """An encoding; `alignment` in bytes, `refuses` whether #GP may follow from what it loads."""

    name: str
    code: bytes
    size: int
    alignment: int
    refuses: bool
    floating: bool


def encoded(code: int, bits: int, amd: bool) -> Case | None:
    """An encoding with its operand at [rDI]; None where it has none in memory, or this mode has no such encoding."""
    info, i = OpCodeInfo(code), Instruction()  # type: ignore[arg-type]
    i.code = code  # type: ignore[assignment]
    p = hosted.plan(i.code)
    if p.memory is None or (bits == 32 and not info.mode32) or (bits == 64 and not info.mode64):
        return None
    for n, kind in enumerate(info.op_kinds()):
        if n == p.memory:
            i.set_op_kind(n, OpKind.MEMORY)
            i.memory_base = Register.RDI if bits == 64 else Register.EDI
        elif kind == K.IMM8:
            i.set_op_kind(n, OpKind.IMMEDIATE8)
            i.set_immediate_u64(n, 0x11)
        else:
            i.set_op_kind(n, OpKind.REGISTER)
            register = int(REGISTERS[kind]) - (n == 0 and kind in (K.XMM_REG, K.MM_REG))
            i.set_op_register(n, register)  # type: ignore[arg-type]
    encoder = Encoder(bits)
    encoder.encode(i, 0)
    return Case(p.name, encoder.take_buffer(), p.size, _alignment(p, info.mnemonic, amd), False, True)


def _alignment(p: hosted.Plan, mnemonic: int, amd: bool) -> int:
    if p.vex:
        return p.size if mnemonic in VEX_ALIGNED else 1
    return 16 if p.size == 16 and mnemonic not in ANYWHERE and not (amd and p.name.startswith("sha")) else 1


def cases(bits: int, amd: bool) -> Iterator[Case]:
    """Every encoding."""
    for code in chain(sse.codes(), (code for code in avx.codes() if OpCodeInfo(code).mnemonic not in avx.MASKED), x87.codes()):
        if case := encoded(code, bits, amd):
            yield case
    for text, size, alignment, refuses in OWN:
        if bits == 64 or not text.replace("f0", "").removeprefix("f2").removeprefix("f3").startswith("48"):
            yield Case(text, bytes.fromhex(text), size, alignment, refuses, False)


def expected(case: Case, address: int, bits: int) -> set[int]:
    """What may become of it, exceptions that follow from values apart: a vector or `OK`."""
    last = address + case.size - 1
    if address >> 63:
        return {GP, PF}  # by whether it wraps
    if bits == 64 and last >> 47:
        return {GP} if address >> 47 or address % case.alignment else {GP, PF}  # by which end is looked at first
    if address % case.alignment:
        return {GP, PF} if case.size > 16 else {GP}
    if last >= MISSING or (address < 0x10000 <= last):
        return {PF}
    return {OK, GP} if case.refuses else {OK}


class Runs:
    """One CPU, and every case on it. `masked`: whether MXCSR and the x87 control word mask all exceptions."""

    def __init__(self, model: str, mode: str, masked: bool) -> None:
        self.bench, self.masked, self.source = Bench(mode, 0, model), masked, random.Random(f"{model} {mode} {masked}")
        st, ram = self.bench.st, self.bench.ram
        long = mode == "64"
        for vector in range(32):
            self.bench.gate(vector, K64 if long else K32, HANDLERS + 16 * vector)
            ram.write(HANDLERS + 16 * vector, b"\xf4")
        st.cr4 |= 1 << 9 | 1 << 10 | 1 << 18
        st.xcr0, st.cr3 = 7, 0x100000
        if not long:  # the same pages, by two levels
            st.cr4 |= 1 << 4
            for n in range(3):
                ram.write_int(0x100000 + 4 * n, 4, n << 22 | 0x87)
            ram.write_int(0x100000, 4, 0x104007)
            ram.write_int(0x100004, 4, 0x105007)
            for n in range(1024):
                ram.write_int(0x104000 + 4 * n, 4, (n << 12 | 7) * (n != 16))
                ram.write_int(0x105000 + 4 * n, 4, (DEVICE + (n << 12) | 7) * (n < 512))
            ram.write_int(0x100008, 4, 0)
        else:
            ram.write_int(0x102010, 8, DEVICE | 0x87)
            ram.write_int(0x102000, 8, 0x104007)
            for n in range(512):
                ram.write_int(0x104000 + 8 * n, 8, (n << 12 | 7) * (n != 16))
        st.cr0 = 0x80010031
        self.code = CODE + 0x2000  # page 10h is missing
        self.bench.cpu.flush_all()
        self.bench.cpu.update_mode()

    def one(self, case: Case, address: int) -> int:
        """The vector of the exception that an encoding takes at an address; `OK` for none."""
        st, cpu, ram, source = self.bench.st, self.bench.cpu, self.bench.ram, self.source
        st.rip, st.rsp, st.rsi, st.rcx, st.rax, st.rdx = self.code, STACK0, LOADED + 0x80, 1, 7, 3
        st.rdi = address if self.bench.bits == 64 else address & 0xFFFFFFFF
        st.set_rflags(2)
        image = bytearray(512)
        image[:2] = (0x37F if self.masked else 0x340).to_bytes(2, "little")
        st.fxsave[:] = bytes(image)
        cpu.set("mxcsr", 0x1F80 if self.masked else 0)
        for start, size in ((address & -8, 600), (LOADED + 0x80, 8)):
            if ram.contains(start, 1):
                ram.write(start, source.randbytes(min(size, DEVICE - start)))
        while True:
            match cpu.run():
                case MmioRead(size=size):
                    cpu.complete(source.randrange(1 << 8 * size))
                case MmioWrite():
                    pass
                case Halted():
                    return (st.rip - HANDLERS) // 16 if st.rip > HANDLERS else OK
                case other:
                    raise AssertionError(f"{case.name}: {other}")

    def every(self, now: mmap.mmap) -> Iterator[str]:
        """Everything that is not as it should be, and how many cases there were."""
        count, bits = 0, self.bench.bits
        for case in cases(bits, self.bench.cpu.model.amd):
            behind = b"\xd9\xe8\xf4" if case.floating and case.name[0] == "f" else b"\xf4"  # FLD1 finds what is pending
            self.bench.ram.write(self.code, case.code + behind)
            for name, address in ADDRESSES.items():
                if bits == 32 and address >> 32:
                    continue
                now[:] = f"{case.name} {case.code.hex()}: {name}".encode().ljust(len(now))
                allowed = expected(case, address, bits)
                if case.floating and (not self.masked or OK in allowed):
                    allowed |= {MF, XM}
                found = self.one(case, address)
                if found not in allowed:
                    yield f"{case.name} {case.code.hex()} at {name}: {found}, not {allowed}"
                count += 1
        yield f"{count} cases"


def main(model: str, mode: str, masked: str, place: str) -> None:
    """See above."""
    with Path(place).open("r+b") as file, mmap.mmap(file.fileno(), 200) as now:
        for line in Runs(model, mode, masked == "masked").every(now):
            print(line)


if __name__ == "__main__":
    main(*sys.argv[1:])
