"""Far jumps, calls and returns, and system calls: everything that loads CS but an interrupt and its return.

Sources: SDM vol. 2, JMP, CALL, RET, SYSCALL, SYSRET, SYSENTER, SYSEXIT; SDM vol. 3, 5.8; APM vol. 2, 4.7, 6.1; APM vol. 3.
Task gates and TSS descriptors as targets raise #GP(selector): hardware task switching is not offered.
"""

from iced_x86 import Instruction, Mnemonic, OpKind

from trapgate.arch import paging, vectors
from trapgate.arch.control import EFER_LMA, EFER_SCE
from trapgate.arch.flags import FIXED, IF, RF, SYSRET, VM
from trapgate.arch.segments import SystemType
from trapgate.soft.exact.interrupts import inner_stack, long_stack
from trapgate.soft.exact.operands import effective_address, gp, is_64, is_real, operand_size, require_cpl0, ud
from trapgate.soft.exact.returns import to_outer
from trapgate.soft.exact.segments import (
    Loaded,
    check_stack,
    fetch,
    is_null,
    mark_accessed,
    put_loaded,
    put_paragraph,
    put_segment,
)  # fmt: skip
from trapgate.soft.exact.stack import Stack
from trapgate.soft.state.core import SoftCore
from trapgate.soft.state.fault import GuestFault
from trapgate.soft.state.guest_cpu import GuestCpu
from trapgate.soft.state.instructions import handles

FLAT = 0xFFFFFFFF
CODE64, CODE32, DATA = 0xA09B, 0xC09B, 0xC093  # attributes of the flat segments that system calls load, DPL 0
DPL3 = 3 << 5


def _far_pointer(cpu: SoftCore, i: Instruction) -> tuple[int, int, int]:
    """(selector, offset, operand size in bytes) of a far JMP or CALL."""
    if i.op0_kind == OpKind.FAR_BRANCH16:
        return i.far_branch_selector, i.far_branch16, 2
    if i.op0_kind == OpKind.FAR_BRANCH32:
        return i.far_branch_selector, i.far_branch32, 4
    size = operand_size(i, 0) - 2
    offset = cpu.read(effective_address(cpu, i, size), size)
    return cpu.read(effective_address(cpu, i, 2, ahead=size), 2), offset, size


def check_offset(cpu: SoftCore, offset: int, limit: int, long: bool) -> None:
    """#GP(0) when a new RIP is not canonical (64-bit code) or outside the code segment."""
    if not paging.is_canonical(offset) if long else offset > limit:
        raise gp()


def _check_code(code: Loaded, cpl: int, long_mode: bool) -> None:
    """A direct far JMP or CALL to a code segment (SDM vol. 3, 5.8.1)."""
    error = code.selector & 0xFFFC
    if code.conforming:
        if code.dpl > cpl:
            raise gp(error)
    elif code.selector & 3 > cpl or code.dpl != cpl:
        raise gp(error)
    if not code.present:
        raise GuestFault(vectors.NP, error)
    if long_mode and code.long and code.attributes & 1 << 14:
        raise gp(error)


def _long_target(cpu: SoftCore, code: Loaded) -> bool:
    return bool(cpu.state.efer & EFER_LMA) and code.long


@handles(Mnemonic.JMP)
def jmp_far(cpu: GuestCpu, i: Instruction) -> None:
    """JMP ptr16:16/32 and m16:16/32/64."""
    st = cpu.state
    selector, offset, _ = _far_pointer(cpu, i)
    if is_real(cpu):
        check_offset(cpu, offset, 0xFFFF if st.rflags & VM else st.cs_limit, False)
        put_paragraph(cpu, "cs", selector)
        st.next_rip = offset
        cpu.update_mode()
        return
    code, offset, _, _ = _target(cpu, selector, offset, call=False)
    check_offset(cpu, offset, code.limit, _long_target(cpu, code))
    put_loaded(cpu, "cs", code, code.selector & 0xFFFC | st.cpl)
    st.next_rip = offset
    cpu.update_mode()


def _target(cpu: SoftCore, selector: int, offset: int, call: bool) -> tuple[Loaded, int, Loaded | None, int]:
    """(code segment, offset, call gate or None, operand size of the gate or 0) of a far JMP or CALL in protected mode."""
    st, error = cpu.state, selector & 0xFFFC
    if is_null(selector):
        raise gp()
    found, long_mode = fetch(cpu, selector), bool(st.efer & EFER_LMA)
    if found.code:
        _check_code(found, st.cpl, long_mode)
        return found, offset, None, 0
    kinds = (SystemType.CALL_GATE,) if long_mode else (SystemType.CALL_GATE, SystemType.CALL_GATE16)
    if not found.system or found.type not in kinds:
        raise gp(error)
    if found.dpl < max(st.cpl, selector & 3):
        raise gp(error)
    if not found.present:
        raise GuestFault(vectors.NP, error)
    raw = found.raw
    offset = raw & 0xFFFF
    if found.type == SystemType.CALL_GATE:
        offset |= raw >> 32 & 0xFFFF0000
    if long_mode:
        high = _gate_high(cpu, found)
        offset |= (high & 0xFFFFFFFF) << 32
    target = raw >> 16 & 0xFFFF
    if is_null(target):
        raise gp()
    code = fetch(cpu, target)
    error = target & 0xFFFC
    if not code.code or code.dpl > st.cpl or (not call and not code.conforming and code.dpl != st.cpl):
        raise gp(error)
    if long_mode and (not code.long or code.attributes & 1 << 14):
        raise gp(error)
    if not code.present:
        raise GuestFault(vectors.NP, error)
    return code, offset, found, 8 if long_mode else 4 if found.type == SystemType.CALL_GATE else 2


