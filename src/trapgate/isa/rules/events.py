"""Takes an event to its handler in every mode: exceptions, interrupts, INT n.

Real mode: SDM vol. 3, 20.1.4. Protected mode: 6.12 and vol. 2, "INT n". Virtual-8086 mode: 20.2 and 20.3. Long mode: 6.14; APM
vol. 2, 8.9. Task gates raise #GP: hardware task switching is not offered.
"""

from trapgate.arch import vectors
from trapgate.arch.control import CR0_PE, CR4_VME, EFER_LMA
from trapgate.arch.flags import AC, FIXED, IF, IOPL, NT, RF, TF, VIF, VM
from trapgate.arch.segments import ATTR_DB, ATTR_L, TYPE_ACCESSED, SystemType
from trapgate.isa import flags, modes
from trapgate.isa.native.mode import has
from trapgate.isa.native.segments import Descriptor, is_canonical, level, rights
from trapgate.isa.rules.loading import (
    DATA_SEGMENTS,
    follow_long,
    gate_target,
    inner_stack,
    mark_accessed,
    part,
    put,
    put_found,
    put_null,
    put_paragraph,
    stack_target,
)  # fmt: skip
from trapgate.isa.rules.reading import Reading, Stack, Word, running_segment, running_stack, width_of
from trapgate.isa.vocabulary import Operand, Value
from trapgate.values import dataclass

HAS_ERROR, SOFTWARE, INT_N, KEEP_RF, SET_RF = 1, 2, 4, 8, 16
"""How an event comes: with an error code; by INT n and its like, so that gate privilege counts; by INT n itself, which virtual-8086
mode looks at; RF in the pushed flags as it stands, or 1, else 0."""
IDT_ERROR = 2  # error-code bit: the selector part is an IDT vector
GATES = (6, 7, 14, 15)  # 5, a task gate, is none
LONG_GATES = (SystemType.INTERRUPT_GATE, SystemType.TRAP_GATE)
TRAP_GATE = 1 << 40  # the bit that tells it from an interrupt gate
WIDE_GATE = 1 << 43
RSP0, IST1 = 4, 0x24  # offsets in the 64-bit TSS


@dataclass(frozen=True, slots=True)
class _Event:
    """What is delivered, in the words of a rule, and what its frame says."""

    vector: Value
    error: Value
    has_error: Value
    software: Value
    ext: Value  # bit 0 of the error code of a fault in the delivery (SDM vol. 3, 6.13)
    rip: Value
    rflags: Value

    @property
    def of_idt(self) -> Value:
        """The error code that names its gate."""
        return (self.vector << 3) | IDT_ERROR | self.ext


def enter_event(r: Reading) -> None:
    """enter_event(vector, error, how): push the frame, load CS:RIP, and SS:RSP where the level changes."""
    m = r.m
    vector, error, how = m.arguments
    software = has(how, SOFTWARE)
    old = m.get("rflags", 64) | flags.read(m) | FIXED
    resume = has(how, KEEP_RF).select(old & RF, has(how, SET_RF).select(m.const(RF, 64), m.const(0, 64)))
    rip = software.select(m.get("next_rip", 64), m.get("rip", 64))
    ext = software.select(m.const(0, 64), m.const(1, 64))
    event = _Event(vector, error, has(how, HAS_ERROR), software, ext, rip, (old & ~m.const(RF, 64)) | resume)
    with m.when(has(m.get("efer", 64), EFER_LMA)):
        _enter_long(r, event)
    with m.when(~has(m.get("cr0", 64), CR0_PE)):
        with m.when(((vector << 2) + 3).ugt(m.get("idt_limit", 64)), likely=False):
            r.gp(event.of_idt)
        _through_table(r, m.get("idt_base", 64) + (vector << 2), event.rip, event.rflags, m.const(0, 1))
    with m.when(has(how, INT_N) & has(old, VM)):
        _interrupt_8086(r, event)
    _enter_protected(r, event)


