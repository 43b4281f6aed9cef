"""Rare instructions of no particular family: BCD arithmetic, PUSHA, ENTER with levels, XLAT, CMPXCHG8B and 16B, random numbers."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from iced_x86 import Instruction, Mnemonic

from trapgate.arch import vectors
from trapgate.arch.flags import AF, CF, PF, SF, STATUS, ZF
from trapgate.isa import state as s
from trapgate.soft.accesses import locks_bus
from trapgate.soft.core import SoftCore
from trapgate.soft.fault import GuestFault
from trapgate.soft.instructions import handles
from trapgate.soft.operands import (
    effective_address,
    effective_offset,
    gp,
    linear_address,
    operand_size,
    ud,
    write_part,
    write_register,
)  # fmt: skip
from trapgate.soft.registers import SEGMENT_NAME
from trapgate.soft.stack import Stack

if TYPE_CHECKING:
    from trapgate.soft.cpu import SoftVcpu


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
def decimal_adjust(cpu: "SoftVcpu", i: Instruction) -> None:
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
def ascii_adjust(cpu: "SoftVcpu", i: Instruction) -> None:
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
def aam(cpu: "SoftVcpu", i: Instruction) -> None:
    """AAM imm8: AH, AL = quotient, remainder; #DE for 0."""
    base = i.immediate8
    if base == 0:
        raise GuestFault(vectors.DE)
    high, low = divmod(cpu.state.rax & 0xFF, base)
    _set_ax(cpu, high << 8 | low)
    _status(cpu, result_flags(low))


@handles(Mnemonic.AAD)
def aad(cpu: "SoftVcpu", i: Instruction) -> None:
    """AAD imm8: AL = AL + AH * base, AH = 0."""
    ax = cpu.state.rax & 0xFFFF
    value = (ax & 0xFF) + (ax >> 8) * i.immediate8 & 0xFF
    _set_ax(cpu, value)
    _status(cpu, result_flags(value))


@handles(Mnemonic.SALC)
def salc(cpu: "SoftVcpu", i: Instruction) -> None:
    """SALC: AL = FFh when CF, else 0."""
    _set_al(cpu, 0xFF if cpu.state.get_rflags() & CF else 0)


@handles(Mnemonic.XLATB)
def xlat(cpu: "SoftVcpu", i: Instruction) -> None:
    """XLAT: AL = [rBX + AL]."""
    offset = effective_offset(cpu, i)
    _set_al(cpu, cpu.read(linear_address(cpu, SEGMENT_NAME[i.memory_segment], offset, 1, False), 1))


_PUSHED = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")


@handles(Mnemonic.PUSHA, Mnemonic.PUSHAD)
def pusha(cpu: "SoftVcpu", i: Instruction) -> None:
    """PUSHA: eight registers, rSP as it was."""
    size = 2 if i.mnemonic == Mnemonic.PUSHA else 4
    stack = Stack.current(cpu)
    for name in _PUSHED:
        stack.push(getattr(cpu.state, name), size)
    stack.commit()


@handles(Mnemonic.POPA, Mnemonic.POPAD)
def popa(cpu: "SoftVcpu", i: Instruction) -> None:
    """POPA: eight registers, the stored rSP is dropped."""
    size = 2 if i.mnemonic == Mnemonic.POPA else 4
    stack = Stack.current(cpu)
    values = [(name, stack.pop(size)) for name in reversed(_PUSHED)]
    for name, value in values:
        if name != "rsp":
            write_part(cpu, name, 8 * size, value)
    stack.commit()


@handles(Mnemonic.ENTER)
def enter(cpu: "SoftVcpu", i: Instruction) -> None:
    """ENTER with its nesting level (SDM vol. 2): the frame pointers of the outer procedures are copied."""
    st = cpu.state
    allocate, level = i.immediate16, i.immediate8_2nd & 31
    size = (-i.stack_pointer_increment - allocate) // (level + 1 if level else 1)
    stack = Stack.current(cpu)
    frames = Stack.current(cpu)
    frames.pointer = st.rbp
    stack.push(st.rbp, size)
    frame = stack.pointer
    if level:
        for _ in range(level - 1):
            frames.skip(-size)
            stack.push(frames.peek(size), size)
        stack.push(frame, size)
    stack.skip(-allocate)
    stack.probe(size)  # the new top must be writable: ENTER faults before RBP changes
    write_part(cpu, "rbp", 8 * size, frame)
    stack.commit()


@handles(Mnemonic.CMPXCHG8B, Mnemonic.CMPXCHG16B)
def compare_exchange(cpu: "SoftVcpu", i: Instruction) -> None:
    """CMPXCHG8B, CMPXCHG16B: EDX:EAX against memory, ECX:EBX into it. A store is made either way; one that fails locks, too."""
    st = cpu.state
    wide = i.mnemonic == Mnemonic.CMPXCHG16B
    size, half = (16, 64) if wide else (8, 32)
    if not cpu.model.has("cx16" if wide else "cx8"):
        raise ud()
    at = effective_address(cpu, i, size, write=True)
    if wide and at % 16:
        raise gp()
    mask = (1 << half) - 1
    cpu.pieces(at, size, cpu.rights() | s.ACCESS_WRITE)
    locks = i.has_lock_prefix and locks_bus(cpu, at, size)
    found = cpu.read(at, size)
    expected = (st.rdx & mask) << half | st.rax & mask
    equal = found == expected
    cpu.write(at, size, (st.rcx & mask) << half | st.rbx & mask if equal else found)
    if not equal:
        st.rax, st.rdx = found & mask, found >> half
    cpu.state.set_rflags(st.get_rflags() & ~ZF | (ZF if equal else 0))
    if locks:
        cpu.note_lock(at, size)


_RANDOM: "WeakKeyDictionary[SoftCore, int]" = WeakKeyDictionary()  # of deterministic vCPUs: where their sequence stands


def _repeatable(cpu: SoftCore, bits: int) -> int:
    """The next number of a deterministic run, the same every time: upper halves of a 64-bit congruential generator."""
    at, value = _RANDOM.get(cpu, 0x9E3779B97F4A7C15), 0
    for _ in range(2):
        at = (at * 6364136223846793005 + 1442695040888963407) & (1 << 64) - 1
        value = value << 32 | at >> 32
    _RANDOM[cpu] = at
    return value & (1 << bits) - 1


def _random(feature: str) -> Callable[["SoftVcpu", Instruction], None]:
    def handler(cpu: "SoftVcpu", i: Instruction) -> None:
        if not cpu.model.has(feature):
            raise ud()
        bits = 8 * operand_size(i, 0)
        value = _repeatable(cpu, bits) if cpu.deterministic else int.from_bytes(os.urandom(bits // 8))
        write_register(cpu, i.op0_register, value)
        _status(cpu, CF)

    return handler


handles(Mnemonic.RDRAND)(_random("rdrand"))
handles(Mnemonic.RDSEED)(_random("rdseed"))