def _gate_high(cpu: SoftCore, gate: Loaded) -> int:
    limit = cpu.state.ldtr_limit if gate.selector & 4 else cpu.state.gdt_limit
    if (gate.selector & 0xFFF8) + 15 > limit:
        raise gp(gate.selector & 0xFFFC)
    high = cpu.read(gate.address + 8, 8, 0)
    if high >> 40 & 0x1F:
        raise gp(gate.selector & 0xFFFC)
    return high


@handles(Mnemonic.CALL)
def call_far(cpu: GuestCpu, i: Instruction) -> None:
    """CALL ptr16:16/32 and m16:16/32/64, through call gates too."""
    st = cpu.state
    selector, offset, size = _far_pointer(cpu, i)
    if is_real(cpu):
        stack = Stack.current(cpu)
        stack.push(st.cs_selector, size)
        stack.push(st.next_rip, size)
        check_offset(cpu, offset, 0xFFFF if st.rflags & VM else st.cs_limit, False)
        stack.commit()
        put_paragraph(cpu, "cs", selector)
        st.next_rip = offset
        cpu.update_mode()
        return
    code, offset, gate, gate_size = _target(cpu, selector, offset, call=True)
    if gate is not None and not code.conforming and code.dpl < st.cpl:
        _call_inner(cpu, code, offset, gate, gate_size)
        return
    size = gate_size or size
    check_offset(cpu, offset, code.limit, _long_target(cpu, code))
    stack = Stack.current(cpu)
    stack.push(st.cs_selector, size)
    stack.push(st.next_rip, size)
    put_loaded(cpu, "cs", code, code.selector & 0xFFFC | st.cpl)
    stack.commit()
    st.next_rip = offset
    cpu.update_mode()


def _call_inner(cpu: SoftCore, code: Loaded, offset: int, gate: Loaded, size: int) -> None:
    """A call gate to more privilege: the stack of the TSS, parameters copied (SDM vol. 3, 5.8.5)."""
    st, cpl = cpu.state, code.dpl
    segment: Loaded | None = None
    parameters: list[int] = []
    if size == 8:
        stack = Stack(cpu, long_stack(cpu, 4 + 8 * cpl), 64, rights=0)
    else:
        selector, pointer = inner_stack(cpu, cpl)
        segment = check_stack(cpu, selector, cpl, vectors.TS)
        stack = Stack.inner(cpu, pointer, segment.base, segment.limit, segment.attributes, selector & 0xFFFC, cpl)
        old = Stack.current(cpu)
        parameters = [old.pop(size) for _ in range(gate.raw >> 32 & 31)]
    check_offset(cpu, offset, code.limit, size == 8)
    for value in (st.ss_selector, st.rsp, *reversed(parameters), st.cs_selector, st.next_rip):
        stack.push(value, size)
    if segment is not None:
        mark_accessed(cpu, segment)
    put_loaded(cpu, "cs", code, code.selector & 0xFFFC | cpl)
    if segment is not None:
        put_loaded(cpu, "ss", segment)
    else:
        put_segment(cpu, "ss", cpl, 0, 0, 1 << 16)
    stack.commit()
    st.next_rip = offset
    cpu.update_mode()


@handles(Mnemonic.RETF)
def retf(cpu: GuestCpu, i: Instruction) -> None:
    """RETF and RETF imm16."""
    st = cpu.state
    extra = i.immediate16 if i.op_count else 0
    size = (i.stack_pointer_increment - extra) // 2
    stack = Stack.current(cpu)
    offset = stack.pop(size)
    selector = stack.pop(size) & 0xFFFF
    if is_real(cpu):
        check_offset(cpu, offset, 0xFFFF if st.rflags & VM else st.cs_limit, False)
        stack.skip(extra)
        stack.commit()
        put_paragraph(cpu, "cs", selector)
        st.next_rip = offset
        cpu.update_mode()
        return
    to_outer(cpu, stack, selector, offset, size, extra=extra, always_stack=False)


