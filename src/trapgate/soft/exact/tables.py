"""Executes what moves segment registers and descriptor tables: MOV and POP Sreg, LDS, LGDT, LLDT, LTR, LAR, LSL, VERR, ARPL.

Sources: SDM vol. 2 under each name; SDM vol. 3, 5.10 (pointer validation), 2.4 (table registers), 3.3 of APM vol. 2 (UMIP).
"""

from collections.abc import Callable

from iced_x86 import Instruction, Mnemonic, OpKind

from trapgate.arch import vectors
from trapgate.arch.control import CR4_UMIP, EFER_LMA
from trapgate.arch.flags import ZF
from trapgate.soft.exact.descriptors import Entry, fetch_system, find, is_null, read
from trapgate.soft.exact.operands import (
    effective_address,
    gp,
    is_64,
    is_memory,
    is_real,
    operand_size,
    read_operand,
    require_cpl0,
    ud,
    write_operand,
)  # fmt: skip
from trapgate.soft.exact.rules import settle
from trapgate.soft.exact.segments import load_segment
from trapgate.soft.exact.stack import Stack
from trapgate.soft.state.core import SoftCore
from trapgate.soft.state.fault import GuestFault
from trapgate.soft.state.guest_cpu import GuestCpu
from trapgate.soft.state.instructions import handles
from trapgate.soft.state.registers import SEGMENT_NAME

MOV_SS_SHADOW = 2


def shadow_of_ss(cpu: SoftCore) -> None:
    """MOV and POP to SS hold interrupts and trap-class #DBs until after the next instruction (SDM vol. 3, 6.8.3)."""
    cpu.state.shadow, cpu.state.shadow_rip = MOV_SS_SHADOW, cpu.state.next_rip


def move_to_segment(cpu: SoftCore, i: Instruction) -> None:
    """MOV Sreg, r/m16. CS cannot be a destination."""
    name = SEGMENT_NAME[i.op0_register]
    if name == "cs":
        raise ud()
    load_segment(cpu, name, read_operand(cpu, i, 1, 2))
    if name == "ss":
        shadow_of_ss(cpu)


def move_from_segment(cpu: SoftCore, i: Instruction) -> None:
    """MOV r/m, Sreg: 16 bits to memory, zero-extended into a register."""
    write_operand(cpu, i, 0, read_operand(cpu, i, 1), 2 if is_memory(i, 0) else None)


@handles(Mnemonic.POP)
def pop(cpu: GuestCpu, i: Instruction) -> None:
    """POP Sreg: reads 16 bits, moves the pointer by the operand size."""
    stack = Stack.current(cpu)
    size = i.stack_pointer_increment
    if i.op0_kind != OpKind.REGISTER or i.op0_register not in SEGMENT_NAME:
        value = stack.pop(size)
        stack.commit()
        write_operand(cpu, i, 0, value, size)
        return
    selector = stack.pop(size, 2)
    name = SEGMENT_NAME[i.op0_register]
    load_segment(cpu, name, selector)  # may change the width of the stack: this pop still has the old one
    stack.commit()
    if name == "ss":
        shadow_of_ss(cpu)


def _load_far(name: str) -> Callable[[GuestCpu, Instruction], None]:
    def handler(cpu: GuestCpu, i: Instruction) -> None:
        if i.op1_kind != OpKind.MEMORY:
            raise ud()
        size = operand_size(i, 0)
        offset = cpu.read(effective_address(cpu, i, size), size)
        selector = cpu.read(effective_address(cpu, i, 2, ahead=size), 2)
        load_segment(cpu, name, selector)
        write_operand(cpu, i, 0, offset)

    return handler


for _name in ("ds", "es", "fs", "gs", "ss"):
    handles(getattr(Mnemonic, f"L{_name.upper()}"))(_load_far(_name))


def require_umip(cpu: SoftCore) -> None:
    """#GP(0) outside CPL 0 while CR4.UMIP is set: SGDT, SIDT, SLDT, STR, SMSW."""
    if cpu.state.cr4 & CR4_UMIP and cpu.state.cpl:
        raise gp()


def _store_table(table: str) -> Callable[[GuestCpu, Instruction], None]:
    def handler(cpu: GuestCpu, i: Instruction) -> None:
        require_umip(cpu)
        size = 8 if is_64(cpu) else 4
        base, limit = getattr(cpu.state, f"{table}_base"), getattr(cpu.state, f"{table}_limit")
        at = effective_address(cpu, i, 2 + size, write=True)
        cpu.write(at, 2 + size, limit & 0xFFFF | (base & (1 << 8 * size) - 1) << 16)

    return handler