def _through_table(r: Reading, at: Value, rip: Value, pushed: Value, virtual: Value) -> None:
    """Through a vector of 4 bytes, IP and CS; `virtual`: VIF is cleared in the place of IF."""
    m = r.m
    target = r.read(at, 4)
    stack = running_stack(r, long=False)
    r.push(stack, [(None, word) for word in (pushed, m.get("cs_selector", 64), rip)], 2)
    r.commit(stack)
    put_paragraph(m, target >> 16)
    m.put("rip", target & 0xFFFF)
    cleared = virtual.select(m.const(VIF | TF | AC | RF, 64), m.const(IF | TF | AC | RF, 64))
    m.put("rflags", m.get("rflags", 64) & ~cleared)
    m.call("follow_mode", 0)
    r.done()


def _interrupt_8086(r: Reading, event: _Event) -> None:
    """INT n in virtual-8086 mode: IOPL < 3 refuses it unless CR4.VME redirects it (SDM vol. 3, 20.3.3)."""
    m = r.m
    old = m.get("rflags", 64)
    virtual = (old & IOPL) != IOPL
    with m.when(has(m.get("cr4", 64), CR4_VME)):
        limit = m.get("tr_limit", 32).zext(64)
        with m.when(limit.ult(0x67), likely=False):
            r.gp()
        # 32 bytes in front of the I/O bitmap: where a bit is 0, the interrupt goes to the 8086 program's own table
        at = r.read(m.get("tr_base", 64) + 0x66, 2) - 32 + (event.vector >> 3)
        with m.when(~at.sle(limit), likely=False):
            r.gp()
        with m.when(((r.read(m.get("tr_base", 64) + at, 1) >> (event.vector & 7)) & 1) == 0):
            shown = (event.rflags & ~m.const(IF, 64)) | IOPL | has(old, VIF).select(m.const(IF, 64), m.const(0, 64))
            _through_table(r, event.vector << 2, event.rip, virtual.select(shown, event.rflags), virtual)
    with m.when(virtual):
        r.gp()


def _check_gate(r: Reading, event: _Event, gate: Value, kinds: tuple[int, ...]) -> None:
    m = r.m
    fits = m.const(sum(1 << kind for kind in kinds), 64) >> ((gate >> 40) & 0x1F)
    refused = event.software & ((gate >> 45) & 3).ult(level(m))
    with m.when(((fits & 1) == 0) | refused, likely=False):
        r.gp(event.of_idt)
    with m.when(((gate >> 47) & 1) == 0, likely=False):
        r.fault(vectors.NP, event.of_idt)


def _enter_protected(r: Reading, event: _Event) -> None:
    m, ext = r.m, event.ext
    with m.when(((event.vector << 3) + 7).ugt(m.get("idt_limit", 64)), likely=False):
        r.gp(event.of_idt)
    gate = r.read(m.get("idt_base", 64) + (event.vector << 3), 8)
    _check_gate(r, event, gate, GATES)
    wide = has(gate, WIDE_GATE)
    offset = (gate & 0xFFFF) | wide.select((gate >> 32) & 0xFFFF0000, m.const(0, 64))
    code, cpl = gate_target(r, (gate >> 16) & 0xFFFF, ext)
    selector = (gate >> 16) & 0xFFFF
    virtual = has(m.get("rflags", 64), VM)
    with m.when(virtual & (cpl != 0), likely=False):
        r.gp(part(selector) | ext)
    outer = cpl.ult(level(m))
    pointer, error, stack_selector = m.variable(64, m.get("rsp", 64)), m.variable(64, ext), m.variable(64, 0)
    segment = [m.variable(64, value) for value in running_segment(m)]
    place, raw = m.variable(64, 0), m.variable(64, 0)
    with m.when(outer):
        new_selector, new_pointer = inner_stack(r, cpl, ext)
        found = stack_target(r, new_selector, cpl, vectors.TS, ext)
        for variable, value in zip(segment, (width_of(found.attributes), found.base, found.limit, found.attributes), strict=True):
            variable.set(value)
        for variable, value in ((pointer, new_pointer), (error, part(new_selector) | ext), (stack_selector, new_selector)):
            variable.set(value)
        place.set(found.at)
        raw.set(found.raw)
    with m.when(offset.ugt(code.limit), likely=False):
        r.gp(ext)
    stack = Stack(r, pointer.value, outer, error.value, [variable.value for variable in segment])
    words: list[Word] = [(virtual, m.get(f"{name}_selector", 64)) for name in ("gs", "fs", "ds", "es")]
    words += [(outer, m.get("ss_selector", 64)), (outer, m.get("rsp", 64)), (None, event.rflags)]
    words += [(None, m.get("cs_selector", 64)), (None, event.rip), (event.has_error, event.error)]
    for size, there in ((4, wide), (2, ~wide)):
        with m.when(there):
            r.push(stack, words, size)
    new = Descriptor(place.value, raw.value)
    with m.when(outer):
        mark_accessed(r, new)
    mark_accessed(r, code)
    _enter_code(r, code, part(selector) | cpl, gate, offset)
    with m.when(virtual):
        for name in DATA_SEGMENTS:
            put_null(m, name, m.const(0, 64))
    with m.when(outer):
        put_found(m, "ss", stack_selector.value, new)
    r.commit(stack)
    m.call("follow_mode", 0)
    r.done()


