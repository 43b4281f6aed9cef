"""IRET in every mode, and what it shares with RETF: going back to a code segment, and to an outer stack.

Sources: SDM vol. 2, IRET and RET; SDM vol. 3, 5.8.6, 6.14.3, 20.2.1; APM vol. 2, 8.9.3. IRET with NT set (a task return)
raises #GP(0): hardware task switching is not offered, and in long mode the manual wants just that.
"""

from iced_x86 import Instruction, Mnemonic

from trapgate.arch import paging, vectors
from trapgate.arch.control import CR4_VME, EFER_LMA
from trapgate.arch.flags import AC, DF, ID, IF, IOPL, NT, RF, STATUS, TF, VIF, VIP, VM
from trapgate.isa.state import UNUSABLE
from trapgate.soft.exact.operands import gp, is_64
from trapgate.soft.exact.segments import (
    DATA_SEGMENTS,
    V86_ATTRIBUTES,
    Loaded,
    check_stack,
    fetch,
    is_null,
    mark_accessed,
    put_loaded,
    put_paragraph,
    put_segment,
    refresh_rights,
)  # fmt: skip
from trapgate.soft.exact.stack import Stack, stack_bits
from trapgate.soft.state.core import SoftCore
from trapgate.soft.state.fault import GuestFault
from trapgate.soft.state.guest_cpu import GuestCpu
from trapgate.soft.state.instructions import handles

_SIZES = {Mnemonic.IRET: 2, Mnemonic.IRETD: 4, Mnemonic.IRETQ: 8}


def merge_flags(old: int, new: int, mask: int, size: int) -> int:
    """RFLAGS after a pop of `size` bytes that may change the bits of `mask`."""
    if size == 2:
        mask &= 0xFFFF
    return old & ~mask | new & mask


@handles(Mnemonic.IRET, Mnemonic.IRETD, Mnemonic.IRETQ)
def iret(cpu: GuestCpu, i: Instruction) -> None:
    """IRET, IRETD, IRETQ. NMIs are open again behind it, even when it faults (SDM vol. 3, 7.7.1)."""
    st, size = cpu.state, _SIZES[i.mnemonic]
    if st.nmi_blocked:
        st.nmi_blocked, st.request = 0, 1
    if not st.cr0 & 1:
        _iret_real(cpu, size)
    elif st.rflags & VM:
        _iret_v86(cpu, size)
    elif st.rflags & NT:
        raise gp()
    else:
        _iret_protected(cpu, size)
    cpu.update_mode()


def _pop_frame(stack: Stack, size: int) -> tuple[int, int, int]:
    return stack.pop(size), stack.pop(size) & 0xFFFF, stack.pop(size)


def _iret_real(cpu: SoftCore, size: int) -> None:
    st = cpu.state
    stack = Stack.current(cpu)
    offset, selector, flags = _pop_frame(stack, size)
    if offset > st.cs_limit:
        raise gp()
    stack.commit()
    put_paragraph(cpu, "cs", selector)
    mask = STATUS | TF | IF | DF | IOPL | NT | RF | AC | ID
    st.set_rflags(merge_flags(st.get_rflags() & ~RF, flags, mask, size))
    st.next_rip = offset


def _iret_v86(cpu: SoftCore, size: int) -> None:
    st = cpu.state
    virtual = st.rflags & IOPL != IOPL
    if virtual and not (st.cr4 & CR4_VME and size == 2):
        raise gp()
    stack = Stack.current(cpu)
    offset, selector, flags = _pop_frame(stack, size)
    if offset > 0xFFFF:
        raise gp()
    old = st.get_rflags() & ~RF
    mask = STATUS | TF | DF | NT | RF | AC | ID | (0 if virtual else IF)
    if virtual:  # SDM vol. 3, 20.3.3: IF of the frame is VIF
        if flags & TF or (flags & IF and old & VIP):
            raise gp()
        old = old & ~VIF | (VIF if flags & IF else 0)
    stack.commit()
    put_paragraph(cpu, "cs", selector)
    st.set_rflags(merge_flags(old, flags, mask, size))
    st.next_rip = offset


def _iret_protected(cpu: SoftCore, size: int) -> None:
    st = cpu.state
    stack = Stack.current(cpu)
    offset, selector, flags = _pop_frame(stack, size)
    if size == 4 and flags & VM and st.cpl == 0 and not st.efer & EFER_LMA:
        _to_v86(cpu, stack, offset, selector, flags)
        return
    cpl, iopl = st.cpl, st.rflags >> 12 & 3
    mask = STATUS | TF | DF | NT | RF | AC | ID | (IF if cpl <= iopl else 0) | (IOPL | VIF | VIP if cpl == 0 else 0)
    new = merge_flags(st.get_rflags() & ~RF, flags, mask, size)
    to_outer(cpu, stack, selector, offset, size, always_stack=is_64(cpu))
    st.set_rflags(new)


