"""Exceptions and system calls of 64-bit mode, plainly: gates to ring 0, frames inside one page (SDM vol. 3, 7.12-7.14; 6.8.8).

Whatever is not plain leaves for Python (`soft.exact.interrupts`) before anything has changed.
"""

from collections.abc import Callable
from functools import partial

from trapgate.isa import flags
from trapgate.isa import state as s
from trapgate.isa.native.flows import go_on, leave, notice_flags
from trapgate.isa.request import leave_soon
from trapgate.isa.vocabulary import Trace, Value

LMA, SCE = 1 << 10, 1
TF, IF, NT, RF, VM, AC = 1 << 8, 1 << 9, 1 << 14, 1 << 16, 1 << 17, 1 << 18
AM = 1 << 18  # of CR0
CODE64_KERNEL = 0xA09B  # attributes of a flat 64-bit code segment, DPL 0, accessed
UNUSABLE = 1 << 16
DATA_RIGHTS = 0b11 << 17  # of writable data: what `isa.families.memory.segment_check` tests, should compatibility mode follow
ATTRIBUTES = 0xF0FF  # descriptor bits 40-55 without limit 19:16
KEPT_MODE = s.MODE_NO_X87 | s.MODE_NO_SSE | s.MODE_SSE_UNMASKED


def system_host(m: Trace) -> None:
    """system_host(address, size, write) -> host address of an implicit supervisor access, or 0 when it is not plain."""
    address, size, write = m.arguments
    with m.when(((address & 0xFFF) + size).ugt(0x1000)):
        m.result(0)
    slot = (address >> 12) & (s.TLB_ENTRIES - 1)
    page = address & ~m.const(0xFFF, 64)
    tag = m.get_at("tlb", (slot << 5) + (write << 3), 64)
    with m.when(tag == page):
        m.result(address + m.get_at("tlb", (slot << 5) + 24, 64))
    host = m.call("access", 64, address, size, write)
    with m.when(host.ult(4096)):
        m.result(0)
    m.result(host)


def kernel_mode(m: Trace, rflags: Value) -> Value:
    """The mode of 64-bit code at CPL 0."""
    ac = ((rflags & AC) != 0) & ((m.get("cr4", 64) & (1 << 21)) != 0)
    kept = m.get("mode", 32) & KEPT_MODE
    return kept | s.MODE_CODE64 | s.MODE_IOPL | ac.select(m.const(s.MODE_AC, 32), m.const(0, 32))


def user_mode(m: Trace, rflags: Value) -> Value:
    """The mode of 64-bit code at CPL 3."""
    iopl = (rflags & (3 << 12)) == (3 << 12)
    kept = m.get("mode", 32) & KEPT_MODE
    ac = ((rflags & AC) != 0) & ((m.get("cr0", 64) & AM) != 0)
    kept = kept | ac.select(m.const(s.MODE_AC, 32), m.const(0, 32))
    return kept | s.MODE_CODE64 | s.MODE_CPL | iopl.select(m.const(s.MODE_IOPL, 32), m.const(0, 32))


def hard(m: Trace) -> None:
    """Leave the delivery to Python."""
    leave(m, s.EXIT_DELIVER)


