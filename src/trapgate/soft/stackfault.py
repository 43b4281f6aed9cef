"""#SS(0) instead of #GP(0): in 64-bit mode a non-canonical address faults by the segment that it was reached through.

Translated code has no segment left at hand then, so the instruction is decoded once more.
Sources: SDM vol. 1, 3.3.7.1; vol. 3, 7.15, "#SS"; APM vol. 2, 4.5.3.
"""

from typing import TYPE_CHECKING

from iced_x86 import Decoder, MemorySizeExt, Mnemonic, OpKind, Register

from trapgate.arch.paging import is_canonical
from trapgate.soft.core import NOWHERE
from trapgate.soft.operands import effective_offset, is_64, read_register
from trapgate.soft.registers import SEGMENT_NAME

if TYPE_CHECKING:
    from trapgate.soft.cpu import SoftVcpu

_STACK_BASES = (Register.RSP, Register.RBP, Register.ESP, Register.EBP)
_POPS = (Mnemonic.POP, Mnemonic.RET, Mnemonic.POPF, Mnemonic.POPFQ)
_BIT_TESTS = (Mnemonic.BT, Mnemonic.BTS, Mnemonic.BTR, Mnemonic.BTC)


def by_stack(cpu: "SoftVcpu") -> bool:
    """Whether the instruction at RIP, which has just met a non-canonical address, met it on the stack."""
    st = cpu.state
    if not is_64(cpu):
        return False
    i = Decoder(64, cpu.read_virtual(st.rip, 15), ip=st.rip).decode()
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


def _leaves(address: int, size: int) -> bool:
    """Whether any of `size` bytes at an address (not yet cut to 64 bits) is not canonical."""
    return not (is_canonical(address & NOWHERE) and is_canonical(address + size - 1 & NOWHERE))
