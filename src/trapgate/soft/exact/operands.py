"""Reaches operands of a decoded instruction from Python: registers, immediates, and memory through segments in every mode."""

import ctypes

from iced_x86 import Instruction, MemorySizeExt, OpKind, Register

from trapgate.arch import paging, vectors
from trapgate.arch.alignment import alignment
from trapgate.arch.segments import ATTR_DB, TYPE_CODE, TYPE_EXPAND_DOWN, TYPE_READABLE, TYPE_WRITABLE
from trapgate.isa import modes
from trapgate.isa.state import UNUSABLE
from trapgate.soft.state.core import SoftCore
from trapgate.soft.state.fault import GuestFault
from trapgate.soft.state.registers import GENERAL, SEGMENT_NAME

ALL_64 = (1 << 64) - 1
_INTEGERS = {8: ctypes.c_uint8, 16: ctypes.c_uint16, 32: ctypes.c_uint32, 64: ctypes.c_uint64}
_IMMEDIATES = {
    OpKind.IMMEDIATE8, OpKind.IMMEDIATE8_2ND, OpKind.IMMEDIATE16, OpKind.IMMEDIATE32, OpKind.IMMEDIATE64,
    OpKind.IMMEDIATE8TO16, OpKind.IMMEDIATE8TO32, OpKind.IMMEDIATE8TO64, OpKind.IMMEDIATE32TO64,
}  # fmt: skip
RIP_BASES: dict[int, int] = {Register.RIP: 64, Register.EIP: 32}  # to address bits
# String operands: (register, address bits, whether ES cannot be overridden)
STRING = {
    OpKind.MEMORY_SEG_SI: ("rsi", 16, False), OpKind.MEMORY_SEG_ESI: ("rsi", 32, False), OpKind.MEMORY_SEG_RSI: ("rsi", 64, False),
    OpKind.MEMORY_SEG_DI: ("rdi", 16, False), OpKind.MEMORY_SEG_EDI: ("rdi", 32, False), OpKind.MEMORY_SEG_RDI: ("rdi", 64, False),
    OpKind.MEMORY_ESDI: ("rdi", 16, True), OpKind.MEMORY_ESEDI: ("rdi", 32, True), OpKind.MEMORY_ESRDI: ("rdi", 64, True),
}  # fmt: skip


def gp(error: int = 0) -> GuestFault:
    """#GP with an error code."""
    return GuestFault(vectors.GP, error)


def ud() -> GuestFault:
    """#UD."""
    return GuestFault(vectors.UD)


def is_64(cpu: SoftCore) -> bool:
    """Whether 64-bit code runs (not: long mode, which compatibility mode is part of)."""
    return bool(cpu.state.mode & modes.CODE64)


def is_real(cpu: SoftCore) -> bool:
    """Whether selectors are paragraph numbers: real or virtual-8086 mode."""
    return bool(cpu.state.mode & modes.REAL)


def require_cpl0(cpu: SoftCore) -> None:
    """#GP(0) unless CPL is 0."""
    if cpu.state.cpl:
        raise gp()


def read_register(cpu: SoftCore, register: int) -> int:
    """A general-purpose or segment register by its iced_x86.Register; zero-extended."""
    if register in SEGMENT_NAME:
        return int(getattr(cpu.state, f"{SEGMENT_NAME[register]}_selector"))
    offset, bits = GENERAL[register]
    return int(_INTEGERS[bits].from_buffer(cpu.state, offset).value)


def write_register(cpu: SoftCore, register: int, value: int) -> None:
    """Change a general-purpose register; 32-bit ones are zero-extended to 64 (SDM vol. 1, 3.4.1.1)."""
    offset, bits = GENERAL[register]
    if bits == 32:
        value, bits = value & 0xFFFFFFFF, 64
    _INTEGERS[bits].from_buffer(cpu.state, offset).value = value & (1 << bits) - 1


def write_part(cpu: SoftCore, name: str, bits: int, value: int) -> None:
    """Change the low bits of a 64-bit field (rcx, rsp ...) as an instruction of this operand or address size does."""
    if bits < 32:
        value = getattr(cpu.state, name) & ~((1 << bits) - 1) | value & (1 << bits) - 1
    setattr(cpu.state, name, value & (0xFFFFFFFF if bits == 32 else ALL_64))


def offset_bits(i: Instruction) -> int:
    """The address size of the memory operand."""
    for register in (i.memory_base, i.memory_index):
        if register in GENERAL and GENERAL[register][1] > 8:
            return GENERAL[register][1]
    base: int = i.memory_base
    if base in RIP_BASES:
        return RIP_BASES[base]
    return {2: 16, 4: 32}.get(i.memory_displ_size, 64)


def effective_offset(cpu: SoftCore, i: Instruction) -> int:
    """The offset that the ModRM operand of an instruction names, wrapped to its address size (SDM vol. 1, 3.7.5).

    RIP-relative operands count from `next_rip`, whatever address the instruction was decoded at.
    """
    value, base, index = int(i.memory_displacement), int(i.memory_base), int(i.memory_index)
    if base in RIP_BASES:
        value += cpu.state.next_rip - i.next_ip
    elif base in GENERAL:
        value += read_register(cpu, base)
    if index in GENERAL:
        value += read_register(cpu, index) * i.memory_index_scale
    return value & (1 << offset_bits(i)) - 1


