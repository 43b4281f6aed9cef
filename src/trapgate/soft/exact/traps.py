"""Executes what interrupts or stops: INT n, INT3, INTO, INT1, UD, BOUND, HLT, and instructions that this CPU does not have."""

from iced_x86 import Decoder, Instruction, Mnemonic

from trapgate.arch import vectors
from trapgate.arch.flags import OF
from trapgate.exits import Exit, Halted
from trapgate.soft.exact.interrupts import software_interrupt
from trapgate.soft.exact.operands import effective_address, operand_size, read_operand, require_cpl0, ud
from trapgate.soft.state.fault import GuestFault
from trapgate.soft.state.guest_cpu import GuestCpu
from trapgate.soft.state.instructions import handles


@handles(Mnemonic.INT)
def int_n(cpu: GuestCpu, i: Instruction) -> None:
    """INT n."""
    software_interrupt(cpu, i.immediate8, checked_iopl=True)


@handles(Mnemonic.INT3)
def int3(cpu: GuestCpu, i: Instruction) -> None:
    """INT3: #BP as a trap."""
    software_interrupt(cpu, vectors.BP, checked_iopl=False)


@handles(Mnemonic.INTO)
def into(cpu: GuestCpu, i: Instruction) -> None:
    """INTO: #OF when OF is set."""
    if cpu.state.get_rflags() & OF:
        software_interrupt(cpu, vectors.OF, checked_iopl=False)


TRAPPING = {vectors.BP: Decoder(32, b"\xcc").decode(), vectors.OF: Decoder(32, b"\xce").decode()}
"""The instructions with a vector of their own that trap, by it."""


def trap_of(cpu: GuestCpu, i: Instruction) -> int:
    """The vector of the exception that INT3 or INTO is about to raise; -1 for other instructions."""
    if i.mnemonic == Mnemonic.INT3:
        return vectors.BP
    return vectors.OF if i.mnemonic == Mnemonic.INTO and cpu.state.get_rflags() & OF else -1


@handles(Mnemonic.INT1)
def icebp(cpu: GuestCpu, i: Instruction) -> Exit | None:
    """INT1: a #DB without a cause, for the router to place."""
    return cpu.raise_icebp()


@handles(Mnemonic.BOUND)
def bound(cpu: GuestCpu, i: Instruction) -> None:
    """BOUND: #BR when a signed index is outside the pair in memory."""
    size = operand_size(i, 0)
    at = effective_address(cpu, i, 2 * size)
    bits, index = 8 * size, read_operand(cpu, i, 0)
    pair = cpu.read(at, 2 * size)
    low, high, index = (_signed(value, bits) for value in (pair & (1 << bits) - 1, pair >> bits, index))
    if not low <= index <= high:
        raise GuestFault(vectors.BR)


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> bits - 1 else value


@handles(Mnemonic.HLT)
def hlt(cpu: GuestCpu, i: Instruction) -> Exit | None:
    """HLT: #GP(0) outside CPL 0."""
    require_cpl0(cpu)
    return Halted()


@handles(Mnemonic.SERIALIZE)
def serialize(cpu: GuestCpu, i: Instruction) -> None:
    """SERIALIZE: everything here is in order already; #UD without the feature."""
    if not cpu.model.has("serialize"):
        raise ud()