def deliver(m: Trace, external: bool = False) -> None:
    """Deliver the fault prepared in `fault_*`; RIP is on the instruction (behind it for bus locks). INT3 pushes what follows it.

    `external`: an interrupt between two instructions; the pushed RF is as it is.
    """
    m.put("count_exceptions", m.get("count_exceptions", 64) + 1)
    plain = ((m.get("efer", 64) & LMA) != 0) & (m.get("stepping", 32) == 0) & (m.get("fault_delivering", 32) == 0)
    plain = plain & (m.get("fault_has_error", 32) != s.NOT_CANONICAL)
    with m.when(~plain, likely=False):
        hard(m)
    vector = m.get("fault_vector", 32).zext(64)
    with m.when(((vector << 4) + 15).ugt(m.get("idt_limit", 64)), likely=False):
        hard(m)
    # a fault inside here must not disturb the one under way: Python starts again from scratch
    cr2, error, has_error = m.get("cr2", 64), m.get("fault_error", 32), m.get("fault_has_error", 32)

    def give_up() -> None:
        m.put("cr2", cr2)
        m.put("fault_vector", vector.trunc(32))
        m.put("fault_error", error)
        m.put("fault_has_error", has_error)
        hard(m)

    gate = m.call("system_host", 64, m.get("idt_base", 64) + (vector << 4), m.const(16, 64), m.const(0, 64))
    with m.when(gate == 0, likely=False):
        give_up()
    low, high = m.load(gate, 64), m.load(gate + 8, 64)
    kind = (low >> 40) & 0x9F
    selector = (low >> 16) & 0xFFFF
    with m.when(((kind & 0x9E) != 0x8E) | ((selector & 4) != 0) | ((selector & 0xFFF8) == 0), likely=False):
        give_up()
    with m.when(((selector | 7).ugt(m.get("gdt_limit", 64))), likely=False):
        give_up()
    descriptor_at = m.call("system_host", 64, m.get("gdt_base", 64) + (selector & 0xFFF8), m.const(8, 64), m.const(0, 64))
    with m.when(descriptor_at == 0, likely=False):
        give_up()
    attributes = (m.load(descriptor_at, 64) >> 40) & ATTRIBUTES
    with m.when(
        (attributes & 0x60FD) != (CODE64_KERNEL & 0x60FD), likely=False
    ):  # not conforming, DPL 0, present, accessed, L, not D
        give_up()
    cpl = m.get("cs_selector", 64) & 3
    outer = cpl != 0
    ist = (low >> 32) & 7
    stack = m.variable(64, m.get("rsp", 64))
    with m.when(outer | (ist != 0)):
        slot = (ist != 0).select((ist << 3) + 0x1C, m.const(4, 64))
        with m.when((slot + 7).ugt(m.get("tr_limit", 32).zext(64)), likely=False):
            give_up()
        pointer = m.call("system_host", 64, m.get("tr_base", 64) + slot, m.const(8, 64), m.const(0, 64))
        with m.when(pointer == 0, likely=False):
            give_up()
        stack.set(m.load(pointer, 64))
    old_rsp = m.get("rsp", 64)
    size = m.const(40, 64) + (has_error.zext(64) << 3)
    bottom = (stack.value & ~m.const(15, 64)) - size
    frame = m.call("system_host", 64, bottom, size, m.const(1, 64))
    with m.when(frame == 0, likely=False):
        give_up()
    # nothing can fail any more
    m.put("cr2", cr2)
    at = m.variable(64, frame)
    with m.when(has_error != 0):
        m.store(at.value, error.zext(64))
        at.set(at.value + 8)
    old = m.get("rflags", 64)
    if external:
        resume_flag, return_rip = old & RF, m.get("rip", 64)
    else:
        fault_class = ~((vector == 1) | (vector == 3) | (vector == 4) | (vector == 8) | (vector == 18))
        resume_flag = fault_class.select(m.const(RF, 64), m.const(0, 64))
        return_rip = (vector == 3).select(m.get("next_rip", 64), m.get("rip", 64))
    pushed = (old & ~m.const(RF, 64)) | flags.read(m) | 2 | resume_flag
    m.store(at.value, return_rip)
    m.store(at.value + 8, m.get("cs_selector", 64))
    m.store(at.value + 16, pushed)
    m.store(at.value + 24, old_rsp)
    m.store(at.value + 32, m.get("ss_selector", 64))
    clear = m.const(TF | NT | RF | VM, 64) | ((kind & 1) == 0).select(m.const(IF, 64), m.const(0, 64))
    new = old & ~clear
    m.put("rflags", new)
    m.put("rsp", bottom)
    m.put("cs_selector", selector & 0xFFFC)
    m.put("cs_attributes", attributes.trunc(32))
    m.put("cs_base", m.const(0, 64))
    m.put("cs_limit", m.const(0xFFFFFFFF, 32))
    with m.when(outer):
        m.put("ss_selector", m.const(0, 64))
        m.put("ss_attributes", m.const(UNUSABLE, 32))
    m.put("mode", kernel_mode(m, new))
    m.put("bus_lock_trap", m.const(0, 32))
    go_on(m, (low & 0xFFFF) | ((low >> 32) & 0xFFFF0000) | (high << 32))


