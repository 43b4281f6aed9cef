"""Executes decimal arithmetic: DAA, DAS, AAA, AAS, AAM, AAD, and SALC (SDM vol. 2 under each name)."""

from iced_x86 import Instruction, Mnemonic

from trapgate.arch import vectors
from trapgate.arch.flags import AF, CF, PF, SF, STATUS, ZF
from trapgate.soft.exact.operands import write_part
from trapgate.soft.state.core import SoftCore
from trapgate.soft.state.fault import GuestFault
from trapgate.soft.state.guest_cpu import GuestCpu
from trapgate.soft.state.instructions import handles


def result_flags(value: int) -> int:
    """SF, ZF and PF of a byte."""
    return (SF if value & 0x80 else 0) | (0 if value else ZF) | (0 if value.bit_count() % 2 else PF)


def _status(cpu: SoftCore, bits: int) -> None:
    cpu.state.set_rflags(cpu.state.get_rflags() & ~STATUS | bits)


def _set_al(cpu: SoftCore, value: int) -> None:
    write_part(cpu, "rax", 8, value)


def _set_ax(cpu: SoftCore, value: int) -> None:
    write_part(cpu, "rax", 16, value)


@handles(Mnemonic.DAA, Mnemonic.DAS)
def decimal_adjust(cpu: GuestCpu, i: Instruction) -> None:
    """DAA, DAS (SDM vol. 2): OF, undefined, becomes 0."""
    old, flags = cpu.state.rax & 0xFF, cpu.state.get_rflags()
    sign = 1 if i.mnemonic == Mnemonic.DAA else -1
    value, carry, adjust = old, 0, 0
    if old & 0xF > 9 or flags & AF:
        carry = CF if flags & CF or not 0 <= old + sign * 6 <= 0xFF else 0
        value, adjust = old + sign * 6, AF
    if old > 0x99 or flags & CF:
        value, carry = value + sign * 0x60, CF
    elif sign > 0:
        carry = 0
    value &= 0xFF
    _set_al(cpu, value)
    _status(cpu, result_flags(value) | carry | adjust)


@handles(Mnemonic.AAA, Mnemonic.AAS)
def ascii_adjust(cpu: GuestCpu, i: Instruction) -> None:
    """AAA, AAS (SDM vol. 2): OF, SF, ZF and PF, undefined, follow AL."""
    ax, flags = cpu.state.rax & 0xFFFF, cpu.state.get_rflags()
    sign = 1 if i.mnemonic == Mnemonic.AAA else -1
    carries = 0
    if ax & 0xF > 9 or flags & AF:
        ax += sign * 0x106
        carries = AF | CF
    ax &= 0xFF0F
    _set_ax(cpu, ax)
    _status(cpu, result_flags(ax & 0xFF) | carries)


@handles(Mnemonic.AAM)
def aam(cpu: GuestCpu, i: Instruction) -> None:
    """AAM imm8: AH, AL = quotient, remainder; #DE for 0."""
    base = i.immediate8
    if base == 0:
        raise GuestFault(vectors.DE)
    high, low = divmod(cpu.state.rax & 0xFF, base)
    _set_ax(cpu, high << 8 | low)
    _status(cpu, result_flags(low))


@handles(Mnemonic.AAD)
def aad(cpu: GuestCpu, i: Instruction) -> None:
    """AAD imm8: AL = AL + AH * base, AH = 0."""
    ax = cpu.state.rax & 0xFFFF
    value = (ax & 0xFF) + (ax >> 8) * i.immediate8 & 0xFF
    _set_ax(cpu, value)
    _status(cpu, result_flags(value))


@handles(Mnemonic.SALC)
def salc(cpu: GuestCpu, i: Instruction) -> None:
    """SALC: AL = FFh when CF, else 0."""
    _set_al(cpu, 0xFF if cpu.state.get_rflags() & CF else 0)
