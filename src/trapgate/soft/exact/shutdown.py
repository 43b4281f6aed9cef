"""Explains a triple fault: which exception it was, which gates were tried, and why each did not work (SDM vol. 3, 6.12 to 6.15)."""

from collections.abc import Sequence

from trapgate.arch import vectors
from trapgate.arch.control import CR0_PE, EFER_LMA
from trapgate.arch.segments import Gate, SystemType
from trapgate.isa.rules.events import GATES, IDT_ERROR, LONG_GATES
from trapgate.soft.state.core import SoftCore
from trapgate.soft.state.fault import GuestFault

_TABLE = 4  # error-code bit: the selector is one of the LDT
Attempt = tuple[str, int, GuestFault]
"""A delivery: of what, its vector, and what it raised."""


def explain(cpu: SoftCore, attempts: Sequence[Attempt]) -> str:
    """All of it in one line; registers are as they were when it began."""
    parts = [f"{name} could not be delivered: {_why(cpu, vector, fault)}" for name, vector, fault in attempts]
    return "a triple fault: " + "; ".join(parts)


def _why(cpu: SoftCore, vector: int, fault: GuestFault) -> str:
    error = "" if fault.error is None else f"({fault.error:#x})"
    raised = f"{vectors.name_of(fault.vector)}{error}"
    return f"{_gate(cpu, vector, fault) or _beyond(cpu, fault)} ({raised})"


def _gate(cpu: SoftCore, vector: int, fault: GuestFault) -> str:
    """What is wrong with the gate; "" where it is none of its faults."""
    st = cpu.state
    long, real = bool(st.efer & EFER_LMA), not st.cr0 & CR0_PE
    size = 4 if real else 16 if long else 8
    at, table = st.idt_base + vector * size, "IVT" if real else "IDT"
    if (vector + 1) * size - 1 > st.idt_limit:
        return f"its gate lies beyond the {table}'s limit, {st.idt_limit:#x}"
    if fault.vector == vectors.PF and fault.cr2 is not None and at <= fault.cr2 < at + size:
        return f"its gate at {at:#x} is not mapped"
    raw = _peek(cpu, at, size)
    if real or raw is None:
        return ""
    gate = Gate.from_bytes(raw)
    kinds = LONG_GATES if long else GATES
    where = f"its gate at {at:#x}, to {gate.selector:04x}:{gate.offset:x},"
    if fault.error is not None and fault.error & IDT_ERROR and fault.error >> 3 == vector:
        if gate.s or gate.type not in kinds:
            kind = "a task gate" if gate.type == SystemType.TASK_GATE and not gate.s else f"of type {gate.s << 4 | gate.type:#x}"
            return f"{'its gate at ' + hex(at) + ' is empty' if not any(raw) else f'{where} is {kind}'}"
        if not gate.present:
            return f"{where} is not present"
    selector = (fault.error or 0) & 0xFFFC
    if fault.vector in (vectors.GP, vectors.NP) and selector == gate.selector & 0xFFFC and gate.selector & 0xFFFC:
        table = "LDT" if selector & _TABLE else "GDT"
        ending = (
            "is not present" if fault.vector == vectors.NP else f"is not code that it may enter, or lies beyond the {table}'s limit"
        )
        return f"{where} names a segment of the {table} that {ending}"
    if fault.vector == vectors.GP and not gate.selector & 0xFFFC:
        return f"{where} has a null selector"
    return ""


def _beyond(cpu: SoftCore, fault: GuestFault) -> str:
    """What went wrong behind the gate."""
    st = cpu.state
    if fault.vector == vectors.PF:
        return f"what it reads or pushes at {fault.cr2 or 0:#x} is not mapped, or may not be accessed so; RSP is {st.rsp:#x}"
    if fault.vector == vectors.SS:
        return f"its stack cannot hold the frame; RSP is {st.rsp:#x}, TSS at {st.tr_base:#x}"
    if fault.vector == vectors.TS:
        return f"the TSS at {st.tr_base:#x}, limit {st.tr_limit:#x}, has no stack for it"
    return "its handler cannot be entered"


def _peek(cpu: SoftCore, at: int, size: int) -> bytes | None:
    """Bytes at a linear address; None where nothing is mapped."""
    try:
        return cpu.read_bytes(at, size, 0)
    except GuestFault:
        return None
