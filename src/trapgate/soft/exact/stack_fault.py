"""Decides between #SS(0) and #GP(0): in 64-bit mode a non-canonical address faults by the segment that it was reached through.

Translated code has no segment left at hand then, so the instruction is decoded once more.
Sources: SDM vol. 1, 3.3.7.1; vol. 3, 7.15, "#SS"; APM vol. 2, 4.5.3.
"""

from iced_x86 import MemorySizeExt, Mnemonic, OpKind, Register

from trapgate.arch import vectors
from trapgate.arch.paging import is_canonical
from trapgate.isa import modes
from trapgate.isa import state as s
from trapgate.soft.decode import decoding
from trapgate.soft.exact.operands import effective_offset, is_64, read_register
from trapgate.soft.state.core import NOWHERE
from trapgate.soft.state.fault import GuestFault
from trapgate.soft.state.guest_cpu import GuestCpu
from trapgate.soft.state.registers import SEGMENT_NAME

FOUR_GIB = 1 << 32
_STACK_BASES = (Register.RSP, Register.RBP, Register.ESP, Register.EBP)
_POPS = (Mnemonic.POP, Mnemonic.RET, Mnemonic.POPF, Mnemonic.POPFQ)
_FIXED = (OpKind.MEMORY_ESDI, OpKind.MEMORY_ESEDI, OpKind.MEMORY_ESRDI)
_BIT_TESTS = (Mnemonic.BT, Mnemonic.BTS, Mnemonic.BTR, Mnemonic.BTC)


def by_stack(cpu: GuestCpu) -> bool:
    """Whether the instruction at RIP, which has just met a non-canonical address, met it on the stack."""
    st = cpu.state
    if not is_64(cpu):
        return False
    i = decoding.decoder(cpu.model, 64, cpu.read_virtual(st.rip, 15), st.rip).decode()
    if i.is_invalid:
        return False
    for n in range(i.op_count):
        if i.op_kind(n) == OpKind.MEMORY and i.mnemonic != Mnemonic.POP:  # POP comes to its stack first
            st.next_rip = i.next_ip
            segment, address = SEGMENT_NAME[i.memory_segment], effective_offset(cpu, i)
            if segment not in ("fs", "gs"):  # the other prefixes mean nothing in 64-bit mode: the base register decides
                segment = "ss" if i.memory_base in _STACK_BASES else "ds"
            if segment in ("fs", "gs"):
                address += getattr(st, f"{segment}_base")
            if i.mnemonic in _BIT_TESTS and i.op1_kind == OpKind.REGISTER:
                width = 8 * MemorySizeExt.size(i.memory_size)
                index = read_register(cpu, i.op1_register)
                address += (index - (index >> width - 1 << width)) // width * (width // 8)
            if _leaves(address, max(1, MemorySizeExt.size(i.memory_size))):
                return segment == "ss"
    if i.mnemonic == Mnemonic.LEAVE:
        return _leaves(st.rbp, 8)
    below = 0 if i.mnemonic in _POPS else i.stack_pointer_increment
    return bool(i.is_stack_instruction) and _leaves(st.rsp + below, min(8, abs(i.stack_pointer_increment)))


def refuse_wrap(cpu: GuestCpu, address: int, size: int) -> None:
    """On AMD's CPUs #GP(0), or #SS(0) through SS, for an operand that goes on behind the last byte of a segment of 4 GiB.

    Translated code does not check such segments where all are flat. `operands.within` has the rule, and where it comes from.
    """
    st = cpu.state
    if address + size <= FOUR_GIB or address >= FOUR_GIB or not cpu.model.amd or not st.mode & modes.FLAT:
        return
    i = decoding.decoder(cpu.model, modes.code_bits(st.mode), cpu.read_virtual(cpu.linear(st.rip), 15), st.rip).decode()
    if i.mnemonic == Mnemonic.FSTP and size == 10 and address + 8 <= FOUR_GIB:
        cpu.pieces(address, 8, cpu.rights() | s.ACCESS_WRITE)  # it stores these first (as measured)
    explicit = [i.op_kind(n) for n in range(i.op_count) if i.op_kind(n) >= OpKind.MEMORY_SEG_SI]
    segment = "ss" if not explicit else SEGMENT_NAME[i.memory_segment]
    if OpKind.MEMORY in explicit and i.is_stack_instruction:  # PUSH and POP of memory, CALL: which of the two is it?
        st.next_rip = i.next_ip
        if effective_offset(cpu, i) != address:
            segment = "ss"
    if any(kind in _FIXED for kind in explicit) and st.rdi & 0xFFFFFFFF == address:
        segment = "es"
    if segment not in ("fs", "gs"):  # those are checked
        raise GuestFault(vectors.SS if segment == "ss" else vectors.GP, 0)


def _leaves(address: int, size: int) -> bool:
    """Whether any of `size` bytes at an address (not yet cut to 64 bits) is not canonical."""
    return not (is_canonical(address & NOWHERE) and is_canonical(address + size - 1 & NOWHERE))
