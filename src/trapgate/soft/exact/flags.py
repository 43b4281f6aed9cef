"""Sets RFLAGS where translated code does not settle it: CPL > IOPL, virtual-8086 mode, VME and PVI; STAC and CLAC.

Sources: SDM vol. 2, CLI, STI, PUSHF, POPF; SDM vol. 3, 20.3 and 20.4.
"""

from iced_x86 import Instruction, Mnemonic

from trapgate.arch.control import CR4_PVI, CR4_VME
from trapgate.arch.flags import AC, DF, ID, IF, IOPL, NT, RF, STATUS, TF, VIF, VIP, VM
from trapgate.isa import modes
from trapgate.soft.exact.operands import gp, is_real, ud
from trapgate.soft.exact.returns import merge_flags
from trapgate.soft.exact.stack import Stack
from trapgate.soft.state.core import SoftCore
from trapgate.soft.state.guest_cpu import GuestCpu
from trapgate.soft.state.instructions import handles

STI_SHADOW = 1


def is_v86(cpu: SoftCore) -> bool:
    """Virtual-8086 mode."""
    return is_real(cpu) and bool(cpu.state.rflags & VM)


def _virtual(cpu: SoftCore) -> bool:
    """Whether CLI and STI act on VIF here: #GP(0) where they may not act at all."""
    st = cpu.state
    if st.mode & modes.IOPL:
        return False
    if st.cr4 & CR4_VME if is_v86(cpu) else st.cr4 & CR4_PVI and st.cpl == 3:
        return True
    raise gp()


@handles(Mnemonic.CLI)
def cli(cpu: GuestCpu, i: Instruction) -> None:
    """CLI: IF = 0, or VIF = 0 where virtual interrupts are on."""
    cpu.state.rflags &= ~(VIF if _virtual(cpu) else IF)


@handles(Mnemonic.STI)
def sti(cpu: GuestCpu, i: Instruction) -> None:
    """STI: IF = 1, seen after the next instruction; or VIF = 1, #GP(0) when VIP waits."""
    st = cpu.state
    if _virtual(cpu):
        if st.rflags & VIP:
            raise gp()
        st.rflags |= VIF
        return
    if not st.rflags & IF:
        st.shadow, st.shadow_rip = STI_SHADOW, st.next_rip
    st.rflags |= IF
    cpu.update_mode()


@handles(Mnemonic.PUSHF, Mnemonic.PUSHFD)
def pushf(cpu: GuestCpu, i: Instruction) -> None:
    """PUSHF: VM and RF read as 0. In virtual-8086 mode at IOPL < 3 it needs CR4.VME, and shows VIF as IF and IOPL as 3."""
    st = cpu.state
    size = -i.stack_pointer_increment
    flags = st.get_rflags() & ~(VM | RF)
    if is_v86(cpu) and st.rflags & IOPL != IOPL:
        if not st.cr4 & CR4_VME or size != 2:
            raise gp()
        flags = flags & ~IF | IOPL | (IF if flags & VIF else 0)
    stack = Stack.current(cpu)
    stack.push(flags, size)
    stack.commit()


@handles(Mnemonic.POPF, Mnemonic.POPFD, Mnemonic.POPFQ)
def popf(cpu: GuestCpu, i: Instruction) -> None:
    """POPF: IOPL changes at CPL 0 only, IF where CPL <= IOPL; RF is cleared; VM, VIF and VIP stay."""
    st = cpu.state
    size = i.stack_pointer_increment
    virtual = is_v86(cpu) and st.rflags & IOPL != IOPL
    if virtual and (not st.cr4 & CR4_VME or size != 2):
        raise gp()
    stack = Stack.current(cpu)
    new = stack.pop(size)
    mask = STATUS | TF | DF | NT | AC | ID
    if st.mode & modes.IOPL:
        mask |= IF
    if st.cpl == 0:
        mask |= IOPL
    old = st.get_rflags() & ~RF
    if virtual:
        if new & TF or (new & IF and old & VIP):
            raise gp()
        old = old & ~VIF | (VIF if new & IF else 0)
    stack.commit()
    st.set_rflags(merge_flags(old, new, mask, size))
    cpu.update_mode()


@handles(Mnemonic.STAC, Mnemonic.CLAC)
def supervisor_access(cpu: GuestCpu, i: Instruction) -> None:
    """STAC, CLAC: #UD without SMAP and outside CPL 0."""
    if not cpu.model.has("smap") or cpu.state.cpl:
        raise ud()
    if i.mnemonic == Mnemonic.STAC:
        cpu.state.rflags |= AC
    else:
        cpu.state.rflags &= ~AC
    cpu.update_mode()
