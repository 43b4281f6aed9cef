"""Executes IRET and RETF for Python, by their rules (`isa.rules.returns`, `isa.rules.transfers`), and PUSHA and POPA."""

from iced_x86 import Instruction, Mnemonic

from trapgate.soft.exact.rules import settle
from trapgate.soft.state.guest_cpu import GuestCpu
from trapgate.soft.state.instructions import handles

_BITS = {
    Mnemonic.IRET: 16, Mnemonic.IRETD: 32, Mnemonic.IRETQ: 64,
    Mnemonic.PUSHA: 16, Mnemonic.PUSHAD: 32, Mnemonic.POPA: 16, Mnemonic.POPAD: 32,
}  # fmt: skip


def merge_flags(old: int, new: int, mask: int, size: int) -> int:
    """RFLAGS after a pop of `size` bytes that may change the bits of `mask`."""
    if size == 2:
        mask &= 0xFFFF
    return old & ~mask | new & mask


@handles(Mnemonic.IRET, Mnemonic.IRETD, Mnemonic.IRETQ)
def iret(cpu: GuestCpu, i: Instruction) -> None:
    """IRET, IRETD, IRETQ."""
    settle(cpu, f"interrupt_return{_BITS[i.mnemonic]}")


@handles(Mnemonic.RETF)
def retf(cpu: GuestCpu, i: Instruction) -> None:
    """RETF and RETF imm16."""
    extra = i.immediate16 if i.op_count else 0
    settle(cpu, f"far_return{4 * (i.stack_pointer_increment - extra)}", extra)


@handles(Mnemonic.PUSHA, Mnemonic.PUSHAD)
def pusha(cpu: GuestCpu, i: Instruction) -> None:
    """PUSHA."""
    settle(cpu, f"push_all{_BITS[i.mnemonic]}")


@handles(Mnemonic.POPA, Mnemonic.POPAD)
def popa(cpu: GuestCpu, i: Instruction) -> None:
    """POPA."""
    settle(cpu, f"pop_all{_BITS[i.mnemonic]}")
