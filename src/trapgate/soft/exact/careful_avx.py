"""Executes AVX, FMA and F16C instructions under unmasked exceptions, one at a time, from Python.

As `careful` does it for SSE: the instruction runs masked, on the host, on a copy of the registers; what it would have raised is in
MXCSR's flags, and if the guest has unmasked any of that the copy is thrown away. x87 has no part in this.

VCVTPS2PH is the only one that stores. Intel's CPUs compute before they reach memory: MXCSR has its flags even where the store
faults (as measured). Of AMD's nothing is known but the rule, that an instruction which faults has changed nothing.
"""

import ctypes
from typing import NamedTuple

from iced_x86 import Instruction, Mnemonic, OpKind, RegisterExt

from trapgate.arch import vectors
from trapgate.arch.control import CR4_OSXMMEXCPT
from trapgate.isa import state as s
from trapgate.isa.families import hosted
from trapgate.soft.exact import careful, rounding
from trapgate.soft.exact.careful import BEFORE, DAZ, FLAGS, FTZ, MASKS, OE, PE, TINY, UE
from trapgate.soft.exact.operands import effective_offset, linear_address, read_register, refuse_unaligned, write_register
from trapgate.soft.exact.vectors import WHOLE, get, put
from trapgate.soft.state.fault import GuestFault
from trapgate.soft.state.guest_cpu import GuestCpu
from trapgate.soft.state.instructions import handles
from trapgate.soft.state.registers import SEGMENT_NAME
from trapgate.soft.state.view import STATUS

REGISTERS = 16


def _move(opcode: int) -> bytes:
    """VMOVUPS between [rdi + 32 * n] and YMM n, for all of them: 10h loads, 11h stores."""
    return b"".join(
        bytes((0xC5, 0x7C if n & 8 else 0xFC, opcode, 0x87 | (n & 7) << 3)) + (WHOLE * n).to_bytes(4, "little")
        for n in range(REGISTERS)
    )


# stmxcsr [rdx+16]; ldmxcsr [rdx+24]; push [rdx+8]; popfq; mov rax, [rdx]
_BEFORE = _move(0x10) + bytes.fromhex("0fae5a10 0fae5218 ff7208 9d 488b02")
# mov [rdx], rax; pushfq; pop [rdx+8]; stmxcsr [rdx+24]; ldmxcsr [rdx+16]; (registers); vzeroupper; ret
_AFTER = bytes.fromhex("488902 9c 8f4208 0fae5a18 0fae5210") + _move(0x11) + bytes.fromhex("c5f877 c3")


class Run(NamedTuple):
    """What a masked run left."""

    registers: bytes
    memory: bytes
    general: int
    rflags: int
    mxcsr: int

    def vector(self, register: int) -> bytes:
        """The 32 bytes of a YMM register."""
        at = WHOLE * hosted.number(register)
        return self.registers[at : at + WHOLE]


@handles(*(getattr(Mnemonic, name.upper()) for name in hosted.raising_avx()))
def execute(cpu: GuestCpu, i: Instruction) -> None:
    """One instruction that may raise. GuestFault: #XM (#UD without CR4.OSXMMEXCPT), and those of its memory operand."""
    st, p = cpu.state, hosted.plan(i.code)
    memory = p.memory if p.memory is not None and i.op_kind(p.memory) == OpKind.MEMORY else None
    data = bytes(WHOLE)
    writes = memory is not None and p.written[memory]
    if memory is not None and not writes:
        data = cpu.read_bytes(_reach(cpu, i, p), p.size).ljust(WHOLE, b"\0")
    if writes and cpu.model.amd:
        cpu.pieces(_reach(cpu, i, p, write=True), p.size, cpu.rights() | s.ACCESS_WRITE)
    run = _run(cpu, i, data)
    raised = _raised(cpu, i, run, data)
    careful.flag(cpu, raised)
    if raised & careful.unmasked(cpu):
        raise GuestFault(vectors.XM if st.cr4 & CR4_OSXMMEXCPT else vectors.UD)
    if writes:
        cpu.write_bytes(_reach(cpu, i, p, write=True), run.memory[: p.size])
    for n in range(i.op_count):
        if p.written[n] and n != memory:
            if p.kinds[n] in hosted.VECTORS:
                put(cpu, i.op_register(n), run.vector(i.op_register(n)))
            else:
                write_register(cpu, i.op_register(n), run.general)
    if p.sets_flags:
        st.set_rflags(st.get_rflags() & ~STATUS | run.rflags & STATUS)


