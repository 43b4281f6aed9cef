"""Executes MOV CRn, CLTS, LMSW, SMSW, XGETBV, XSETBV, and INVPCID.

Sources: SDM vol. 2 under each name; SDM vol. 3, 2.5, 4.10.4.1, 9.8.5 (entering long mode); APM vol. 2, 3.1, 14.6.
"""

from iced_x86 import Instruction, Mnemonic, OpKind, Register

from trapgate.arch import control as cr
from trapgate.arch import paging, xstate
from trapgate.arch.segments import SystemType
from trapgate.exits import Exit
from trapgate.soft.exact.debugging import move_from_debug, move_to_debug
from trapgate.soft.exact.operands import (
    ALL_64,
    effective_address,
    gp,
    is_64,
    is_memory,
    read_operand,
    read_register,
    require_cpl0,
    ud,
    write_operand,
    write_register,
)  # fmt: skip
from trapgate.soft.exact.segments import refresh_rights
from trapgate.soft.exact.tables import move_from_segment, move_to_segment, require_umip
from trapgate.soft.state.core import SoftCore
from trapgate.soft.state.guest_cpu import GuestCpu
from trapgate.soft.state.instructions import handles
from trapgate.soft.state.registers import GENERAL, SEGMENT_NAME

CONTROL = {getattr(Register, f"CR{n}"): n for n in range(16)}
DEBUG = {getattr(Register, f"DR{n}") for n in range(16)}
CS_LONG = 1 << 13


def write_cr0(cpu: SoftCore, value: int) -> None:
    """CR0, with EFER.LMA following PG and LME; ValueError where MOV to CR0 raises #GP(0)."""
    st = cpu.state
    old, efer = st.cr0, st.efer
    cs_long = bool(st.cs_attributes & CS_LONG)
    new = cr.check_cr0(old, value, cr4=st.cr4, efer=efer, cs_long=cs_long)
    rises = bool(new & ~old & cr.CR0_PG)
    if rises and efer & cr.EFER_LME and st.tr_attributes & 0xF in (SystemType.TSS16, SystemType.TSS16_BUSY):
        raise ValueError("CR0: PG with EFER.LME needs a TSS that is not 16 bits")
    if rises and not efer & cr.EFER_LME and st.cr4 & cr.CR4_PAE:
        check_pdptes(cpu, st.cr3)
    st.cr0 = new
    if rises and efer & cr.EFER_LME:
        st.efer = efer | cr.EFER_LMA
    if old & ~new & cr.CR0_PG:
        st.efer = efer & ~cr.EFER_LMA
    if (old ^ new) & cr.CR0_PE:
        st.cs_selector &= ~3  # CPL is 0 on both sides, whatever paragraph CS holds until the far jump that follows
        refresh_rights(cpu)
    if (old ^ new) & (cr.CR0_FLUSHES | cr.CR0_PE):
        cpu.flush_all()
    cpu.update_mode()


def check_pdptes(cpu: SoftCore, cr3: int) -> None:
    """PAE paging loads four PDPTEs with CR3: ValueError (#GP) when a present one has reserved bits (SDM vol. 3, 4.4.1)."""
    mask = paging.reserved_mask(
        paging.Mode.PAE, 3, False, physical_bits=cpu.model.physical_bits, nx=True, pdpe1gb=False, amd=cpu.model.amd
    )
    table = cpu.physical_read(cr3 & 0xFFFFFFE0, 32)
    for n in range(4):
        entry = int.from_bytes(table[8 * n : 8 * n + 8], "little")
        if entry & paging.P and entry & mask:
            raise ValueError(f"PDPTE {n} holds {entry:#x}: reserved bits are set")


def _pae(cpu: SoftCore, cr4: int) -> bool:
    return bool(cpu.state.cr0 & cr.CR0_PG and cr4 & cr.CR4_PAE and not cpu.state.efer & cr.EFER_LMA)


def write_cr3(cpu: SoftCore, value: int) -> None:
    """CR3; ValueError where MOV to CR3 raises #GP(0). Translations carry no PCID: a load that asks to keep them flushes, too."""
    st = cpu.state
    new = cr.check_cr3(value, cr4=st.cr4, efer=st.efer, physical_bits=cpu.model.physical_bits)
    if _pae(cpu, st.cr4):
        check_pdptes(cpu, new)
    st.cr3 = new
    st.lock_age += 1
    cpu.flush_nonglobal()


def write_cr4(cpu: SoftCore, value: int) -> None:
    """CR4; ValueError where MOV to CR4 raises #GP(0)."""
    st = cpu.state
    old = st.cr4
    new = cr.check_cr4(old, value, cr0=st.cr0, cr3=st.cr3, efer=st.efer, allowed=cr.cr4_mask(cpu.model.has))
    if _pae(cpu, new) and (old ^ new) & (cr.CR4_PAE | cr.CR4_PGE | cr.CR4_PSE | cr.CR4_SMEP):
        check_pdptes(cpu, st.cr3)
    st.cr4 = new
    if (old ^ new) & cr.CR4_FLUSHES:
        cpu.flush_all()
    cpu.update_mode()


def read_cr8(cpu: GuestCpu) -> int:
    """CR8: the task priority, which is the local APIC's where there is one."""
    return int(cpu.lapic.cr8) if cpu.lapic is not None else int(cpu.state.cr8)


def write_cr8(cpu: GuestCpu, value: int) -> None:
    """CR8; ValueError where MOV to CR8 raises #GP(0)."""
    cpu.state.cr8 = cr.check_cr8(value)
    if cpu.lapic is not None:
        cpu.lapic.cr8 = cpu.state.cr8


