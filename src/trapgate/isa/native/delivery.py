"""Delivery of exceptions and interrupts in 64-bit mode, plainly: gates to ring 0 (SDM vol. 3, 7.12-7.14).

Whatever is not plain leaves for Python (`exact.interrupts`) before anything has changed.
"""

from collections.abc import Callable
from functools import partial

from trapgate.arch import vectors
from trapgate.arch.control import EFER_LMA
from trapgate.arch.flags import FIXED, IF, NT, RF, TF, VM
from trapgate.isa import flags
from trapgate.isa import state as s
from trapgate.isa.native.flows import leave
from trapgate.isa.native.segments64 import GiveUp, code_descriptor, cpl_of, is_canonical, put_code, put_mode, put_null_stack
from trapgate.isa.vocabulary import Trace, Value

GATE_BYTES = 16
GATE_MATTERS, INTERRUPT_GATE = 0x9E, 0x8E  # of its type byte: present, a system descriptor, interrupt or trap gate
TRAP_GATE = 1  # the bit that tells the two apart
FRAME_BYTES = 40  # RIP, CS, RFLAGS, RSP, SS
RSP0, IST = 4, 0x1C  # offsets in the TSS, of the stack for ring 0 and (less 8) of the first of the interrupt stacks
# Whose return address lies behind the instruction, so that the pushed RF is 0 (SDM vol. 3, 6.5 and 18.3.1.1).
TRAPS = (vectors.DB, vectors.BP, vectors.OF, vectors.DF, vectors.MC)


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


def system_frame(m: Trace, address: Value, size: Value, write: int) -> tuple[Value, Callable[[Value], Value]]:
    """(1-bit: not plain, the host address at an offset) of an implicit supervisor access in quadwords, in one page or two."""
    first = m.const(4096, 64) - (address & 0xFFF)
    crosses = size.ugt(first)
    low = m.call("system_host", 64, address, crosses.select(first, size), m.const(write, 64))
    beyond = m.variable(64, low)  # where the second page's part would begin, were it as long as the whole
    with m.when(crosses, likely=False):
        beyond.set(0)
        with m.when((low != 0) & ((address & 7) == 0)):
            high = m.call("system_host", 64, address + first, size - first, m.const(write, 64))
            beyond.set((high == 0).select(high, high - first))
    return beyond.value == 0, lambda offset: offset.ult(first).select(low, beyond.value) + offset


def hard(m: Trace) -> None:
    """Leave the delivery to Python."""
    leave(m, s.EXIT_DELIVER)


def deliver(m: Trace, external: bool = False) -> None:
    """Deliver the fault prepared in `fault_*`; RIP is on the instruction (behind it for bus locks). INT3 pushes what follows it.

    `external`: an interrupt between two instructions; the pushed RF is as it is.
    """
    m.put("count_exceptions", m.get("count_exceptions", 64) + 1)
    plain = ((m.get("efer", 64) & EFER_LMA) != 0) & (m.get("stepping", 32) == 0) & (m.get("fault_delivering", 32) == 0)
    plain = plain & (m.get("fault_has_error", 32) != s.NOT_CANONICAL) & (m.get("caught", 32) == 0)
    with m.when(~plain, likely=False):
        hard(m)
    vector = m.get("fault_vector", 32).zext(64)
    with m.when(((vector * GATE_BYTES) + (GATE_BYTES - 1)).ugt(m.get("idt_limit", 64)), likely=False):
        hard(m)
    # a fault inside here must not disturb the one under way: Python starts again from scratch
    cr2, error, has_error = m.get("cr2", 64), m.get("fault_error", 32), m.get("fault_has_error", 32)

    def give_up() -> None:
        m.put("cr2", cr2)
        m.put("fault_vector", vector.trunc(32))
        m.put("fault_error", error)
        m.put("fault_has_error", has_error)
        hard(m)

    low, target = _gate(m, vector, give_up)
    selector = (low >> 16) & 0xFFFF
    attributes = code_descriptor(m, selector, 0, give_up)
    outer = cpl_of(m) != 0
    stack = _stack(m, outer, (low >> 32) & 7, give_up)
    size = m.const(FRAME_BYTES, 64) + (has_error.zext(64) << 3)
    bottom = (stack & ~m.const(15, 64)) - size
    missing, place = system_frame(m, bottom, size, s.ACCESS_WRITE)
    with m.when(missing, likely=False):
        give_up()
    # nothing can fail any more
    m.put("cr2", cr2)
    with m.when(has_error != 0):
        m.store(place(m.const(0, 64)), error.zext(64))
    _push(m, lambda n: place((has_error.zext(64) << 3) + 8 * n), *_return_state(m, vector, external))
    m.put("rsp", bottom)
    put_code(m, selector & 0xFFFC, attributes)
    with m.when(outer):
        put_null_stack(m, 0)
    trap_gate = ((low >> 40) & TRAP_GATE) != 0
    clear = m.const(TF | NT | RF | VM, 64) | trap_gate.select(m.const(0, 64), m.const(IF, 64))
    put_mode(m, m.get("rflags", 64) & ~clear, 0)
    m.put("rip", target)
    with m.when(m.get("request", 32) != 0, likely=False):  # a handler that cannot be fetched never comes to a block
        leave(m, s.EXIT_INTERRUPTED)
    m.jump("dispatch")