handles(Mnemonic.SGDT)(_store_table("gdt"))
handles(Mnemonic.SIDT)(_store_table("idt"))


def _require_protected(cpu: SoftCore) -> None:
    if is_real(cpu):
        raise ud()


def _store_selector(name: str) -> Callable[[GuestCpu, Instruction], None]:
    def handler(cpu: GuestCpu, i: Instruction) -> None:
        _require_protected(cpu)
        require_umip(cpu)
        write_operand(cpu, i, 0, getattr(cpu.state, f"{name}_selector"), 2 if is_memory(i, 0) else None)

    return handler


handles(Mnemonic.SLDT)(_store_selector("ldtr"))
handles(Mnemonic.STR)(_store_selector("tr"))


@handles(Mnemonic.LLDT, Mnemonic.LTR)
def load_table_register(cpu: GuestCpu, i: Instruction) -> None:
    """LLDT and LTR, by their rules (`isa.rules.tables`)."""
    _require_protected(cpu)
    require_cpl0(cpu)
    settle(cpu, "load_ldt" if i.mnemonic == Mnemonic.LLDT else "load_task", read_operand(cpu, i, 0, 2))


_LAR_LEGACY = {1, 2, 3, 4, 5, 9, 11, 12}
_LAR_LONG = {2, 9, 11, 12}
_LSL_LEGACY = {1, 2, 3, 9, 11}
_LSL_LONG = {2, 9, 11}


def _visible(cpu: SoftCore, selector: int, legacy: set[int], long: set[int]) -> Entry | None:
    """The descriptor when LAR, LSL, VERR or VERW may look at it: inside its table, of a valid type, of sufficient privilege."""
    address = find(cpu, selector)
    if is_null(selector) or address is None:
        return None
    long_mode = bool(cpu.state.efer & EFER_LMA)
    found = read(cpu, selector, address)
    if not found.s:
        if found.type not in (long if long_mode else legacy):
            return None
        if long_mode:
            if find(cpu, selector, 16) is None:
                return None
            try:
                found = fetch_system(cpu, selector)
            except GuestFault as fault:
                if fault.vector != vectors.GP:
                    raise
                return None
    if not found.conforming and max(selector & 3, cpu.state.cpl) > found.dpl:
        return None
    return found


def set_flag(cpu: SoftCore, mask: int, on: bool) -> None:
    """Change some status flags, the others stay."""
    old = cpu.state.get_rflags() & ~mask
    cpu.state.set_rflags(old | (mask if on else 0))


@handles(Mnemonic.LAR)
def lar(cpu: GuestCpu, i: Instruction) -> None:
    """LAR: the access rights of a descriptor, ZF when it is visible."""
    _require_protected(cpu)
    found = _visible(cpu, read_operand(cpu, i, 1, 2), _LAR_LEGACY, _LAR_LONG)
    if found:
        write_operand(cpu, i, 0, found.raw >> 32 & (0xFF00 if operand_size(i, 0) == 2 else 0xFFFF00))
    set_flag(cpu, ZF, found is not None)


@handles(Mnemonic.LSL)
def lsl(cpu: GuestCpu, i: Instruction) -> None:
    """LSL: the limit in bytes, ZF when the descriptor is visible."""
    _require_protected(cpu)
    found = _visible(cpu, read_operand(cpu, i, 1, 2), _LSL_LEGACY, _LSL_LONG)
    if found:
        write_operand(cpu, i, 0, found.byte_limit)
    set_flag(cpu, ZF, found is not None)


@handles(Mnemonic.VERR, Mnemonic.VERW)
def verify(cpu: GuestCpu, i: Instruction) -> None:
    """VERR, VERW: ZF says whether the segment may be read, written from here."""
    _require_protected(cpu)
    found = _visible(cpu, read_operand(cpu, i, 0, 2), set(), set())
    if i.mnemonic == Mnemonic.VERW:
        fine = found is not None and found.writable
    else:
        fine = found is not None and found.readable
    set_flag(cpu, ZF, fine)


@handles(Mnemonic.ARPL)
def arpl(cpu: GuestCpu, i: Instruction) -> None:
    """ARPL: the RPL of the destination is raised to that of the source."""
    _require_protected(cpu)
    value, rpl = read_operand(cpu, i, 0, 2), read_operand(cpu, i, 1, 2) & 3
    lower = value & 3 < rpl
    if lower:
        if is_memory(i, 0):
            write_operand(cpu, i, 0, value & ~3 | rpl, 2)
        else:
            write_operand(cpu, i, 0, read_operand(cpu, i, 0) & ~3 | rpl)
    set_flag(cpu, ZF, lower)
