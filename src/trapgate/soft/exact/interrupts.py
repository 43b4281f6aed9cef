"""Delivery of exceptions and interrupts in every mode, the double-fault rule, and the story that a triple fault leaves behind.

Real mode: SDM vol. 3, 20.1.4. Protected mode: 6.12 and vol. 2, "INT n". Long mode: 6.14; APM vol. 2, 8.9. Nothing changes before
every check and every push has succeeded. What a delivery reads and pushes may hit data breakpoints: the #DB comes before the first
instruction of the handler (docs/debugging.md).
"""

from collections import deque
from dataclasses import dataclass

from trapgate.arch import paging, vectors
from trapgate.arch.control import CR0_PE, CR4_VME, EFER_LMA
from trapgate.arch.flags import AC, IF, IOPL, NT, RF, TF, VIF, VM
from trapgate.arch.segments import SystemType
from trapgate.isa import state as s
from trapgate.isa.state import UNUSABLE
from trapgate.soft.exact.operands import gp, is_64
from trapgate.soft.exact.segments import (
    DATA_SEGMENTS,
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
from trapgate.soft.exact.stack import Stack
from trapgate.soft.state.core import SoftCore
from trapgate.soft.state.fault import GuestFault
from trapgate.soft.state.story import Happened

IDT_ERROR = 2  # error-code bit: the selector part is an IDT vector
TRAPS = {vectors.BP, vectors.OF, vectors.DB}
ABORTS = {vectors.DF, vectors.MC}


class TripleFault(Exception):
    """The CPU shuts down: a third exception while a double fault was being delivered."""


@dataclass(frozen=True, slots=True)
class Event:
    """What is being delivered. `resume`: RF in the pushed flags; None keeps the one in RFLAGS."""

    vector: int
    error: int | None = None
    software: bool = False  # INT n, INT3, INTO: gate privilege counts, EXT is 0
    resume: bool | None = None

    @property
    def ext(self) -> int:
        """EXT, bit 0 of the error code of a fault in the delivery (SDM vol. 3, 6.13)."""
        return 0 if self.software else 1


def deliver(
    cpu: SoftCore, vector: int, error: int | None = None, *, software: bool = False, external: bool = False,
    resume: bool | None = None, cr2: int | None = None, history: deque[Happened] | None = None,
) -> None:  # fmt: skip
    """Deliver an exception or interrupt; `state.rip` is what the frame shall say, afterwards the handler. Raises TripleFault.

    `external`: an interrupt or NMI, benign whatever its vector. `software`: INT n and its like, with RIP behind it already.
    `resume`: RF in the pushed RFLAGS; by default 1 for faults, 0 for traps and software interrupts, unchanged for external ones
    (SDM vol. 3, 18.3.1.1).
    `cr2` is stored for #PF. The caller has done what #DB does to DR6, DR7 and DEBUGCTL. `history` notes what was delivered.
    """
    st = cpu.state
    if resume is None and not external:
        resume = not software and vector not in TRAPS | ABORTS
    event = Event(vector, error, software, resume)
    first = vectors.NMI if external or software else vector
    if cr2 is not None:
        st.cr2 = cr2
    hits = cpu.pending_hits
    while True:
        if history is not None:
            history.append(Happened(event.vector, event.error, st.rip, st.cr2 if event.vector == vectors.PF else None))
        st.fault_delivering = 1
        try:
            enter(cpu, event, st.rip)
            st.shadow = 0
            return
        except GuestFault as second:
            cpu.pending_hits = hits  # what did not come to its end reports no data breakpoint, as with an instruction that faults
            if second.cr2 is not None:
                st.cr2 = second.cr2
            match vectors.nested(first, second.vector):
                case vectors.Nesting.SERIAL:
                    event, first = Event(second.vector, second.error, False, True), second.vector
                case vectors.Nesting.DOUBLE_FAULT:
                    event, first = Event(vectors.DF, 0, False, False), vectors.DF
                case vectors.Nesting.SHUTDOWN:
                    if history is not None:
                        history.append(Happened(second.vector, second.error, st.rip, second.cr2))
                    raise TripleFault from second
        finally:
            st.fault_delivering = 0


def enter(cpu: SoftCore, event: Event, return_rip: int) -> None:
    """Go through the IVT or IDT for one event: push the frame, load CS:RIP (and SS:RSP). GuestFault before any change."""
    st = cpu.state
    pushed = st.get_rflags()
    if event.resume is not None:
        pushed = pushed & ~RF | (RF if event.resume else 0)
    if not st.cr0 & CR0_PE:
        _enter_real(cpu, event, return_rip, pushed)
    elif st.efer & EFER_LMA:
        _enter_long(cpu, event, return_rip, pushed)
    else:
        _enter_protected(cpu, event, return_rip, pushed)


def _enter_real(cpu: SoftCore, event: Event, return_rip: int, pushed: int) -> None:
    st = cpu.state
    if 4 * event.vector + 3 > st.idt_limit:
        raise gp(8 * event.vector + IDT_ERROR + event.ext)
    through_table(cpu, st.idt_base + 4 * event.vector, return_rip, pushed)


def through_table(cpu: SoftCore, at: int, return_rip: int, pushed: int) -> None:
    """An interrupt through a vector of 4 bytes, IP and CS: real mode, and virtual-8086 mode with its redirection bitmap."""
    st = cpu.state
    target = cpu.read(at, 4, 0)
    stack = Stack.current(cpu)
    for value in (pushed, st.cs_selector, return_rip):
        stack.push(value, 2)
    stack.commit()
    put_paragraph(cpu, "cs", target >> 16)
    st.rip = target & 0xFFFF
    st.rflags &= ~(IF | TF | AC | RF)
    cpu.update_mode()


def _code_target(cpu: SoftCore, selector: int, ext: int) -> tuple[Loaded, int]:
    """The code segment that a gate names, and the CPL it will run at (SDM vol. 3, 6.12.1)."""
    if is_null(selector):
        raise gp(ext)
    code, error, cpl = fetch(cpu, selector, ext=ext), selector & 0xFFFC | ext, cpu.state.cpl
    if not code.code or code.dpl > cpl:
        raise gp(error)
    if not code.present:
        raise GuestFault(vectors.NP, error)
    return code, cpl if code.conforming else code.dpl


def _enter_protected(cpu: SoftCore, event: Event, return_rip: int, pushed: int) -> None:
    st, ext = cpu.state, event.ext
    error = 8 * event.vector + IDT_ERROR + ext
    if 8 * event.vector + 7 > st.idt_limit:
        raise gp(error)
    gate = cpu.read(st.idt_base + 8 * event.vector, 8, 0)
    kind = gate >> 40 & 0x1F
    _check_gate(cpu, event, gate, kind, (6, 7, 14, 15), error)  # 5, a task gate: hardware task switching is not offered
    size = 4 if kind & 8 else 2
    offset = gate & 0xFFFF | (gate >> 32 & 0xFFFF0000 if size == 4 else 0)
    code, cpl = _code_target(cpu, gate >> 16 & 0xFFFF, ext)
    v86 = bool(st.rflags & VM)
    if v86 and cpl:
        raise gp(code.selector & 0xFFFC | ext)
    outer = cpl < st.cpl
    stack, stack_segment = Stack.current(cpu, error=ext), None
    if outer:
        selector, pointer = inner_stack(cpu, cpl, ext)
        stack_segment = check_stack(cpu, selector, cpl, vectors.TS, ext)
        new = stack_segment
        stack = Stack.inner(cpu, pointer, new.base, new.limit, new.attributes, selector & 0xFFFC | ext, cpl)
    if offset > code.limit:
        raise gp(ext)
    if v86:
        for name in ("gs", "fs", "ds", "es"):
            stack.push(getattr(st, f"{name}_selector"), size)
    if outer:
        stack.push(st.ss_selector, size)
        stack.push(st.rsp, size)
    for value in (pushed, st.cs_selector, return_rip, *(() if event.error is None else (event.error,))):
        stack.push(value, size)
    if stack_segment is not None:
        mark_accessed(cpu, stack_segment)
    _commit(cpu, code, cpl, offset, bool(kind & 1))
    if v86:
        for name in DATA_SEGMENTS:
            put_segment(cpu, name, 0, 0, 0, UNUSABLE)
        refresh_rights(cpu)
    if stack_segment is not None:
        put_loaded(cpu, "ss", stack_segment)
    stack.commit()
    cpu.update_mode()


def _check_gate(cpu: SoftCore, event: Event, gate: int, kind: int, kinds: tuple[int, ...], error: int) -> None:
    if kind not in kinds:
        raise gp(error)
    if event.software and gate >> 45 & 3 < cpu.state.cpl:
        raise gp(error)
    if not gate >> 47 & 1:
        raise GuestFault(vectors.NP, error)


def inner_stack(cpu: SoftCore, cpl: int, ext: int = 0) -> tuple[int, int]:
    """(selector, pointer) of the stack for a privilege level, from the TSS of protected mode; #TS (SDM vol. 3, 5.8.5)."""
    st = cpu.state
    wide = st.tr_attributes & 0xF in (SystemType.TSS, SystemType.TSS_BUSY)
    at = 8 * cpl + 4 if wide else 4 * cpl + 2
    if at + (5 if wide else 3) > st.tr_limit:
        raise GuestFault(vectors.TS, st.tr_selector & 0xFFFC | ext)
    pointer = cpu.read(st.tr_base + at, 4 if wide else 2, 0)
    selector = cpu.read(st.tr_base + at + (4 if wide else 2), 2, 0)
    if is_null(selector):
        raise GuestFault(vectors.TS, ext)
    return selector, pointer


def _commit(cpu: SoftCore, code: Loaded, cpl: int, offset: int, trap_gate: bool) -> None:
    st = cpu.state
    mark_accessed(cpu, code)  # the last thing that may fault
    st.rflags &= ~(TF | NT | RF | VM | (0 if trap_gate else IF))
    put_loaded(cpu, "cs", code, code.selector & 0xFFFC | cpl)
    st.rip = offset


def long_stack(cpu: SoftCore, at: int, ext: int = 0) -> int:
    """A stack pointer from the 64-bit TSS at offset `at`; #TS, or #SS when not canonical (SDM vol. 3, 6.14.4-5)."""
    st = cpu.state
    if at + 7 > st.tr_limit:
        raise GuestFault(vectors.TS, st.tr_selector & 0xFFFC | ext)
    pointer = cpu.read(st.tr_base + at, 8, 0)
    if not paging.is_canonical(pointer):
        raise GuestFault(vectors.SS, ext)
    return pointer


def _enter_long(cpu: SoftCore, event: Event, return_rip: int, pushed: int) -> None:
    st, ext = cpu.state, event.ext
    error = 8 * event.vector + IDT_ERROR + ext
    if 16 * event.vector + 15 > st.idt_limit:
        raise gp(error)
    gate = cpu.read(st.idt_base + 16 * event.vector, 16, 0)
    kind = gate >> 40 & 0x1F
    _check_gate(cpu, event, gate, kind, (SystemType.INTERRUPT_GATE, SystemType.TRAP_GATE), error)
    offset = gate & 0xFFFF | gate >> 32 & 0xFFFF0000 | (gate >> 64 & 0xFFFFFFFF) << 32
    code, cpl = _code_target(cpu, gate >> 16 & 0xFFFF, ext)
    if not code.long or code.attributes & 1 << 14:
        raise gp(code.selector & 0xFFFC | ext)
    outer, ist = cpl < st.cpl, gate >> 32 & 7
    pointer = st.rsp if is_64(cpu) else st.rsp & 0xFFFFFFFF
    if ist:
        pointer = long_stack(cpu, 0x1C + 8 * ist, ext)
    elif outer:
        pointer = long_stack(cpu, 4 + 8 * cpl, ext)
    if not paging.is_canonical(offset):
        raise gp(ext)
    stack = Stack(cpu, pointer & ~15, 64, error=ext, rights=s.ACCESS_USER if cpl == 3 else 0)
    frame = [st.ss_selector, st.rsp, pushed, st.cs_selector, return_rip]
    for value in frame if event.error is None else [*frame, event.error]:
        stack.push(value, 8)
    _commit(cpu, code, cpl, offset, bool(kind & 1))
    if outer:
        put_segment(cpu, "ss", cpl, 0, 0, UNUSABLE)
    stack.commit()
    cpu.update_mode()


def software_interrupt(cpu: SoftCore, vector: int, *, checked_iopl: bool) -> None:
    """INT n, INT3, INTO from an instruction handler: `next_rip` is pushed and becomes the handler. GuestFault.

    `checked_iopl`: INT n, which virtual-8086 mode at IOPL < 3 refuses unless CR4.VME redirects it (SDM vol. 3, 20.3.3).
    """
    st = cpu.state
    flags = st.get_rflags() & ~RF
    if checked_iopl and st.rflags & VM and st.cr0 & CR0_PE:
        low_iopl = st.rflags & IOPL != IOPL
        if st.cr4 & CR4_VME and _redirected(cpu, vector):
            if low_iopl:  # IF of the pushed image is VIF, and VIF is cleared in IF's place
                flags = flags & ~IF | IOPL | (IF if flags & VIF else 0)
            interrupts = st.rflags & IF
            through_table(cpu, 4 * vector, st.next_rip, flags)
            if low_iopl:
                st.rflags = st.rflags & ~VIF | interrupts
                cpu.update_mode()
            st.next_rip = st.rip
            return
        if low_iopl:
            raise gp()
    enter(cpu, Event(vector, software=True, resume=False), st.next_rip)
    st.next_rip = st.rip


def _redirected(cpu: SoftCore, vector: int) -> bool:
    """Whether the 32 bytes below the I/O bitmap of the TSS say 0: the interrupt goes to the 8086 program's own table."""
    st = cpu.state
    if st.tr_limit < 0x67:
        raise gp()
    at = cpu.read(st.tr_base + 0x66, 2, 0) - 32 + vector // 8
    if at > st.tr_limit:
        raise gp()
    return not cpu.read(st.tr_base + at, 1, 0) >> vector % 8 & 1