def _reach(cpu: GuestCpu, i: Instruction, p: hosted.Plan, write: bool = False) -> int:
    """The linear address of the operand in memory; GuestFault by segment or #AC."""
    address = linear_address(cpu, SEGMENT_NAME[i.memory_segment], effective_offset(cpu, i), p.size, write)
    if not p.anywhere(cpu.model.amd):
        refuse_unaligned(cpu, address, p.size)
    return address


def _run(cpu: GuestCpu, i: Instruction, data: bytes) -> Run:
    st = cpu.state
    mxcsr = careful.get_mxcsr(cpu) & ~FLAGS | MASKS
    if careful.unmasked(cpu) & UE:
        mxcsr &= ~FTZ  # which only holds while underflow is masked
    registers = bytearray(WHOLE * REGISTERS)
    for n in range(REGISTERS):
        registers[WHOLE * n : WHOLE * (n + 1)] = bytes(getattr(st, f"xmm{n}")) + bytes(getattr(st, f"ymm{n}h"))
    operand = bytearray(data)
    general = careful.general_operand(i)
    words = (ctypes.c_uint64 * 4)(
        read_register(cpu, i.op_register(general)) if general is not None else 0, st.get_rflags() & STATUS | 0x202
    )
    words[3] = mxcsr
    code = cpu.code.scratch(_BEFORE + careful.renamed(i) + _AFTER)
    places = (ctypes.addressof(ctypes.c_char.from_buffer(one)) for one in (registers, operand))
    careful.CALL(code)(*places, ctypes.addressof(words))
    return Run(bytes(registers), bytes(operand), words[0], words[1], words[3] & 0xFFFFFFFF)


def _raised(cpu: GuestCpu, i: Instruction, run: Run, data: bytes) -> int:
    """The flags of an instruction that has just run masked, as they are under the guest's masks. `data`: its operand in memory."""
    unmasked, raised = careful.unmasked(cpu), run.mxcsr & FLAGS
    name = hosted.plan(i.code).name.split("_")[1].removeprefix("v")
    operands = [
        bytes(get(cpu, i.op_register(n))) if RegisterExt.is_vector_register(i.op_register(n)) else data
        for n in range(i.op_count)
        if i.op_kind(n) != OpKind.IMMEDIATE8
    ]
    if i.mnemonic in (Mnemonic.VDPPS, Mnemonic.VDPPD):
        return _dot_product(cpu, i, operands, run.mxcsr)
    if unmasked & UE and not raised & UE and name.startswith((*TINY, "fm", "fnm", "cvtps2ph")) and _tiny(i, name, run):
        raised |= UE
    if raised & unmasked & BEFORE:
        raised &= BEFORE
    elif raised & unmasked and not raised & (OE | UE) & ~unmasked:
        size = hosted.vector_bytes(i)
        if rounding.exact_vex(name, [one[:size] for one in operands], bool(cpu.state.guest_mxcsr & DAZ)):
            raised &= ~PE
    return raised


def _tiny(i: Instruction, name: str, run: Run) -> bool:
    """Whether a result is denormal: unmasked underflow is raised for exact ones, too (SDM vol. 1, 4.9.1.5)."""
    value = run.memory if i.op0_kind == OpKind.MEMORY else run.vector(i.op0_register)
    if name == "cvtps2ph":
        return rounding.any_denormal(value, 2, hosted.vector_bytes(i) // 2)
    size = 4 if name[-1] == "s" else 8
    return rounding.any_denormal(value, size, size if name[-2] == "s" else hosted.vector_bytes(i))


def _dot_product(cpu: GuestCpu, i: Instruction, operands: list[bytes], mxcsr: int) -> int:
    """Those of VDPPS and VDPPD: `careful` takes their steps, on the x87 image, which is put back."""
    size, image = hosted.vector_bytes(i), cpu.state.fxsave
    before = bytes(image)
    image[careful.MXCSR : careful.MXCSR + 4] = mxcsr.to_bytes(4, "little")
    try:
        return careful.dot_product(cpu, i, operands[1][:size], operands[2][:size])
    finally:
        image[:] = before
