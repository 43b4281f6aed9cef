"""Shows the guest's descriptor tables and its TSS: `monitor info gdt`, `idt`, `tss`."""

from collections.abc import Iterator

from trapgate.arch.segments import ATTR_L, Descriptor, Gate, SystemType
from trapgate.doings import CpuMode
from trapgate.gdb.command import MonitorError
from trapgate.gdb.target import Target

_MOST = 256  # entries that are shown
_LONG_TSS, _STACKS, _IST, _MAP = 104, 4, 0x24, 0x66
_SYSTEM = {
    SystemType.TSS16: "TSS16", SystemType.LDT: "LDT", SystemType.TSS16_BUSY: "TSS16, busy", SystemType.CALL_GATE16: "call gate 16",
    SystemType.TASK_GATE: "task gate", SystemType.INTERRUPT_GATE16: "interrupt gate 16",
    SystemType.TRAP_GATE16: "trap gate 16", SystemType.TSS: "TSS", SystemType.TSS_BUSY: "TSS, busy",
    SystemType.CALL_GATE: "call gate", SystemType.INTERRUPT_GATE: "interrupt gate", SystemType.TRAP_GATE: "trap gate",
}  # fmt: skip
_GATES = {
    SystemType.INTERRUPT_GATE16,
    SystemType.TRAP_GATE16,
    SystemType.INTERRUPT_GATE,
    SystemType.TRAP_GATE,
    SystemType.TASK_GATE,
}


def _register(target: Target, thread: int, name: str) -> int:
    return target.get_register(thread, name) or 0


def _mode(target: Target, thread: int) -> CpuMode:
    return CpuMode.of(_register(target, thread, "cr0"), _register(target, thread, "efer"))


def _table(target: Target, thread: int, name: str) -> tuple[int, bytes]:
    """Base and bytes of a table, as far as they are mapped."""
    base, limit = (_register(target, thread, f"{name}_{part}") for part in ("base", "limit"))
    return base, target.read_memory(thread, base, limit + 1)


def gdt(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    """Every descriptor that is not zero; in long mode system descriptors take two places."""
    base, data = _table(target, thread, "gdt")
    yield f"GDT at {base:#x}, limit {_register(target, thread, 'gdt_limit'):#x}"
    long, at = _mode(target, thread) is CpuMode.LONG, 0
    while at + 8 <= min(len(data), 8 * _MOST):
        raw = data[at : at + 8]
        descriptor, size = Descriptor.from_bytes(raw), 8
        if (
            long
            and not descriptor.s
            and descriptor.type in (SystemType.LDT, SystemType.TSS, SystemType.TSS_BUSY, SystemType.CALL_GATE)
        ):
            size = 16
            descriptor = Descriptor.from_bytes(data[at : at + 16]) if at + 16 <= len(data) else descriptor
        if any(raw):
            yield f"  {at:04x}  {_segment(descriptor)}"
        at += size
    if not data:
        yield "  nothing of it is mapped"


def _segment(one: Descriptor) -> str:
    where = f"base {one.base:#x}, limit {one.byte_limit:#x}, DPL {one.dpl}"
    absent = "" if one.present else ", not present"
    if not one.s:
        return f"{_SYSTEM.get(SystemType(one.type), '?') if one.type in _SYSTEM else f'reserved type {one.type}'}, {where}{absent}"
    if one.is_code:
        bits = "64-bit" if one.attributes & ATTR_L else "32-bit" if one.db else "16-bit"
        return f"{bits} code, {'readable' if one.readable else 'execute only'}, {where}{', conforming' * one.conforming}{absent}"
    return f"data, {'writable' if one.writable else 'read only'}, {where}{', expand-down' * one.expand_down}{absent}"


def idt(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    """Every gate that is not zero, or the one of a vector; in real mode the vectors of the IVT."""
    base, data = _table(target, thread, "idt")
    mode = _mode(target, thread)
    size = {CpuMode.REAL: 4, CpuMode.PROTECTED: 8, CpuMode.LONG: 16}[mode]
    name = "IVT" if mode is CpuMode.REAL else "IDT"
    yield f"{name} at {base:#x}, limit {_register(target, thread, 'idt_limit'):#x}"
    wanted = arguments or range(min(len(data) // size, _MOST))
    if arguments and arguments[0] > 0xFF:
        raise MonitorError("vectors go from 0 to ff")
    for vector in wanted:
        raw = data[vector * size : (vector + 1) * size]
        if len(raw) < size:
            yield f"  {vector:02x}  beyond the limit, or not mapped"
        elif any(raw) or arguments:
            yield f"  {vector:02x}  {gate(raw, mode)}"


def gate(raw: bytes, mode: CpuMode) -> str:
    """A gate in words."""
    if mode is CpuMode.REAL:
        return f"{int.from_bytes(raw[2:4], 'little'):04x}:{int.from_bytes(raw[:2], 'little'):04x}"
    one = Gate.from_bytes(raw)
    if one.s or one.type not in _GATES:
        return f"no gate: type {one.type}" + (" of a segment" if one.s else "")
    stack = f", IST {one.ist}" if one.ist else ""
    return f"{_SYSTEM[SystemType(one.type)]} to {one.selector:04x}:{one.offset:x}, DPL {one.dpl}{stack}" + (
        "" if one.present else ", not present"
    )


def tss(target: Target, thread: int, arguments: list[int]) -> Iterator[str]:
    """Where TR is, and the stacks that it has for inner levels."""
    base, selector = _register(target, thread, "tr_base"), _register(target, thread, "tr")
    yield f"TR {selector:04x}, TSS at {base:#x}"
    data = target.read_memory(thread, base, _LONG_TSS)
    if len(data) < _LONG_TSS:
        yield "  it is not mapped as far as it goes"
        return

    def word(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], "little")

    if _mode(target, thread) is CpuMode.LONG:
        yield "  " + "  ".join(f"RSP{n} {word(_STACKS + 8 * n, 8):x}" for n in range(3))
        yield "  " + "  ".join(f"IST{n + 1} {word(_IST + 8 * n, 8):x}" for n in range(7))
    else:
        yield "  " + "  ".join(f"SS{n}:ESP{n} {word(8 + 8 * n, 2):04x}:{word(4 + 8 * n, 4):x}" for n in range(3))
        yield f"  CR3 {word(0x1C, 4):x}  link {word(0, 2):04x}"
    yield f"  I/O bitmap at {word(_MAP, 2):#x}"