@handles(Mnemonic.MOV)
def mov(cpu: GuestCpu, i: Instruction) -> Exit | None:
    """MOV to and from segment, control and debug registers (everything else never comes here but as a reference)."""
    target = i.op0_register if i.op0_kind == OpKind.REGISTER else Register.NONE
    source = i.op1_register if i.op1_kind == OpKind.REGISTER else Register.NONE
    if target in SEGMENT_NAME:
        move_to_segment(cpu, i)
    elif source in SEGMENT_NAME:
        move_from_segment(cpu, i)
    elif target in CONTROL or source in CONTROL:
        _move_control(cpu, i)
    elif target in DEBUG:
        return move_to_debug(cpu, i)
    elif source in DEBUG:
        return move_from_debug(cpu, i)
    else:
        write_operand(cpu, i, 0, read_operand(cpu, i, 1))
    return None


def _move_control(cpu: GuestCpu, i: Instruction) -> None:
    st = cpu.state
    number = CONTROL[i.op0_register] if i.op0_register in CONTROL else CONTROL[i.op1_register]
    if number not in (0, 2, 3, 4, 8):
        raise ud()
    require_cpl0(cpu)
    if i.op0_register in GENERAL:
        write_register(cpu, i.op0_register, read_cr8(cpu) if number == 8 else getattr(st, f"cr{number}"))
        return
    value = read_register(cpu, i.op1_register)
    try:
        match number:
            case 0:
                write_cr0(cpu, value)
            case 2:
                st.cr2 = value
            case 3:
                write_cr3(cpu, value)
            case 4:
                write_cr4(cpu, value)
            case _:
                write_cr8(cpu, value)
    except ValueError:
        raise gp() from None


@handles(Mnemonic.CLTS)
def clts(cpu: GuestCpu, i: Instruction) -> None:
    """CLTS: CR0.TS = 0."""
    require_cpl0(cpu)
    cpu.state.cr0 &= ~cr.CR0_TS
    cpu.update_mode()


@handles(Mnemonic.LMSW)
def lmsw(cpu: GuestCpu, i: Instruction) -> None:
    """LMSW: CR0[3:0]; PE can be set, not cleared."""
    require_cpl0(cpu)
    value, old = read_operand(cpu, i, 0, 2), cpu.state.cr0
    try:
        write_cr0(cpu, old & ~0xE | value & 0xF)
    except ValueError:
        raise gp() from None


@handles(Mnemonic.SMSW)
def smsw(cpu: GuestCpu, i: Instruction) -> None:
    """SMSW: the low bits of CR0, 16 of them to memory."""
    require_umip(cpu)
    write_operand(cpu, i, 0, cpu.state.cr0, 2 if is_memory(i, 0) else None)


@handles(Mnemonic.INVPCID)
def invpcid(cpu: GuestCpu, i: Instruction) -> None:
    """INVPCID: one address, one PCID, all, all but global pages."""
    if not cpu.model.has("invpcid"):
        raise ud()
    require_cpl0(cpu)
    st = cpu.state
    kind = read_operand(cpu, i, 0)
    descriptor = cpu.read(effective_address(cpu, i, 16), 16)
    pcid, address = descriptor & ALL_64, descriptor >> 64
    if kind > 3 or (kind < 2 and pcid >> 12) or (kind < 2 and not st.cr4 & cr.CR4_PCIDE and pcid):
        raise gp()
    if kind == 0:
        if not paging.is_canonical(address):
            raise gp()
        cpu.flush_page(address)
    elif kind == 2:
        cpu.flush_all()
    else:
        cpu.flush_nonglobal()


def _require_xsave(cpu: GuestCpu) -> None:
    if not cpu.state.cr4 & cr.CR4_OSXSAVE:
        raise ud()


@handles(Mnemonic.XGETBV)
def xgetbv(cpu: GuestCpu, i: Instruction) -> None:
    """XGETBV: XCR0, or with ECX = 1 what of it is in use: AVX unless every upper half is 0, the rest always."""
    _require_xsave(cpu)
    st = cpu.state
    if st.rcx & 0xFFFFFFFF not in ((0, 1) if cpu.model.has("xgetbv1") else (0,)):
        raise gp()
    value = st.xcr0
    if st.rcx & 0xFFFFFFFF and not any(any(getattr(st, place.field)) for place in xstate.AVX.registers.values()):
        value &= ~xstate.AVX.bit
    st.rax, st.rdx = value & 0xFFFFFFFF, value >> 32


@handles(Mnemonic.XSETBV)
def xsetbv(cpu: GuestCpu, i: Instruction) -> None:
    """XSETBV: XCR0 = EDX:EAX."""
    _require_xsave(cpu)
    require_cpl0(cpu)
    st = cpu.state
    if st.rcx & 0xFFFFFFFF:
        raise gp()
    try:
        st.xcr0 = cr.check_xcr0(st.rdx << 32 & ALL_64 | st.rax & 0xFFFFFFFF, xstate.user_mask(cpu.model.has))
    except ValueError:
        raise gp() from None
    cpu.update_mode()


@handles(Mnemonic.SWAPGS)
def swapgs(cpu: GuestCpu, i: Instruction) -> None:
    """SWAPGS: GS base and KERNEL_GS_BASE change places."""
    if not is_64(cpu):
        raise ud()
    require_cpl0(cpu)
    st = cpu.state
    st.gs_base, st.kernel_gs_base = st.kernel_gs_base, st.gs_base