def int3(m: Trace) -> None:
    """INT3: #BP behind the instruction. The gate must be open to the CPL; otherwise Python."""
    vector_at = m.get("idt_base", 64) + 48
    gate = m.call("system_host", 64, vector_at, m.const(16, 64), m.const(0, 64))
    m.put("exit_detail", m.const(3, 32))
    with m.when((gate == 0) | (m.get("stepping", 32) != 0) | ((m.get("efer", 64) & LMA) == 0), likely=False):
        m.put("exit_detail", m.const(s.NATIVE_FALLBACK + 3, 32))
        leave(m, s.EXIT_INSTRUCTION)
    dpl = (m.load(gate, 64) >> 45) & 3
    with m.when(dpl.ult(m.get("cs_selector", 64) & 3) | m.get("idt_limit", 64).ult(63), likely=False):
        m.put("exit_detail", m.const(s.NATIVE_FALLBACK + 3, 32))
        leave(m, s.EXIT_INSTRUCTION)
    m.put("fault_vector", m.const(3, 32))
    m.put("fault_error", m.const(0, 32))
    m.put("fault_has_error", m.const(0, 32))
    m.jump("deliver")


def iret64(m: Trace) -> None:
    """IRETQ to 64-bit code at the same CPL 0 or to CPL 3."""

    def other() -> None:
        m.put("exit_detail", m.const(s.NATIVE_FALLBACK, 32))
        leave(m, s.EXIT_INSTRUCTION)

    old_cpl = m.get("cs_selector", 64) & 3
    with m.when((old_cpl != 0) | ((m.get("rflags", 64) & NT) != 0) | (m.get("stepping", 32) != 0), likely=False):
        other()
    frame = m.call("system_host", 64, m.get("rsp", 64), m.const(40, 64), m.const(0, 64))
    with m.when(frame == 0, likely=False):
        other()
    rip, cs = m.load(frame, 64), m.load(frame + 8, 64) & 0xFFFF
    popped, rsp, ss = m.load(frame + 16, 64), m.load(frame + 24, 64), m.load(frame + 32, 64) & 0xFFFF
    cpl = cs & 3
    odd = ((cs & 4) != 0) | ((cs & 0xFFF8) == 0) | ((cpl != 0) & (cpl != 3)) | (((rip << 16).sar(16)) != rip)
    odd = odd | (cs | 7).ugt(m.get("gdt_limit", 64)) | ((popped & VM) != 0)
    with m.when(odd, likely=False):
        other()
    code_at = m.call("system_host", 64, m.get("gdt_base", 64) + (cs & 0xFFF8), m.const(8, 64), m.const(0, 64))
    with m.when(code_at == 0, likely=False):
        other()
    code = (m.load(code_at, 64) >> 40) & ATTRIBUTES
    wanted = (cpl << 5) | 0x2099
    with m.when((code & 0x60FD) != wanted, likely=False):
        other()
    stack_attributes = m.variable(64, UNUSABLE)
    with m.when((ss & 0xFFFC) == 0):
        with m.when((cpl == 3) | ((ss & 3) != cpl)):
            other()
    with m.otherwise():
        with m.when(((ss & 4) != 0) | ((ss & 3) != cpl) | (ss | 7).ugt(m.get("gdt_limit", 64))):
            other()
        data_at = m.call("system_host", 64, m.get("gdt_base", 64) + (ss & 0xFFF8), m.const(8, 64), m.const(0, 64))
        with m.when(data_at == 0):
            other()
        data = (m.load(data_at, 64) >> 40) & ATTRIBUTES
        with m.when((data & 0xFB) != ((cpl << 5) | 0x93)):
            other()
        stack_attributes.set(data | DATA_RIGHTS)
    with m.when(cpl == 3):
        for name in ("es", "ds", "fs", "gs"):  # segments that ring 3 may not keep: Python clears them
            held = m.get(f"{name}_attributes", 32).zext(64)
            with m.when(((held & UNUSABLE) == 0) & ((held & 0x60) != 0x60)):
                other()
    flags.write(m, popped)
    new = (popped & (TF | IF | 1 << 10 | 3 << 12 | NT | RF | AC | 1 << 21)) | 2
    m.put("rflags", new)
    m.put("cs_selector", cs)
    m.put("cs_attributes", code.trunc(32))
    m.put("cs_base", m.const(0, 64))
    m.put("cs_limit", m.const(0xFFFFFFFF, 32))
    m.put("ss_selector", ss)
    m.put("ss_attributes", stack_attributes.value.trunc(32))
    m.put("ss_base", m.const(0, 64))
    m.put("ss_limit", m.const(0xFFFFFFFF, 32))
    m.put("rsp", rsp)
    m.put("mode", (cpl == 3).select(user_mode(m, new), kernel_mode(m, new)))
    with m.when(cpl == 3):
        for name in ("es", "ds", "fs", "gs"):  # a null selector loses its RPL
            null = (m.get(f"{name}_attributes", 32) & UNUSABLE) != 0
            m.put(f"{name}_selector", null.select(m.const(0, 64), m.get(f"{name}_selector", 64)))
    trap = (cpl == 3) & ((m.get("debugctl", 64) & 4) != 0)
    m.put("bus_lock_trap", trap.zext(32))
    leave_soon(m, m.get("nmi_blocked", 32))  # another NMI may have waited
    m.put("nmi_blocked", m.const(0, 32))
    notice_flags(m, new)
    go_on(m, rip)