def _to_v86(cpu: SoftCore, stack: Stack, offset: int, selector: int, flags: int) -> None:
    """IRETD at CPL 0 to virtual-8086 mode: nine doublewords."""
    st = cpu.state
    pointer = stack.pop(4)
    ss, es, ds, fs, gs = (stack.pop(4) & 0xFFFF for _ in range(5))
    if offset > 0xFFFF:
        raise gp()
    st.rsp, st.next_rip = pointer, offset
    st.set_rflags(flags & (STATUS | TF | IF | DF | IOPL | NT | RF | VM | AC | VIF | VIP | ID))
    for name, value in (("cs", selector), ("ss", ss), ("es", es), ("ds", ds), ("fs", fs), ("gs", gs)):
        put_segment(cpu, name, value, value << 4, 0xFFFF, V86_ATTRIBUTES)
    refresh_rights(cpu)


def _check_return(cpu: SoftCore, selector: int) -> Loaded:
    """The code segment of a far return: never to more privilege."""
    if is_null(selector):
        raise gp()
    code, error, rpl = fetch(cpu, selector), selector & 0xFFFC, selector & 3
    if not code.code or rpl < cpu.state.cpl:
        raise gp(error)
    if code.dpl > rpl if code.conforming else code.dpl != rpl:
        raise gp(error)
    if cpu.state.efer & EFER_LMA and code.long and code.attributes & 1 << 14:
        raise gp(error)
    if not code.present:
        raise GuestFault(vectors.NP, error)
    return code


def to_outer(cpu: SoftCore, stack: Stack, selector: int, offset: int, size: int, *, extra: int = 0, always_stack: bool) -> None:
    """Return to selector:offset at the same or an outer level: CS, SS:rSP, `next_rip`. GuestFault before any change.

    `stack` stands behind what was popped; `extra` bytes of parameters are released on both stacks (RETF imm16); `always_stack`:
    SS:RSP is in the frame whatever the level (IRET in 64-bit mode).
    """
    st = cpu.state
    code = _check_return(cpu, selector)
    long = bool(st.efer & EFER_LMA) and code.long
    cpl = selector & 3
    outer = cpl > st.cpl
    if not outer and not always_stack:
        if not paging.is_canonical(offset) if long else offset > code.limit:
            raise gp()
        stack.skip(extra)
        put_loaded(cpu, "cs", code)
        stack.commit()
        st.next_rip = offset
        cpu.update_mode()
        return
    stack.skip(extra)
    pointer = stack.pop(size)
    ss = stack.pop(size) & 0xFFFF
    segment: Loaded | None = None
    if is_null(ss):
        if not long or cpl == 3 or ss & 3 != cpl:
            raise gp()
    else:
        segment = check_stack(cpu, ss, cpl, vectors.GP)
    if not paging.is_canonical(offset) if long else offset > code.limit:
        raise gp()
    if segment is not None:
        mark_accessed(cpu, segment)
    put_loaded(cpu, "cs", code)
    if segment is None:
        put_segment(cpu, "ss", ss, 0, 0, UNUSABLE)
    else:
        put_loaded(cpu, "ss", segment)
    bits = stack_bits(cpu, st.cs_attributes, st.ss_attributes)
    new = Stack(cpu, pointer, bits)
    new.skip(extra)
    if bits == 16:
        st.rsp = st.rsp & ~0xFFFF | new.pointer & 0xFFFF
    else:
        st.rsp = new.pointer & (1 << bits) - 1
    st.next_rip = offset
    if outer:
        for name in DATA_SEGMENTS:
            _leave_behind(cpu, name, cpl)
    cpu.update_mode()


def _leave_behind(cpu: SoftCore, name: str, cpl: int) -> None:
    """A data segment that the outer level may not use becomes null, a null selector loses its RPL; FS and GS keep their bases.

    SDM vol. 2, IRET, RETURN-TO-OUTER-PRIVILEGE-LEVEL; APM vol. 3, IRET: the hidden part of a null selector has DPL 0.
    """
    st = cpu.state
    attributes = getattr(st, f"{name}_attributes")
    if attributes & UNUSABLE:
        setattr(st, f"{name}_selector", 0)
        return
    if attributes >> 5 & 3 >= cpl or attributes & 0xC == 0xC:
        return
    put_segment(cpu, name, 0, getattr(st, f"{name}_base"), getattr(st, f"{name}_limit"), UNUSABLE)
