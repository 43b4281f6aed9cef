"""Shows and changes the CPU from outside, for debuggers and loaders: registers by name, MSRs, guest-virtual memory."""

from collections.abc import Callable

from trapgate.arch import control, xstate
from trapgate.arch.segments import ATTRIBUTES
from trapgate.doings import Doing, Interest
from trapgate.isa import state as s
from trapgate.memory import virtual_parts
from trapgate.soft.exact import debugging, floating, msr
from trapgate.soft.exact.segments import load_segment, put_paragraph, put_segment
from trapgate.soft.running import RunningCpu
from trapgate.soft.state.core import NOWHERE
from trapgate.soft.state.fault import GuestFault
from trapgate.soft.telling import Teller
from trapgate.vcpu import TABLES, CpuStart

_PLAIN = {*s.GENERAL, "rip", "cr2", "star", "lstar", "cstar", "sfmask", "xcr0", "gdt_base", "gdt_limit", "idt_base", "idt_limit"}
_ALIAS = {"k_gs_base": "kernel_gs_base"}
_SELECTORS = {"cs", "ss", "ds", "es", "fs", "gs", "ldtr", "tr"}
_BASES = {f"{name}_base" for name in _SELECTORS}


def get(cpu: RunningCpu, register: str) -> int:
    """The value of a register by its name in `arch.registers`; KeyError for no such register."""
    st = cpu.state
    if register in _PLAIN or register in _BASES or register in ("cr0", "cr3", "cr4", "efer"):
        return int(getattr(st, register))
    if register == "rflags":
        return st.get_rflags()
    if register in _SELECTORS:
        return int(getattr(st, f"{register}_selector"))
    if register == "cs_attributes":
        return int(st.cs_attributes) & ATTRIBUTES
    if register in _ALIAS:
        return int(getattr(st, _ALIAS[register]))
    if register == "cr8":
        return cpu.lapic.cr8 if cpu.lapic is not None else int(st.cr8)
    if register == "tsc":
        return cpu.tsc()
    if register.startswith("dr") and register[2:].isdigit():
        return debugging.read_debug_register(cpu, int(register[2:]))
    if place := _vector(cpu, register):
        return int.from_bytes(bytes(getattr(st, place.field)), "little")
    return floating.get(cpu, register)


def _vector(cpu: RunningCpu, register: str) -> xstate.Place | None:
    """Where a vector register lies, if it is one that the CPU has."""
    component = next((one for one in (xstate.SSE, xstate.AVX) if register in one.registers), None)
    return component.registers[register] if component and cpu.model.has(component.feature) else None


def set_(cpu: RunningCpu, register: str, value: int) -> None:
    """Change a register; ValueError when the architecture forbids the value, KeyError for no such register."""
    st = cpu.state
    try:
        _set(cpu, register, value)
    except GuestFault as fault:
        raise ValueError(f"{register} cannot hold {value:#x}") from fault
    if register == "rip":
        cpu.abandon()
    if register in ("cr0", "cr3", "cr4", "efer"):
        cpu.flush_all()
    cpu.update_mode()
    st.request = 1


def _set(cpu: RunningCpu, register: str, value: int) -> None:
    st = cpu.state
    if register in _PLAIN or register in _BASES:
        setattr(st, register, value)
    elif register == "rflags":
        st.set_rflags(value)
    elif register in _SELECTORS:
        if not st.cr0 & control.CR0_PE:
            put_paragraph(cpu, register, value)
        elif value != getattr(st, f"{register}_selector"):
            if register in ("cs", "ldtr", "tr"):
                raise ValueError(f"{register} changes only by the guest's own instructions")
            hits = cpu.pending_hits
            load_segment(cpu, register, value)
            cpu.pending_hits = hits  # the debugger reads the descriptor, not the guest
    elif register == "cs_attributes":
        raise ValueError("the hidden part of CS changes only by the guest's own instructions")
    elif register in _ALIAS:
        setattr(st, _ALIAS[register], value)
    elif register in ("cr0", "cr3", "cr4", "efer"):
        setattr(st, register, value)
    elif register == "cr8":
        if cpu.lapic is not None:
            cpu.lapic.cr8 = value
        st.cr8 = value
    elif register == "tsc":
        cpu.set_tsc(value)
    elif register.startswith("dr") and register[2:].isdigit():
        debugging.write_debug_register(cpu, int(register[2:]), value)
    elif place := _vector(cpu, register):
        getattr(st, place.field)[:] = value.to_bytes(place.size, "little")
    else:
        floating.set_(cpu, register, value)


def read_msr(cpu: RunningCpu, index: int) -> int:
    """The value of an MSR; MsrError when the model has none, or it can only be written."""
    return msr.read_msr(cpu, index)


def write_msr(cpu: RunningCpu, index: int, value: int) -> None:
    """Change an MSR; MsrError when the model has none, or it refuses the value."""
    msr.write_msr(cpu, index, value)


def translate(cpu: RunningCpu, address: int) -> int | None:
    """The guest-physical address behind a guest-virtual one, without side effects."""
    try:
        return cpu.walk(address & NOWHERE, s.ACCESS_PEEK)
    except GuestFault:
        return None


def read_virtual(cpu: RunningCpu, address: int, length: int) -> bytes:
    """Guest memory; short where a page is unmapped or not RAM."""
    return b"".join(cpu.ram.read(*part) for part in virtual_parts(cpu.ram, cpu.translate, address, length))


def write_virtual(cpu: RunningCpu, address: int, data: bytes) -> bool:
    """Change guest memory whatever its page rights; False and nothing written when any of it is unmapped or not RAM."""
    parts = list(virtual_parts(cpu.ram, cpu.translate, address, len(data)))
    if sum(size for _, size in parts) < len(data):
        return False
    for physical, size in parts:
        cpu.ram.write(physical, data[:size])
        data = data[size:]
    return True


def start(cpu: RunningCpu, first: CpuStart) -> None:
    """From the reset state to the first registers that a loader chose, hidden parts of the segments included."""
    for name in TABLES:
        set_(cpu, name, getattr(first, name))
    for name, segment in first.segments.items():
        put_segment(cpu, name, segment.selector, segment.base, segment.limit, segment.attributes)
    for name, value in first.registers():
        set_(cpu, name, value)
    cpu.update_mode()


def report_bus_locks(cpu: RunningCpu, on: bool) -> None:
    """Whether `run` returns every bus lock."""
    cpu.reports_locks = on
    _look_at_locks(cpu)


def _look_at_locks(cpu: RunningCpu) -> None:
    """Have each bus lock returned, if somebody asks for it."""
    cpu.state.bus_lock_report = cpu.reports_locks or (cpu.teller is not None and cpu.teller.interest.bus_locks)


def catch(cpu: RunningCpu, vectors: frozenset[int]) -> None:
    """Exceptions of these vectors are returned before they are delivered."""
    cpu.caught = vectors
    _look_at_exceptions(cpu)


def tell_of(cpu: RunningCpu, interest: Interest, heard: Callable[[Doing], None]) -> None:
    """Tell of what the guest does, from now on."""
    cpu.teller = None if interest == Interest() else Teller(interest, heard)
    cpu.state.told = 0 if cpu.teller is None else cpu.teller.native
    _look_at_locks(cpu)
    _look_at_exceptions(cpu)


def _look_at_exceptions(cpu: RunningCpu) -> None:
    """Have Python see to what is delivered, if somebody asks for it."""
    cpu.state.caught = bool(cpu.caught) or (cpu.teller is not None and cpu.teller.interrupts)