def _enter_code(r: Reading, code: Descriptor, selector: Value, gate: Value, offset: Value) -> None:
    m = r.m
    clear = m.const(TF | NT | RF | VM, 64) | has(gate, TRAP_GATE).select(m.const(0, 64), m.const(IF, 64))
    m.put("rflags", m.get("rflags", 64) & ~clear)
    put(m, "cs", selector, code.base, code.limit, code.attributes | TYPE_ACCESSED | rights(code))
    m.put("rip", offset)


def long_stack(r: Reading, at: Value, ext: Operand = 0) -> Value:
    """A stack pointer at this offset in the 64-bit TSS; #TS, or #SS when not canonical (SDM vol. 3, 6.14.4-5)."""
    m = r.m
    with m.when((at + 7).ugt(m.get("tr_limit", 32).zext(64)), likely=False):
        r.fault(vectors.TS, part(m.get("tr_selector", 64)) | ext)
    pointer = r.read(m.get("tr_base", 64) + at, 8)
    with m.when(~is_canonical(pointer), likely=False):
        r.fault(vectors.SS, ext)
    return pointer


def _enter_long(r: Reading, event: _Event) -> None:
    m, ext = r.m, event.ext
    with m.when(((event.vector << 4) + 15).ugt(m.get("idt_limit", 64)), likely=False):
        r.gp(event.of_idt)
    gate, high = r.read_two(m.get("idt_base", 64) + (event.vector << 4))
    _check_gate(r, event, gate, LONG_GATES)
    offset = (gate & 0xFFFF) | ((gate >> 32) & 0xFFFF0000) | (high << 32)
    selector = (gate >> 16) & 0xFFFF
    code, cpl = gate_target(r, selector, ext)
    with m.when(~code.has(ATTR_L) | code.has(ATTR_DB), likely=False):
        r.gp(part(selector) | ext)
    outer, ist = cpl.ult(level(m)), (gate >> 32) & 7
    pointer = m.variable(64, m.get("rsp", 64))
    with m.when(~has(m.get("mode", 32), modes.CODE64)):
        pointer.set(pointer.value & 0xFFFFFFFF)
    with m.when(outer | (ist != 0)):
        pointer.set(long_stack(r, (ist != 0).select((ist << 3) + (IST1 - 8), (cpl << 3) + RSP0), ext))
    with m.when(~is_canonical(offset), likely=False):
        r.gp(ext)
    stack = Stack(r, pointer.value & ~m.const(15, 64), cpl != 3, ext)
    frame = (m.get("ss_selector", 64), m.get("rsp", 64), event.rflags, m.get("cs_selector", 64), event.rip)
    r.push(stack, [*((None, word) for word in frame), (event.has_error, event.error)], 8)
    mark_accessed(r, code)
    _enter_code(r, code, part(selector) | cpl, gate, offset)
    with m.when(outer):
        put_null(m, "ss", cpl)
    r.commit(stack)
    follow_long(m, cpl)
    r.done()