def syscall(m: Trace) -> None:
    """SYSCALL from 64-bit code."""
    with m.when(((m.get("efer", 64) & SCE) == 0) | (m.get("stepping", 32) != 0), likely=False):
        m.put("exit_detail", m.const(s.NATIVE_FALLBACK + 1, 32))
        leave(m, s.EXIT_INSTRUCTION)
    old = m.get("rflags", 64) | flags.read(m) | 2
    m.put("rcx", m.get("next_rip", 64))
    m.put("r11", old & ~m.const(RF, 64))
    new = old & ~m.get("sfmask", 64) & ~m.const(RF, 64)
    flags.write(m, new)
    new = (new & ~m.const(flags.STATUS, 64)) | 2
    m.put("rflags", new)
    cs = (m.get("star", 64) >> 32) & 0xFFFC
    m.put("cs_selector", cs)
    m.put("cs_attributes", m.const(CODE64_KERNEL, 32))
    m.put("cs_base", m.const(0, 64))
    m.put("cs_limit", m.const(0xFFFFFFFF, 32))
    m.put("ss_selector", cs + 8)
    m.put("ss_attributes", m.const(0xC093 | DATA_RIGHTS, 32))
    m.put("ss_base", m.const(0, 64))
    m.put("ss_limit", m.const(0xFFFFFFFF, 32))
    m.put("mode", kernel_mode(m, new))
    m.put("bus_lock_trap", m.const(0, 32))
    notice_flags(m, new)
    go_on(m, m.get("lstar", 64))


def sysret(m: Trace, amd: bool) -> None:
    """SYSRET (REX.W) to 64-bit code at CPL 3. On AMD's CPUs (`amd`) SS gets a selector and nothing else, see `exact.transfers`."""
    target = m.get("rcx", 64)
    odd = ((m.get("efer", 64) & SCE) == 0) | (m.get("stepping", 32) != 0) | ((target << 16).sar(16) != target)
    odd = odd | ((m.get("r11", 64) & TF) != 0)  # it traps at once
    with m.when(odd | ((m.get("cs_selector", 64) & 3) != 0), likely=False):
        m.put("exit_detail", m.const(s.NATIVE_FALLBACK + 2, 32))
        leave(m, s.EXIT_INSTRUCTION)
    saved = m.get("r11", 64)
    flags.write(m, saved)
    new = (saved & 0x3C7FD7 & ~flags.STATUS) | 2
    m.put("rflags", new)
    base = (m.get("star", 64) >> 48) & 0xFFFF
    m.put("cs_selector", (base + 16) | 3)
    m.put("cs_attributes", m.const(0xA0FB, 32))
    m.put("cs_base", m.const(0, 64))
    m.put("cs_limit", m.const(0xFFFFFFFF, 32))
    m.put("ss_selector", (base + 8) & 0xFFFF if amd else (base + 8) | 3)
    if not amd:
        m.put("ss_attributes", m.const(0xC0F3 | DATA_RIGHTS, 32))
        m.put("ss_base", m.const(0, 64))
        m.put("ss_limit", m.const(0xFFFFFFFF, 32))
    m.put("mode", user_mode(m, new))
    m.put("bus_lock_trap", ((m.get("debugctl", 64) & 4) != 0).zext(32))
    notice_flags(m, new)
    go_on(m, target)


FUNCTIONS = {"system_host": (system_host, 64, 3)}
FLOWS: dict[str, Callable[[Trace], None]] = {
    "deliver": deliver,
    "interrupt": partial(deliver, external=True),
    "int3": int3,
    "iret64": iret64,
    "syscall": syscall,
    "sysret": partial(sysret, amd=False),
    "sysret_amd": partial(sysret, amd=True),
}
