"""Checks the limit of CS outside 64-bit mode: before a step fetches an instruction, and where a near branch may go.

Sources: SDM vol. 3, 6.3 and table 7-1; vol. 2, JMP, CALL, Jcc, LOOP; APM vol. 2, 4.12.1. Blocks know how far they reach
(`isa.native.placing`) and leave to steps what may go beyond. EIP has 32 bits in 16-bit code, too: behind FFFFh comes 10000h.
"""

from iced_x86 import ConditionCode, FlowControl, Instruction, Mnemonic

from trapgate.arch.flags import CF, OF, PF, SF, ZF
from trapgate.isa import modes
from trapgate.soft.decode import decoding
from trapgate.soft.decode.flow import counted_width
from trapgate.soft.exact.operands import gp
from trapgate.soft.exact.stack import Stack
from trapgate.soft.state.core import SoftCore

_ALL = 0xFFFFFFFF
_DIRECT = (FlowControl.UNCONDITIONAL_BRANCH, FlowControl.CONDITIONAL_BRANCH, FlowControl.CALL)
_COUNTED = (Mnemonic.LOOP, Mnemonic.LOOPE, Mnemonic.LOOPNE)


def check(cpu: SoftCore, offset: int) -> None:
    """A byte of code outside 64-bit mode is fetched; GuestFault, #GP(0), where it lies beyond the limit."""
    if not cpu.state.mode & modes.CODE64 and offset & _ALL > cpu.state.cs_limit:
        raise gp()


def next_rip(cpu: SoftCore, raw: bytes) -> int | None:
    """Where the instruction at RIP, of these bytes, will go on, in 32 bits; None where that is not its own to say.

    GuestFault, #GP(0), where one of its bytes or the target of a direct near branch lies beyond the limit.
    """
    st = cpu.state
    check(cpu, st.rip + len(raw) - 1)
    if st.mode & modes.CODE64:
        return None
    i = decoding.decoder(cpu.model, modes.code_bits(st.mode), raw, st.rip).decode()
    if i.is_invalid:
        return None
    behind = int(st.rip) + len(raw) & _ALL
    if i.flow_control == FlowControl.NEXT:
        return behind
    if i.flow_control not in _DIRECT or i.is_jmp_far or i.is_call_far:
        return None
    if not _taken(cpu, i):
        return behind
    target = int(i.near_branch_target)
    if target > st.cs_limit:
        if i.is_call_near and not cpu.model.amd:  # as measured: Intel's have stored the return address (docs/vendors.md)
            Stack.current(cpu).push(behind, -i.stack_pointer_increment)
        raise gp()
    return target


def _taken(cpu: SoftCore, i: Instruction) -> bool:
    """Whether a direct near branch goes to its target."""
    st = cpu.state
    flags, count = st.get_rflags(), st.rcx & (1 << counted_width(i)) - 1
    if i.mnemonic in _COUNTED:
        return bool(count != 1 and (i.mnemonic == Mnemonic.LOOP or bool(flags & ZF) == (i.mnemonic == Mnemonic.LOOPE)))
    if i.is_jcx_short:
        return bool(count == 0)
    return bool(i.condition_code == ConditionCode.NONE) or _holds(i.condition_code, flags)


def _holds(condition: int, flags: int) -> bool:
    """One of the sixteen conditions, from O on (SDM vol. 1, appendix B)."""
    less = bool(flags & SF) != bool(flags & OF)
    which, negated = divmod(condition - ConditionCode.O, 2)
    held = (flags & OF, flags & CF, flags & ZF, flags & (CF | ZF), flags & SF, flags & PF, less, less or flags & ZF)[which]
    return bool(held) != bool(negated)