def _flat_code(cpu: SoftCore, selector: int, attributes: int, stack_selector: int, stack_attributes: int) -> None:
    """CS and SS as system calls load them: flat, whatever the descriptor tables say."""
    put_segment(cpu, "cs", selector, 0, FLAT, attributes)
    put_segment(cpu, "ss", stack_selector, 0, FLAT, stack_attributes)


@handles(Mnemonic.SYSCALL)
def syscall(cpu: GuestCpu, i: Instruction) -> None:
    """SYSCALL: from 64-bit code; from compatibility and legacy protected mode on AMD only."""
    st, long_mode = cpu.state, bool(cpu.state.efer & EFER_LMA)
    if not st.efer & EFER_SCE or is_real(cpu) or (not is_64(cpu) and not cpu.model.amd):
        raise ud()
    selector = st.star >> 32 & 0xFFFC
    flags = st.get_rflags()
    if long_mode:
        st.rcx, st.r11 = st.next_rip, flags & ~RF
        st.next_rip = st.lstar if is_64(cpu) else st.cstar
        st.set_rflags(flags & ~st.sfmask & ~RF | FIXED)
    else:
        st.rcx = st.next_rip & FLAT
        st.next_rip = st.star & FLAT
        st.set_rflags(flags & ~(VM | IF | RF))
    _flat_code(cpu, selector, CODE64 if long_mode else CODE32, selector + 8, DATA)
    cpu.update_mode()


@handles(Mnemonic.SYSRET, Mnemonic.SYSRETQ)
def sysret(cpu: GuestCpu, i: Instruction) -> None:
    """SYSRET: to 64-bit code with REX.W, else to 32-bit code; Intel has it in 64-bit mode only.

    A target that is not canonical raises #GP(0) before anything changes on Intel, at CPL 3 from the target on AMD. AMD's load the
    selector of SS as STAR has it, and leave the rest of SS alone (APM vol. 3, SYSRET); Intel's make it flat, with RPL 3.
    """
    st = cpu.state
    long_mode, wide = bool(st.efer & EFER_LMA), i.mnemonic == Mnemonic.SYSRETQ
    if not st.efer & EFER_SCE or is_real(cpu) or (not is_64(cpu) and not cpu.model.amd):
        raise ud()
    require_cpl0(cpu)
    target = st.rcx if wide else st.rcx & FLAT
    if wide and not cpu.model.amd and not paging.is_canonical(target):
        raise gp()
    base = st.star >> 48 & 0xFFFF
    if long_mode:
        st.set_rflags(st.r11 & SYSRET | FIXED)
    else:
        st.set_rflags(st.get_rflags() | IF)
    code = base + 16 if wide else base
    put_segment(cpu, "cs", code | 3, 0, FLAT, (CODE64 if wide else CODE32) | DPL3)
    if cpu.model.amd:
        st.ss_selector = base + 8 & 0xFFFF
    else:
        put_segment(cpu, "ss", base + 8 | 3, 0, FLAT, DATA | DPL3)
    st.next_rip = target
    cpu.update_mode()


def _require_sysenter(cpu: SoftCore) -> None:
    if not cpu.model.has("sep") or (cpu.model.amd and cpu.state.efer & EFER_LMA):
        raise ud()
    if not cpu.state.cr0 & 1:
        raise gp()


@handles(Mnemonic.SYSENTER)
def sysenter(cpu: GuestCpu, i: Instruction) -> None:
    """SYSENTER; #UD in long mode on AMD."""
    st = cpu.state
    _require_sysenter(cpu)
    selector, wide = st.sysenter_cs & 0xFFFC, bool(st.efer & EFER_LMA)
    if is_null(selector):
        raise gp()
    st.rflags &= ~(VM | IF | RF)
    st.rsp = st.sysenter_esp if wide else st.sysenter_esp & FLAT
    st.next_rip = st.sysenter_eip if wide else st.sysenter_eip & FLAT
    _flat_code(cpu, selector, CODE64 if wide else CODE32, selector + 8, DATA)
    cpu.update_mode()


@handles(Mnemonic.SYSEXIT, Mnemonic.SYSEXITQ)
def sysexit(cpu: GuestCpu, i: Instruction) -> None:
    """SYSEXIT: to RDX with the stack RCX, at CPL 3."""
    st = cpu.state
    _require_sysenter(cpu)
    selector, wide = st.sysenter_cs & 0xFFFC, i.mnemonic == Mnemonic.SYSEXITQ
    if is_null(selector):
        raise gp()
    require_cpl0(cpu)
    rip, rsp = (st.rdx, st.rcx) if wide else (st.rdx & FLAT, st.rcx & FLAT)
    if wide and not (paging.is_canonical(rip) and paging.is_canonical(rsp)):
        raise gp()
    code = selector + (32 if wide else 16)
    _flat_code(cpu, code | 3, (CODE64 if wide else CODE32) | DPL3, code + 8 | 3, DATA | DPL3)
    st.next_rip, st.rsp = rip, rsp
    cpu.update_mode()
