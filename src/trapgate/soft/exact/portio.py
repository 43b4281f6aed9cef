"""Executes IN, OUT, INS and OUTS: the privilege check with the TSS's I/O bitmap, and the exits that the machine answers.

One element of a repeated INS or OUTS is one execution: `next_rip` stays on the instruction until rCX is 0, so interrupts get in.
Sources: SDM vol. 1, 19.5; SDM vol. 2, IN, OUT, INS, OUTS.
"""

from iced_x86 import Instruction, Mnemonic, OpKind

from trapgate.arch.control import CR0_PE
from trapgate.arch.flags import DF, VM
from trapgate.arch.segments import SystemType
from trapgate.exits import Exit, PortRead, PortWrite
from trapgate.isa import modes
from trapgate.isa import state as s
from trapgate.soft.exact.operands import STRING, gp, operand_size, read_operand, string_address, write_part
from trapgate.soft.state.core import SoftCore
from trapgate.soft.state.guest_cpu import GuestCpu
from trapgate.soft.state.instructions import handles
from trapgate.soft.state.underway import ToAccumulator, ToMemory

IO_MAP_BASE = 0x66


def check_ports(cpu: SoftCore, port: int, size: int) -> None:
    """#GP(0) unless CPL <= IOPL (which does not count in virtual-8086 mode) or the TSS's I/O bitmap lets every port pass."""
    st = cpu.state
    if not st.cr0 & CR0_PE or (st.mode & modes.IOPL and not st.rflags & VM):
        return
    if st.tr_attributes & 0xF not in (SystemType.TSS, SystemType.TSS_BUSY) or st.tr_limit < IO_MAP_BASE + 1:
        raise gp()
    at = cpu.read(st.tr_base + IO_MAP_BASE, 2, 0) + port // 8
    if at + 1 > st.tr_limit:  # two bytes are read, always (SDM vol. 1, 19.5.2)
        raise gp()
    if cpu.read(st.tr_base + at, 2, 0) >> port % 8 & (1 << size) - 1:
        raise gp()


def _port(cpu: SoftCore, i: Instruction, n: int) -> int:
    return read_operand(cpu, i, n, 1) if i.op_kind(n) == OpKind.IMMEDIATE8 else int(cpu.state.rdx & 0xFFFF)


def accumulate(cpu: SoftCore, size: int, value: int) -> None:
    """AL, AX or EAX = what IN has read; a write to EAX clears the upper half (SDM vol. 1, 3.4.1.1)."""
    if size == 4:
        cpu.state.rax = value
    else:
        mask = (1 << 8 * size) - 1
        cpu.state.rax = cpu.state.rax & ~mask | value & mask


def answered(cpu: SoftCore, where: ToAccumulator | ToMemory, value: int) -> None:
    """The machine has answered IN or INS."""
    if isinstance(where, ToAccumulator):
        accumulate(cpu, where.size, value)
    else:
        cpu.write(where.address, where.size, value, where.rights)


@handles(Mnemonic.IN)
def in_(cpu: GuestCpu, i: Instruction) -> Exit | None:
    """IN AL/AX/EAX, port: the accumulator is written when the machine answers."""
    size, port = operand_size(i, 0), _port(cpu, i, 1)
    check_ports(cpu, port, size)
    cpu.pending_read = ToAccumulator(size)
    return PortRead(port, size)


@handles(Mnemonic.OUT)
def out(cpu: GuestCpu, i: Instruction) -> Exit | None:
    """OUT port, AL/AX/EAX."""
    size, port = operand_size(i, 1), _port(cpu, i, 0)
    check_ports(cpu, port, size)
    return PortWrite(port, size, read_operand(cpu, i, 1))


class _Element:
    """One element of INS or OUTS, and the counting behind it."""

    def __init__(self, cpu: SoftCore, i: Instruction, n: int, size: int) -> None:
        self.cpu, self.size = cpu, size
        self.pointer, self.bits, _ = STRING[i.op_kind(n)]
        self.repeated = i.has_rep_prefix or i.has_repne_prefix
        mask = (1 << self.bits) - 1
        self.count = cpu.state.rcx & mask
        self.over = self.repeated and not self.count

    def advance(self) -> None:
        """Move the pointer, count down, and stay on the instruction while elements are left."""
        st = self.cpu.state
        step = -self.size if st.rflags & DF else self.size
        write_part(self.cpu, self.pointer, self.bits, getattr(st, self.pointer) + step)
        if self.repeated:
            write_part(self.cpu, "rcx", self.bits, st.rcx - 1)
            if self.count > 1:
                st.next_rip = st.rip


@handles(Mnemonic.INSB, Mnemonic.INSW, Mnemonic.INSD)
def ins(cpu: GuestCpu, i: Instruction) -> Exit | None:
    """INS: a port to ES:rDI. The page is proven writable before the port is read."""
    size, port = operand_size(i, 0), cpu.state.rdx & 0xFFFF
    element = _Element(cpu, i, 0, size)
    if element.over:
        return None
    check_ports(cpu, port, size)
    at = string_address(cpu, i, 0, size, write=True)
    cpu.pieces(at, size, cpu.rights() | s.ACCESS_WRITE)
    cpu.pending_read = ToMemory(at, size, cpu.rights())
    element.advance()
    return PortRead(port, size)


@handles(Mnemonic.OUTSB, Mnemonic.OUTSW, Mnemonic.OUTSD)
def outs(cpu: GuestCpu, i: Instruction) -> Exit | None:
    """OUTS: DS:rSI to a port."""
    size, port = operand_size(i, 1), cpu.state.rdx & 0xFFFF
    element = _Element(cpu, i, 1, size)
    if element.over:
        return None
    check_ports(cpu, port, size)
    value = cpu.read(string_address(cpu, i, 1, size, write=False), size)
    element.advance()
    return PortWrite(port, size, value)