def _gate(m: Trace, vector: Value, give_up: GiveUp) -> tuple[Value, Value]:
    """(the lower half of an interrupt or trap gate, where it leads)."""
    at = m.call("system_host", 64, m.get("idt_base", 64) + vector * GATE_BYTES, m.const(GATE_BYTES, 64), m.const(0, 64))
    with m.when(at == 0, likely=False):
        give_up()
    low, high = m.load(at, 64), m.load(at + 8, 64)
    target = (low & 0xFFFF) | ((low >> 32) & 0xFFFF0000) | (high << 32)
    with m.when((((low >> 40) & GATE_MATTERS) != INTERRUPT_GATE) | ~is_canonical(target), likely=False):
        give_up()
    return low, target


def _stack(m: Trace, outer: Value, ist: Value, give_up: GiveUp) -> Value:
    """Where the frame's stack begins: an interrupt stack, that of ring 0, or the running one."""
    stack = m.variable(64, m.get("rsp", 64))
    with m.when(outer | (ist != 0)):
        slot = (ist != 0).select((ist << 3) + IST, m.const(RSP0, 64))
        with m.when((slot + 7).ugt(m.get("tr_limit", 32).zext(64)), likely=False):
            give_up()
        pointer = m.call("system_host", 64, m.get("tr_base", 64) + slot, m.const(8, 64), m.const(0, 64))
        with m.when(pointer == 0, likely=False):
            give_up()
        stack.set(m.load(pointer, 64))
    return stack.value


def _return_state(m: Trace, vector: Value, external: bool) -> tuple[Value, Value]:
    """(RIP, RFLAGS) as the frame has them."""
    old, rip = m.get("rflags", 64), m.get("rip", 64)
    if external:
        resume_flag = old & RF
    else:
        is_trap = m.const(0, 1)
        for trap in TRAPS:
            is_trap = is_trap | (vector == trap)
        resume_flag = is_trap.select(m.const(0, 64), m.const(RF, 64))
        rip = (vector == vectors.BP).select(m.get("next_rip", 64), rip)
    return rip, (old & ~m.const(RF, 64)) | flags.read(m) | FIXED | resume_flag


def _push(m: Trace, place: Callable[[int], Value], rip: Value, rflags: Value) -> None:
    """Write the frame, upwards from its lowest word."""
    words = (rip, m.get("cs_selector", 64), rflags, m.get("rsp", 64), m.get("ss_selector", 64))
    for n, word in enumerate(words):
        m.store(place(n), word)


def int3(m: Trace) -> None:
    """INT3: #BP behind the instruction. The gate must be open to the CPL; otherwise Python."""
    at = m.get("idt_base", 64) + vectors.BP * GATE_BYTES
    gate = m.call("system_host", 64, at, m.const(GATE_BYTES, 64), m.const(0, 64))

    def other() -> None:
        m.put("exit_detail", m.const(s.NATIVE_FALLBACK + 3, 32))
        leave(m, s.EXIT_INSTRUCTION)

    with m.when((gate == 0) | (m.get("stepping", 32) != 0) | ((m.get("efer", 64) & EFER_LMA) == 0), likely=False):
        other()
    dpl = (m.load(gate, 64) >> 45) & 3
    with m.when(dpl.ult(cpl_of(m)) | m.get("idt_limit", 64).ult((vectors.BP + 1) * GATE_BYTES - 1), likely=False):
        other()
    m.put("fault_vector", m.const(vectors.BP, 32))
    m.put("fault_error", m.const(0, 32))
    m.put("fault_has_error", m.const(0, 32))
    m.jump("deliver")


FUNCTIONS = {"system_host": (system_host, 64, 3)}
FLOWS: dict[str, Callable[[Trace], None]] = {"deliver": deliver, "interrupt": partial(deliver, external=True), "int3": int3}