def linear_address(cpu: SoftCore, segment: str, offset: int, size: int, write: bool) -> int:
    """The linear address of `size` bytes at segment:offset after every check but paging.

    #GP(0), or #SS(0) for SS: outside the limit, not readable or writable, unusable (SDM vol. 3, 5.3 and 5.5), or not canonical in
    64-bit mode (SDM vol. 1, 3.3.7.1). Real and virtual-8086 mode check the limit only.
    """
    st = cpu.state
    fault = GuestFault(vectors.SS if segment == "ss" else vectors.GP, 0)
    if is_64(cpu):
        base = getattr(st, f"{segment}_base") if segment in ("fs", "gs") else 0
        address = (base + offset) & ALL_64
        if cpu.model.amd and not paging.is_canonical(offset):  # as measured: the base does not mend it
            raise fault
        if not paging.is_canonical(address) or not paging.is_canonical((address + size - 1) & ALL_64):
            raise fault
        return int(address)
    attributes = getattr(st, f"{segment}_attributes")
    if attributes & UNUSABLE:
        raise fault
    code = bool(attributes & TYPE_CODE)
    if not is_real(cpu):
        if write and (code or not attributes & TYPE_WRITABLE):
            raise fault
        if not write and code and not attributes & TYPE_READABLE:
            raise fault
    if not within(cpu, getattr(st, f"{segment}_limit"), attributes, offset, size):
        raise fault
    return int((getattr(st, f"{segment}_base") + offset) & 0xFFFFFFFF)


def unchecked_address(cpu: SoftCore, segment: str, offset: int) -> int:
    """The linear address at segment:offset, whatever lies there."""
    if not is_64(cpu):
        return int((getattr(cpu.state, f"{segment}_base") + offset) & 0xFFFFFFFF)
    return (offset + getattr(cpu.state, f"{segment}_base") if segment in ("fs", "gs") else offset) & ALL_64


def within(cpu: SoftCore, limit: int, attributes: int, offset: int, size: int) -> bool:
    """Whether `size` bytes at `offset` lie inside a segment with this byte limit and attribute word (SDM vol. 3, 5.3).

    With a limit of 4 GiB the manual leaves it to the processor whether an operand may wrap: Intel's go on at offset 0, AMD's fault.
    """
    last = offset + size - 1
    if attributes & (TYPE_CODE | TYPE_EXPAND_DOWN) == TYPE_EXPAND_DOWN:
        return offset > limit and last <= (0xFFFFFFFF if attributes & ATTR_DB else 0xFFFF)
    return last <= limit or (limit == 0xFFFFFFFF and not cpu.model.amd)


def effective_address(cpu: SoftCore, i: Instruction, size: int, write: bool = False, ahead: int = 0) -> int:
    """The linear address of the memory operand, checked for `size` bytes that lie `ahead` bytes behind its start."""
    offset = (effective_offset(cpu, i) + ahead) & (1 << offset_bits(i)) - 1
    address = linear_address(cpu, SEGMENT_NAME[i.memory_segment], offset, size, write)
    refuse_unaligned(cpu, address, size)
    return address


def refuse_unaligned(cpu: SoftCore, address: int, size: int) -> None:
    """GuestFault #AC(0) for an access of the running mode that is not aligned where it must be; it comes before #PF."""
    mode = cpu.state.mode
    if mode & modes.AC and mode & modes.CPL == modes.CPL and address % alignment(size, cpu.model.amd):
        raise GuestFault(vectors.AC, 0)


def string_address(cpu: SoftCore, i: Instruction, n: int, size: int, write: bool) -> int:
    """The linear address of the string operand n (DS:rSI with overrides, or ES:rDI)."""
    name, bits, fixed = STRING[i.op_kind(n)]
    offset = getattr(cpu.state, name) & (1 << bits) - 1
    address = linear_address(cpu, "es" if fixed else SEGMENT_NAME[i.memory_segment], offset, size, write)
    refuse_unaligned(cpu, address, size)
    return address


def operand_size(i: Instruction, n: int) -> int:
    """Bytes of operand n: of its register, or of the memory that the instruction names."""
    if i.op_kind(n) == OpKind.REGISTER:
        register = i.op_register(n)
        return 2 if register in SEGMENT_NAME else GENERAL[register][1] // 8
    return int(MemorySizeExt.size(i.memory_size))


def is_memory(i: Instruction, n: int) -> bool:
    """Whether operand n lies in memory (by ModRM)."""
    return bool(i.op_kind(n) == OpKind.MEMORY)


def read_operand(cpu: SoftCore, i: Instruction, n: int, size: int | None = None) -> int:
    """Operand n, unsigned, cut to `size` bytes (its own size unless told); GuestFault."""
    kind = i.op_kind(n)
    if kind in _IMMEDIATES:
        return int(i.immediate(n)) & (ALL_64 if size is None else (1 << 8 * size) - 1)
    size = size or operand_size(i, n)
    if kind == OpKind.REGISTER:
        return read_register(cpu, i.op_register(n)) & (1 << 8 * size) - 1
    assert kind == OpKind.MEMORY, f"operand kind {kind}"
    return cpu.read(effective_address(cpu, i, size), size)


def write_operand(cpu: SoftCore, i: Instruction, n: int, value: int, size: int | None = None) -> None:
    """Store to operand n; a register takes its whole width, memory `size` bytes (its own size unless told); GuestFault."""
    if i.op_kind(n) == OpKind.REGISTER:
        write_register(cpu, i.op_register(n), value)
        return
    size = size or operand_size(i, n)
    cpu.write(effective_address(cpu, i, size, write=True), size, value)
